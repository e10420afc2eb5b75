"""One project's folder: the conversations about it, what has changed, and when the tests are due. No host in here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["Project"]

LONGEST_WAIT: Final = 60.0
"""Seconds between runs that seem to set each other off: tests that write into their project cost one run a minute."""

FREE_ECHOES: Final = 2
"""Runs in a row that may follow changes of the same files during the run before: agents edit while tests run, too."""


@dataclass(slots=True, eq=False)
class Project:
    """Owned by the plugin for as long as a conversation is about the folder. `now` is in seconds.

    `told` has for each conversation the failure that its agent knows of, None for none.
    """

    folder: Path
    now: Callable[[], float]
    told: dict[str, str | None] = field(default_factory=dict)
    running: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the tests run, so that no two runs overlap."""
    telling: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while conversations are told: a watch that ended meanwhile would forget which of them know."""
    owner: str | None = None
    """The conversation that the watching task belongs to."""
    _changed: set[str] = field(default_factory=set)
    _changed_at: float = 0.0
    _is_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _is_other: asyncio.Event = field(default_factory=asyncio.Event)
    _last: frozenset[str] = frozenset()
    _ended_at: float = float("-inf")
    _echoes: int = 0

    def note(self, files: Iterable[str]) -> None:
        """Take changed files."""
        if not self._changed:
            self._changed_at = self.now()
        self._changed.update(files)
        self._is_changed.set()
        if not self._changed <= self._last:
            self._is_other.set()

    async def wait(self) -> None:
        """Wait until something has changed."""
        await self._is_changed.wait()

    def delay(self, quiet: float) -> float:
        """Return how many seconds to wait before the run that is due.

        Nearly always 0. What changed while the tests ran (or within `quiet` of their end, when that becomes known) and
        is the same as the last time may be the tests' own doing: the wait doubles with each such run.
        """
        is_echo = frozenset(self._changed) == self._last and self._changed_at <= self._ended_at + 2 * quiet + 0.2
        self._echoes = self._echoes + 1 if is_echo else 0
        return min(LONGEST_WAIT, 2.0 ** (self._echoes - FREE_ECHOES)) if self._echoes > FREE_ECHOES else 0.0

    async def wait_for_others(self, seconds: float) -> None:
        """Wait, until something changes that had not changed before the last run."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_other.wait()

    def take(self) -> frozenset[str]:
        """Return what has changed since the last run that begins now."""
        self._last, self._changed = frozenset(self._changed), set()
        self._is_changed.clear()
        self._is_other.clear()
        return self._last

    def ended(self) -> None:
        """Note that the run has ended."""
        self._ended_at = self.now()
