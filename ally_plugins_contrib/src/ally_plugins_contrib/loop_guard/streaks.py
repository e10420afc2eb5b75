"""Which calls of one agent fail again and again, and what ends such a streak. No host in here.

A streak ends when the call succeeds, when something succeeds that the agent has not done before (another approach: an
edited file, a page not yet read), or when a person speaks. Another *failing* call ends nothing, so that an agent that
alternates between two failing calls is noticed; nor does a success that it has had before, such as looking at the same
status again and again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ally_plugins_contrib.memory import Recent

__all__ = ["Failing", "Streaks", "fingerprint"]

MAX_OPEN: Final = 256
"""Calls that have begun and not ended; agents run a handful at once, the rest has lost its end."""

MAX_REMEMBERED: Final = 64
"""Different calls remembered of each kind. A loop of more different calls than this is none that one would notice."""


@dataclass(slots=True)
class Failing:
    """A call that failed: how often, and whether the agent was told."""

    tool_name: str
    count: int = 0
    is_told: bool = False


@dataclass(slots=True)
class Streaks:
    """What one agent has tried lately."""

    _open: Recent[str, str] = field(default_factory=lambda: Recent(MAX_OPEN))
    _failing: Recent[str, Failing] = field(default_factory=lambda: Recent(MAX_REMEMBERED))
    _succeeded: Recent[str, None] = field(default_factory=lambda: Recent(MAX_REMEMBERED))

    def started(self, tool_name: str, arguments: Mapping[str, Any], call_id: str | None) -> None:
        """Remember which call this is, since its end does not repeat the arguments."""
        self._open.put(_key(tool_name, call_id), fingerprint(tool_name, arguments))

    def ended(self, tool_name: str, call_id: str | None, *, success: bool) -> Failing | None:
        """Take the end of a call; return the streak that a failure adds to."""
        mark = self._open.pop(_key(tool_name, call_id), None)
        if mark is None:
            return None
        if success:
            self._succeed(mark)
            return None
        failing = self._failing.get(mark) or Failing(tool_name)
        failing.count += 1
        self._failing.put(mark, failing)
        self._succeeded.pop(mark, None)
        return failing

    def denied(self, tool_name: str, call_id: str | None) -> None:
        """Forget a call that did not run: it has neither failed nor succeeded."""
        self._open.pop(_key(tool_name, call_id), None)

    def failures(self, tool_name: str, arguments: Mapping[str, Any]) -> int:
        """Return how often this very call has failed in its streak."""
        failing = self._failing.get(fingerprint(tool_name, arguments))
        return failing.count if failing is not None else 0

    def reset(self) -> None:
        """Begin anew: a person has spoken. Calls that are still running keep their marks."""
        self._failing.clear()
        self._succeeded.clear()

    def _succeed(self, mark: str) -> None:
        if mark in self._failing or mark not in self._succeeded:
            self._failing.clear()
        self._succeeded.put(mark, None)


def fingerprint(tool_name: str, arguments: Mapping[str, Any]) -> str:
    """Return the same short text for the same tool and arguments, in whatever order these were written."""
    try:
        text = json.dumps([tool_name, arguments], sort_keys=True, separators=(",", ":"), default=str)
    except (ValueError, TypeError, RecursionError):  # an integer of thousands of digits, keys of several types
        text = f"{tool_name} {sorted(map(str, arguments))}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _key(tool_name: str, call_id: str | None) -> str:
    return f"id:{call_id}" if call_id is not None else f"tool:{tool_name}"
