"""How full the context of a Claude Code session is, and its compactions, whose outcome is recorded later."""

from __future__ import annotations

from typing import Any

from attrs import define, field

from .content import text_of
from .held_steps import HeldSteps
from .steps import CompactionCompleted, CompactionStarted, Usage, percent_of

__all__ = ["ContextUse"]


@define
class ContextUse:
    """State between records. Lives as long as one reading of a file; steps are added to `out`."""

    context_window: int
    out: HeldSteps
    percent: float | None = field(init=False, default=None)
    compaction: CompactionCompleted | None = field(init=False, default=None)

    def used(self, now: int, tokens: int) -> None:
        """Add how full the context was with an answer; a compaction before it is complete."""
        percent = self.percent = percent_of(tokens, self.context_window)
        self.settle(now, percent)
        self.out.add(Usage(now, percent, tokens))

    def compact(self, now: int, details: Any) -> None:
        """Begin a compaction; `details` may say how full the context was before and after it."""
        self.settle(now)
        self.out.add(CompactionStarted(now))
        details = details if type(details) is dict else {}
        old, new = self._percent_of(details.get("preTokens")), self._percent_of(details.get("postTokens"))
        strategy = text_of(details, "trigger") or None
        self.compaction = CompactionCompleted(now, self.percent if old is None else old, new, strategy=strategy)
        if new is not None:
            self.settle(now, new)

    def settle(self, now: int, new_percent: float | None = None) -> None:
        """Complete a compaction: its outcome is recorded only as the usage of the next answer."""
        done, self.compaction = self.compaction, None
        if done is not None:
            self.out.add(CompactionCompleted(now, done.old_percent, new_percent, strategy=done.strategy))

    def _percent_of(self, tokens: Any) -> float | None:
        return percent_of(tokens, self.context_window) if type(tokens) is int and tokens >= 0 else None
