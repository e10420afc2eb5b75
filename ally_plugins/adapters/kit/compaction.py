"""Shortening a conversation: its permission, what plugins add meanwhile, and its events.

How messages are shortened is the framework's or the host author's business: any callable from messages to messages.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ally_plugins.contract.values.conversation import ToolCall
from ally_plugins.contract.values.errors import error_text
from ally_plugins.contract.values.events import CompactionComplete, CompactionStart
from ally_plugins.contract.values.ids import new_id
from ally_plugins.contract.values.inert import inert

from .compaction_requests import COMPACT

if TYPE_CHECKING:
    from ally_plugins.host.sessions.mirror import Convert

    from .compaction_requests import CompactionRequest
    from .run import AgentRun

__all__ = ["SURVIVE_WAIT", "Compact", "shorten"]

_log: Final = logging.getLogger(__name__)

SURVIVE_WAIT: Final = 5.0
"""Seconds that plugins get to add what must survive, after COMPACTION_START."""

Compact: TypeAlias = Callable[[list[Any]], "Sequence[Any] | Awaitable[Sequence[Any]]"]
"""Returns the framework's messages, shortened; the pairs of calls and results whole, the last one a request."""


async def shorten(
    run: AgentRun,
    request: CompactionRequest,
    messages: list[Any],
    compact: Compact,
    convert: Convert,
) -> list[Any] | None:
    """Shorten messages and return them, None when a gate or the person refused, or it failed.

    In order: permission gates on the request `compact` (arguments `requested_by`, `reason`, `context_usage`), the
    person where one asks; COMPACTION_START; plugins get SURVIVE_WAIT seconds to handle it, and the messages that they
    add meanwhile enter at the step's safe point, behind what was shortened; `compact`; COMPACTION_COMPLETE.
    By the characters that `convert` finds in messages the usage is estimated, until the model counts again.

    What `compact` raises is logged, and None returned; a cancellation ends in COMPACTION_COMPLETE with an error.
    """
    usage = run.current_usage
    # Before permission: what is refused must not be requested again at the next step.
    run.live.compactions.tried_at = usage
    if not await _is_allowed(run, request, usage):
        return None
    run.emit(CompactionStart(**run.about))
    # A slow plugin does not hold up the conversation: what it adds later enters behind as any message.
    with suppress(TimeoutError):
        async with asyncio.timeout(SURVIVE_WAIT):
            await run.live.session.own_loop.run(run.live.session.drained())
    chosen = run.kit.compact
    strategy = getattr(chosen, "__name__", type(chosen).__name__)
    details: dict[str, Any] = {"old_context_usage": usage, "threshold": run.kit.compact_at, "strategy": strategy}
    try:
        made = compact(messages)
        shorter = list(await made if inspect.isawaitable(made) else made)
    # A cancellation too: COMPACTION_START has been emitted, and interfaces wait for its end.
    except BaseException as error:
        run.emit(CompactionComplete(error=True, error_message=error_text(error), **details, **run.about))
        if not isinstance(error, Exception):
            raise
        _log.exception("session %r could not be compacted; it goes on as it is", run.live.id)
        return None
    # Only a ratio: what the framework's messages are worth in tokens is not known here.
    before = _measure(messages, convert)
    after = usage * min(_measure(shorter, convert) / before, 1.0) if usage is not None and before else None
    run.context_usage = None if after is None else round(after, 2)
    run.live.compactions.tried_at = run.context_usage
    run.emit(CompactionComplete(new_context_usage=run.context_usage, **details, **run.about))
    return shorter


def _measure(messages: Iterable[Any], convert: Convert) -> int:
    """Return the characters that messages hold: near enough to say what share of them is left."""
    return sum(len(each.content) for message in messages for each in convert(message))


async def _is_allowed(run: AgentRun, request: CompactionRequest, usage: float | None) -> bool:
    arguments = {"requested_by": request.requested_by, "reason": request.reason, "context_usage": usage}
    call = ToolCall(COMPACT, arguments, new_id("c"))
    outcome = await run.live.permission.veto(run.live.session, call, run.approve)
    if not outcome.is_allowed:
        _log.info("session %r is not compacted: %s", run.live.id, inert(outcome.reason))
    return outcome.is_allowed
