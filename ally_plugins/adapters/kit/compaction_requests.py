"""The compactions that were requested of one session, and which is due.

Carrying one out is left to `compaction`.
"""

from __future__ import annotations

from typing import Final

from attrs import define, frozen

__all__ = ["COMPACT", "CompactionRequest", "PendingCompactions"]

COMPACT: Final = "compact"
"""The name of the action that requests it, and of the tool in the permission request about it."""

AGAIN: Final = 5.0
"""Percentage points that usage must rise before the threshold requests one again that failed or was refused."""


@frozen
class CompactionRequest:
    """A request to shorten the conversation, by `person`, `host`, a plugin's name, or `threshold`, the usage itself."""

    requested_by: str
    reason: str


@define(eq=False)
class PendingCompactions:
    """The compaction that was requested of one session, and the last that was tried. Lives as long as the session."""

    pending: CompactionRequest | None = None
    tried_at: float | None = None
    """The usage in percent."""

    def due(self, usage: float | None, threshold: float | None) -> CompactionRequest | None:
        """Return, and forget, the pending request; else one of the threshold, if it is due. Both are in percent."""
        if self.pending is not None:
            request, self.pending = self.pending, None
            return request
        if usage is None or threshold is None or usage < threshold:
            return None
        if self.tried_at is not None and usage < self.tried_at + AGAIN:
            return None
        return CompactionRequest("threshold", f"{usage:g} % of the context window is used")
