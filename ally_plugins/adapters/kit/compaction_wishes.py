"""The compactions that somebody wants of one session, and which of them is due.

Carrying one out is left to `compaction`.
"""

from __future__ import annotations

from typing import Final

from attrs import define, frozen

__all__ = ["COMPACT", "CompactionWish", "CompactionWishes"]

COMPACT: Final = "compact"
"""The action that asks for it, and the tool that a permission gate is asked about."""

AGAIN: Final = 5.0
"""Percentage points that usage must rise before a compaction that failed, or was refused, is tried again by itself."""


@frozen
class CompactionWish:
    """Somebody wants the conversation shortened: `person`, `host`, a plugin's name, or nobody (`threshold`)."""

    requested_by: str
    reason: str


@define(eq=False)
class CompactionWishes:
    """What is wished for in one session, and at which usage it was last tried. It lives as long as the session."""

    wish: CompactionWish | None = None
    tried_at: float | None = None
    """The usage in percent."""

    def due(self, usage: float | None, threshold: float | None) -> CompactionWish | None:
        """Return the wish for a compaction now, somebody's or the threshold's (percent); the first is taken up."""
        if self.wish is not None:
            wish, self.wish = self.wish, None
            return wish
        if usage is None or threshold is None or usage < threshold:
            return None
        if self.tried_at is not None and usage < self.tried_at + AGAIN:
            return None
        return CompactionWish("threshold", f"{usage:g} % of the context window is used")
