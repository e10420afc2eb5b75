"""The two times a host needs: Unix time for records, and steady time for budgets and deadlines."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "RecordedClock", "SystemClock"]


class Clock(Protocol):
    """Where a host takes the time from."""

    def time_ms(self) -> int:
        """Return Unix time in milliseconds."""
        ...

    def steady(self) -> float:
        """Return seconds that never run backward, for budgets."""
        ...


class SystemClock:
    """The machine's own time."""

    __slots__ = ()

    def time_ms(self) -> int:
        """Return Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    def steady(self) -> float:
        """Return seconds of the monotonic clock."""
        return time.monotonic()


class RecordedClock:
    """The time of a recording: it stands still until it is moved, and never runs backward."""

    __slots__ = ("_now_ms",)

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms

    def move_to(self, now_ms: int) -> None:
        """Set the time to `now_ms` (Unix, milliseconds); an earlier time than before is ignored."""
        self._now_ms = max(self._now_ms, now_ms)

    def time_ms(self) -> int:
        """Return the recorded time."""
        return self._now_ms

    def steady(self) -> float:
        """Return the recorded time in seconds."""
        return self._now_ms / 1000.0
