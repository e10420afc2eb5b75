"""What a journal keeps, how long, and how much: as the operator has settled it."""

from __future__ import annotations

from typing import Final, Literal

from attrs import frozen

__all__ = ["DAY_MS", "DEFAULT_DAYS", "DEFAULT_MEGABYTES", "Keeping"]

DAY_MS: Final = 24 * 3600 * 1000
DEFAULT_DAYS: Final = 30
DEFAULT_MEGABYTES: Final = 1024
"""Some 300,000 tool calls with their outputs; a year of one person's work with agents, were it not for the days."""


@frozen(kw_only=True)
class Keeping:
    """The contents of prompts, arguments and outputs in `full` or only what they were (`metadata`), for how long.

    After `days`, and from the oldest on once the file has more than `megabytes`, contents are removed; 0 is no limit.
    Who did what when, and what the operator has settled, stays.
    """

    content: Literal["full", "metadata"] = "full"
    days: int = DEFAULT_DAYS
    megabytes: int = DEFAULT_MEGABYTES
