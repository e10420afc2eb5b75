"""Recorded time: timestamps as other programs write them, made into a clock that never runs backward."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

__all__ = ["TimestampClock", "parse_timestamp"]

# The year 2100. A damaged timestamp beyond it would stop the clock for the rest of the recording.
_LATEST_MS: Final = 4_102_444_800_000


def parse_timestamp(value: object) -> int | None:
    """Return Unix milliseconds for an ISO 8601 text or a number of milliseconds; None if it is neither.

    A text without an offset is taken as UTC.
    """
    if type(value) is str:
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            found = round(moment.timestamp() * 1000)
        except (ValueError, OverflowError):
            return None
    elif type(value) is int:  # not `isinstance`: True is no time
        found = value
    elif type(value) is float and 0 <= value <= _LATEST_MS:  # before `int`, which raises for NaN and infinity
        found = int(value)
    else:
        return None
    return found if 0 <= found <= _LATEST_MS else None


class TimestampClock:
    """The time of the latest record, in Unix ms; never goes back. Lives as long as one reading of a file."""

    def __init__(self, start: int = 0) -> None:
        self.now = start

    def read(self, timestamp: object) -> int:
        """Advance to `timestamp` and return the time; a missing, unreadable or earlier one leaves it as it is."""
        found = parse_timestamp(timestamp)
        if found is not None and found > self.now:
            self.now = found
        return self.now

    def tick(self, ms: int) -> int:
        """Advance by `ms` milliseconds and return the time: for recordings that carry no times."""
        self.now += ms
        return self.now
