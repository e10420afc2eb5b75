"""One tool call of an agent: what it would change, whether it may run, and the running of it."""

from __future__ import annotations

import inspect
import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from attrs import evolve

from ally_plugins.contract.values.errors import GateRefused
from ally_plugins.host.sessions.toolcalls import Runner, carry_out

from .permission import Outcome

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import ToolCall, ToolResult
    from ally_plugins.contract.values.events import DiffPreview, Event

    from .run import Run

__all__ = ["CALL", "authorize", "run_call"]

_log: Final = logging.getLogger(__name__)

CALL: Final[ContextVar[str | None]] = ContextVar("ally_tool_call", default=None)
"""The tool call that runs, for what an agent that is started in it is part of."""

_ALLOWED: Final = Outcome(is_allowed=True)


async def authorize(run: Run, call: ToolCall, sensitivity: str | None, *, is_approved: bool) -> Outcome:
    """Decide whether a call may run; see `AgentWork.authorize`."""
    session = run.live.session
    if session.is_closed:
        return Outcome(is_allowed=False, reason="the host of the plugins has stopped, nobody can decide")
    diff = await _preview(run, call)
    ruling = await session.gate_tool_call(call)
    if is_approved:
        run.answered(call, is_allowed=not ruling.is_denied)
    if ruling.is_denied:
        return Outcome(is_allowed=False, reason=ruling.reason)
    if is_approved or (sensitivity is None and not ruling.needs_person):
        return _ALLOWED
    return await run.live.permission.decide(
        session,
        call,
        ruling,
        sensitivity=sensitivity,
        approve=run.approve,
        diff=diff,
        may_defer=run.can_defer,
        parent_id=run.about.get("parent_id"),
    )


async def _preview(run: Run, call: ToolCall) -> DiffPreview | None:
    preview = run.kit.preview
    if preview is None:
        return None
    try:
        diff = preview(call)
        found = await diff if inspect.isawaitable(diff) else diff
    except Exception:  # noqa: BLE001 - without a preview, the call is decided all the same
        _log.exception("the preview of %r failed; it goes on without one", call.tool_name)
        return None
    if found is None:
        return None
    found = evolve(found, call_id=call.call_id, **run.about)
    run.emit(found)
    return found


async def run_call(run: Run, call: ToolCall, runner: Runner) -> ToolResult:
    """Run a tool that may run, with its events and output transforms; see `toolcalls.carry_out`."""
    token = CALL.set(call.call_id)
    try:
        return await carry_out(_Told(run), call, runner, parent_id=run.about.get("parent_id"))
    finally:
        CALL.reset(token)


class _Told:
    """The session as a tool call needs it, where the host may have stopped meanwhile."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def emit(self, event: Event) -> None:
        self._run.emit(event)

    async def transform_tool_output(self, call: ToolCall, result: ToolResult) -> ToolResult:
        session = self._run.live.session
        if session.is_closed:
            raise GateRefused("the host of the plugins has stopped", plugin=None)
        return await session.transform_tool_output(call, result)
