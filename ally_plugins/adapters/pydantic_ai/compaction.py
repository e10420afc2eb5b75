"""Shortening the framework's history in the middle of a run, by a function or one of the harness's strategies."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pydantic_ai.messages import ModelMessage, ModelRequest

from .history import convert

if TYPE_CHECKING:
    from pydantic_ai.models import ModelRequestContext
    from pydantic_ai.tools import RunContext

    from ally_plugins.adapters.kit.work import AgentWork

__all__ = ["Compaction", "compacted"]


class Strategy(Protocol):
    """One of the harness's compaction strategies."""

    async def compact(self, messages: list[ModelMessage], ctx: RunContext[Any]) -> list[ModelMessage]:
        """Return the messages, shortened."""
        ...


Shorten: TypeAlias = Callable[[list[ModelMessage]], "Sequence[ModelMessage] | Awaitable[Sequence[ModelMessage]]"]
Compaction: TypeAlias = "Shorten | Strategy"
"""What shortens a history; the pairs of calls and results stay whole, and the last message is the request."""


async def compacted(work: AgentWork, ctx: RunContext[Any], request_context: ModelRequestContext) -> ModelRequestContext:
    """Shorten the history and the request that is about to be sent, if that is due.

    Cancelling leaves the history as it was. Raises nothing that the compaction raises: that is logged.
    """
    given: Compaction = work.kit.compact
    method = getattr(given, "compact", None)

    async def compact(messages: list[ModelMessage]) -> Sequence[ModelMessage]:
        made = method(messages, ctx) if method is not None else given(messages)  # type: ignore[operator]
        shorter = await made if isinstance(made, Awaitable) else made
        # In here, so that a wrong answer ends as a compaction that failed, and not the run.
        _check(shorter)
        return shorter

    # A copy: a compaction that fails half-way must leave the history as it was.
    shorter = await work.compacted(list(ctx.messages), convert, compact=compact)
    if shorter is None:
        return request_context
    # In place: the framework keeps this list, and goes on with it.
    ctx.messages[:] = shorter
    work.follow(ctx.messages, convert)
    return dataclasses.replace(request_context, messages=shorter)


def _check(messages: Any) -> None:
    if not isinstance(messages, (list, tuple)) or not messages or not isinstance(messages[-1], ModelRequest):
        found = type(messages).__name__ if not isinstance(messages, (list, tuple)) else f"{len(messages)} messages"
        text = f"the compaction returned {found}; expected a list of messages that ends with the request"
        raise TypeError(text)
