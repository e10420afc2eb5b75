"""Compaction of a conversation: older messages are summarised by the model, or dropped where that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic_ai_harness.compaction import FallbackCompaction, SlidingWindowCompaction, SummarizingCompaction

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.tools import RunContext

__all__ = ["ChatCompaction"]

_KEPT: Final = 8
"""Messages at the end that stay as they are: two or three steps of work."""


class ChatCompaction:
    """A compaction strategy for the adapter. `focus` is what the summary should keep; it is used once."""

    def __init__(self) -> None:
        self.focus: str | None = None
        # Their own triggers are for agents without the adapter, which asks plugins first and then calls `compact`.
        chain: list[Any] = [
            SummarizingCompaction[Any](max_messages=_KEPT, keep_messages=_KEPT, keep_user_messages=True),
            SlidingWindowCompaction[Any](max_messages=_KEPT, keep_messages=_KEPT),
        ]
        self._strategy: Final = FallbackCompaction[Any](chain)

    async def compact(self, messages: list[ModelMessage], ctx: RunContext[Any]) -> list[ModelMessage]:
        """Return the messages, compacted; the same where none is old enough.

        Cancelling it cancels the request to the model; the history is unchanged.
        """
        focus, self.focus = self.focus, None
        strategy = self._strategy.with_focus(focus) if focus is not None else self._strategy
        return await strategy.compact(messages, ctx)
