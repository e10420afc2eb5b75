"""Times as an operator writes them: an age such as 3d, or ISO 8601. Printing them is left to `text`."""

from __future__ import annotations

import re
from typing import Final

from ally_plugins.contract.values.errors import ConfigError

__all__ = ["parse_age", "parse_since"]

# 9 digits are 31 years in seconds; without a bound, Python refuses thousands of them with an error of its own.
_AGE: Final = re.compile(r"(\d{1,9})(s|m|h|d|w)\Z")
_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def parse_age(text: str) -> int:
    """Return a length of time such as 10m, 2h or 3d in ms. Raises ConfigError."""
    match = _AGE.match(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a length of time, expected a number and s, m, h, d or w, such as 3d")
    return int(match[1]) * _MS[match[2]]


def parse_since(text: str, now: int) -> int:
    """Return a point in time as Unix ms: an age before `now`, or ISO 8601, in the local zone unless it names one."""
    if _AGE.match(text.strip()):
        return now - parse_age(text)
    from datetime import datetime

    try:
        return int(datetime.fromisoformat(text.strip()).timestamp() * 1000)
    # The last two: a date that the platform has no timestamp for, such as the year 1.
    except (ValueError, OverflowError, OSError):
        expected = "expected 10m, 2h, 3d or a time such as 2026-03-01T10:00"
        raise ConfigError(f"{text!r} is not a time, {expected}", path="--since") from None
