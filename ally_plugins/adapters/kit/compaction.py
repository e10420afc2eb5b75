"""Shortening a conversation: who may stop it, what must survive it, and the events of it.

How messages are shortened is the framework's or the host author's business: any callable from messages to messages.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from attrs import define, frozen

from ally_plugins.contract.values.conversation import ToolCall
from ally_plugins.contract.values.events import CompactionComplete, CompactionStart
from ally_plugins.contract.values.ids import new_id

if TYPE_CHECKING:
    from .work import AgentWork

__all__ = ["COMPACT", "SURVIVE_WAIT", "Compact", "CompactionWish", "Compactor"]

_log: Final = logging.getLogger(__name__)

COMPACT: Final = "compact"
"""The action that asks for it, and the tool that a permission gate is asked about."""

SURVIVE_WAIT: Final = 5.0
"""Seconds that plugins get to say what must survive, once they have heard COMPACTION_START."""

AGAIN: Final = 5.0
"""Percentage points that usage must rise before a compaction that failed, or was refused, is tried again by itself."""

Compact: TypeAlias = Callable[[list[Any]], "Sequence[Any] | Awaitable[Sequence[Any]]"]
"""Returns the framework's messages, shortened; the pairs of calls and results whole, the last one a request."""


@frozen
class CompactionWish:
    """Somebody wants the conversation shortened: `person`, `host`, a plugin's name, or nobody (`threshold`)."""

    requested_by: str
    reason: str


@define(eq=False)
class Compactor:
    """The compactions of one session: what is wished for, and what was tried. It lives as long as the session."""

    wish: CompactionWish | None = None
    _tried_at: float | None = None

    def due(self, usage: float | None, threshold: float | None) -> CompactionWish | None:
        """Return the wish for a compaction now, somebody's or the threshold's (percent); the first is taken up."""
        if self.wish is not None:
            wish, self.wish = self.wish, None
            return wish
        if usage is None or threshold is None or usage < threshold:
            return None
        if self._tried_at is not None and usage < self._tried_at + AGAIN:
            return None
        return CompactionWish("threshold", f"{usage:g} % of the context window is used")

    async def run(
        self,
        work: AgentWork,
        wish: CompactionWish,
        messages: list[Any],
        compact: Compact,
        *,
        measure: Callable[[Sequence[Any]], int],
        strategy: str | None = None,
    ) -> list[Any] | None:
        """Shorten messages and return them, None when a gate or the person refused, or it failed.

        In order: permission gates on the request `compact` (arguments `requested_by`, `reason`, `context_usage`), the
        person where one asks; COMPACTION_START; plugins get SURVIVE_WAIT seconds to hear it, and the messages that they
        add meanwhile enter at the step's safe point, behind what was shortened; `compact`; COMPACTION_COMPLETE.
        `measure` tells how long messages are, for the usage afterwards until the model counts again.
        """
        usage = work.usage_now
        self._tried_at = usage
        if not await self._may(work, wish, usage):
            return None
        work.emit(CompactionStart(**work.about))
        with suppress(TimeoutError):
            async with asyncio.timeout(SURVIVE_WAIT):
                await work.live.session.drained()
        told: dict[str, Any] = {"old_context_usage": usage, "threshold": work.kit.compact_at, "strategy": strategy}
        try:
            made = compact(messages)
            shorter = list(await made if inspect.isawaitable(made) else made)
        except BaseException as error:
            why = f"{type(error).__name__}: {error}".removesuffix(": ")
            work.emit(CompactionComplete(error=True, error_message=why, **told, **work.about))
            if not isinstance(error, Exception):
                raise
            _log.exception("session %r could not be compacted; it goes on as it is", work.live.id)
            return None
        before = measure(messages)
        after = usage * min(measure(shorter) / before, 1.0) if usage is not None and before else None
        work.context_usage = None if after is None else round(after, 2)
        self._tried_at = work.context_usage
        work.emit(CompactionComplete(new_context_usage=work.context_usage, **told, **work.about))
        return shorter

    @staticmethod
    async def _may(work: AgentWork, wish: CompactionWish, usage: float | None) -> bool:
        arguments = {"requested_by": wish.requested_by, "reason": wish.reason, "context_usage": usage}
        call = ToolCall(COMPACT, arguments, new_id("c"))
        outcome = await work.live.permission.veto(work.live.session, call, work.approve)
        if not outcome.is_allowed:
            _log.info("session %r is not compacted: %s", work.live.id, outcome.reason)
        return outcome.is_allowed
