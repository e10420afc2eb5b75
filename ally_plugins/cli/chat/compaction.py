"""Compaction of a conversation: older messages are summarised by the model, or dropped where that fails."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from pydantic_ai.messages import ModelRequest, UserPromptPart
from pydantic_ai_harness.compaction import FallbackCompaction, SlidingWindowCompaction, SummarizingCompaction

from .offline.history_view import persons_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.tools import RunContext

__all__ = ["ChatCompaction"]

_KEPT: Final = 8
"""Messages at the end that stay as they are: two or three steps of work."""

_TURN: Final = 40
"""Messages of the turn at work that stay as they are; of a longer one only the person's words and the last `_KEPT`."""


class ChatCompaction:
    """A compaction strategy for the adapter. `focus` is what the summary should keep; it is used once."""

    def __init__(self) -> None:
        self.focus: str | None = None

    async def compact(self, messages: list[ModelMessage], ctx: RunContext[Any]) -> list[ModelMessage]:
        """Return the messages, compacted; the same where none is old enough.

        What the person said is in the summary but for their last words, which stand as they are: those are to be done,
        the earlier ones are not to be done again. Cancelling it cancels the request to the model; the history is
        unchanged.
        """
        focus, self.focus = self.focus, None
        last_words = _index_of_last_words(messages)
        # One more than the turn: an answer before it, or the framework joins the person's words to what is put there.
        turn = len(messages) - last_words + 1
        strategy = _strategy(max(_KEPT, turn) if turn <= _TURN else _KEPT)
        shorter = await (strategy.with_focus(focus) if focus is not None else strategy).compact(messages, ctx)
        if any(message is messages[last_words] for message in shorter):
            return shorter
        return [_words_of(messages[last_words]), *shorter]


def _strategy(kept: int) -> FallbackCompaction[Any]:
    # Their own triggers are for agents without the adapter, which asks plugins first and then calls `compact`.
    # Kept copies of what the person said would take the places of the messages that stay, and be done again.
    chain: list[Any] = [
        SummarizingCompaction[Any](max_messages=kept, keep_messages=kept, preserve_first_user_message=False),
        SlidingWindowCompaction[Any](max_messages=kept, keep_messages=kept, preserve_first_user_message=False),
    ]
    return FallbackCompaction[Any](chain)


def _index_of_last_words(messages: Sequence[ModelMessage]) -> int:
    """Return the index of the request with the person's last words; of the last message where there are none."""
    found = (i for i in range(len(messages) - 1, -1, -1) if persons_text(messages[i]) is not None)
    return next(found, len(messages) - 1)


def _words_of(message: ModelMessage) -> ModelMessage:
    """Return the person's part of a request."""
    if not isinstance(message, ModelRequest):
        return message
    return replace(message, parts=[part for part in message.parts if isinstance(part, UserPromptPart)])
