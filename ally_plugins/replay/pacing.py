"""The two times of a replay: the recorded one, which is the host's clock, and real time, which `--speed` waits for."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from ally_plugins.contract.values.compat import override
from ally_plugins.runtime.lanes.clock import Clock

__all__ = ["BETWEEN_RECORDINGS_S", "Pace", "ReplayClock"]

BETWEEN_RECORDINGS_S: Final = 3600.0
"""Steady time that passes between two recordings: budgets are full again, so that no file depends on the one before."""


class ReplayClock(Clock):
    """The recorded time while a recording is played, the machine's time before and after.

    Several recordings may have been made in any order: Unix time follows each of them, steady time only grows.
    """

    def __init__(self) -> None:
        self._now_ms: int | None = None
        self._steady = 0.0

    def begin(self, at: int) -> None:
        """Begin a recording whose first moment is `at` (Unix ms)."""
        self._now_ms = at
        self._steady += BETWEEN_RECORDINGS_S

    def move_to(self, at: int) -> None:
        """Advance the recorded time to `at` (Unix ms); an earlier time is ignored."""
        now = self._now_ms
        if now is not None and at > now:
            self._steady += (at - now) / 1000
            self._now_ms = at

    def end(self) -> None:
        """Go back to the machine's time."""
        self._now_ms = None

    @override
    def time_ms(self) -> int:
        """Return the recorded time, Unix ms."""
        return time.time_ns() // 1_000_000 if self._now_ms is None else self._now_ms

    @override
    def steady(self) -> float:
        """Return seconds of recorded time, of all recordings so far."""
        return self._steady


class Pace:
    """Waits until a recorded moment is due in real time, times `speed`; without a speed it never waits.

    Made when the first moment, `first_at` (Unix ms), is played.
    """

    def __init__(self, speed: float | None, first_at: int) -> None:
        self._speed = speed
        self._first_at = first_at
        self._began = asyncio.get_running_loop().time()

    async def wait_until(self, at: int) -> None:
        """Wait until the recorded moment `at` (Unix ms) is due. Cancelling stops the waiting and nothing else."""
        if self._speed is None:
            return
        passed = asyncio.get_running_loop().time() - self._began
        delay = (at - self._first_at) / 1000 / self._speed - passed
        if delay > 0:
            await asyncio.sleep(delay)
