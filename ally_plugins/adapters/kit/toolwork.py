"""One tool call of an agent: what it would change, whether it may run, and the running of it.

The order is that of `host.sessions.toolcalls`, in pieces, since a framework checks the arguments and asks the person in
between, or in another run.
"""

from __future__ import annotations

import inspect
import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from attrs import evolve

from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.contract.values.errors import GateRefused, HostError
from ally_plugins.host.sessions.toolcalls import OpenCall, OutputTransform, Postponed, Runner, not_run, refuse_unshown

from .permission import Outcome, Previewed

if TYPE_CHECKING:
    from .run import Run

__all__ = [
    "CALL",
    "answered_elsewhere",
    "authorize",
    "end_open_calls",
    "postpone",
    "refuse_call",
    "refused_elsewhere",
    "run_call",
    "transform_input",
]

_log: Final = logging.getLogger(__name__)

CALL: Final[ContextVar[str | None]] = ContextVar("ally_tool_call", default=None)
"""The tool call that runs, for what an agent that is started in it is part of."""

_ALLOWED: Final = Outcome(is_allowed=True)
_HOST_STOPPED: Final = "the host of the plugins has stopped, nobody can decide"


def _key(call: ToolCall) -> str:
    return call.call_id or call.tool_name


async def transform_input(run: Run, call: ToolCall) -> ToolCall:
    """Return the call that plugins made of one; see `AgentWork.transform_input`."""
    try:
        return await run.live.session.transform_tool_input(call)
    except GateRefused as refusal:  # nobody was to see the arguments before it had
        refuse_unshown(OpenCall(run.emit, call, run.parent_id), str(refusal))
        raise


async def refuse_call(run: Run, tool_name: str, why: str, call_id: str | None) -> str:
    """Deny a call that cannot be shown; see `AgentWork.refuse`."""
    session = run.live.session
    if session.is_closed:
        return not_run(_HOST_STOPPED).error or ""
    agent_id = run.about.get("agent_id")
    result = await session.refuse_call(tool_name, why, call_id=call_id, agent_id=agent_id, parent_id=run.parent_id)
    return result.error or ""


async def authorize(
    run: Run, call: ToolCall, sensitivity: str | None, *, is_approved: bool, is_resumed: bool
) -> Outcome:
    """Decide whether a call may run; see `AgentWork.authorize`."""
    if run.live.session.is_closed:
        return Outcome(is_allowed=False, reason=_HOST_STOPPED)
    if _key(call) in run.open_calls:
        raise HostError(f"the call {_key(call)!r} may run already; give each call of a run an id of its own")
    opened = _opened(run, call, is_started=is_resumed)
    opened.start()
    try:
        outcome = await _decide(run, call, sensitivity, is_approved=is_approved)
    except BaseException as error:
        opened.interrupt(error)
        raise
    if outcome.is_deferred:
        run.live.deferred[_key(call)] = opened
    elif outcome.is_allowed:
        run.open_calls[_key(call)] = opened
    else:
        opened.deny(outcome.reason, outcome.decision_id)
    return outcome


def _opened(run: Run, call: ToolCall, *, is_started: bool) -> OpenCall:
    """Return a call as it is open: a run before this one, in this host or another, may have emitted its start."""
    known = run.live.deferred.pop(_key(call), None)
    return OpenCall(run.emit, call, run.parent_id, is_started=is_started or known is not None)


async def _decide(run: Run, call: ToolCall, sensitivity: str | None, *, is_approved: bool) -> Outcome:
    session = run.live.session
    seen = await _preview(run, call)
    ruling = await session.gate_tool_call(call)
    if is_approved:
        run.live.permission.respond(run.emit, call, is_allowed=not ruling.is_denied, parent_id=run.parent_id)
    if ruling.is_denied:
        return Outcome(is_allowed=False, reason=ruling.reason, decision_id=ruling.decision_id)
    if is_approved or (sensitivity is None and not ruling.needs_person):
        return _ALLOWED
    return await run.live.permission.decide(
        session,
        call,
        ruling,
        sensitivity=sensitivity,
        approve=run.approve,
        preview=seen,
        may_defer=run.can_defer,
        parent_id=run.parent_id,
    )


async def _preview(run: Run, call: ToolCall) -> Previewed:
    """Return what a call would change, or why that is not known; a preview that fails is no denial.

    The gates see the call itself all the same, and the person is told that the preview is missing.
    """
    preview = run.kit.preview
    if preview is None:
        return Previewed()
    try:
        diff = preview(call)
        found = await diff if inspect.isawaitable(diff) else diff
        if found is None:
            return Previewed()
        found = evolve(found, call_id=call.call_id, **run.about)
    except Exception as error:  # noqa: BLE001 - whatever it is, the call is decided all the same
        _log.exception("the preview of %r failed; it is decided without one", call.tool_name)
        return Previewed(problem=f"the preview failed: {type(error).__name__}: {error}".removesuffix(": "))
    run.emit(found)
    return Previewed(found)


def refused_elsewhere(run: Run, call: ToolCall, reason: str) -> None:
    """Tell of a no that came from elsewhere; see `AgentWork.refused_elsewhere`."""
    run.live.permission.respond(run.emit, call, is_allowed=False, parent_id=run.parent_id)
    _opened(run, call, is_started=True).deny(reason)


def postpone(run: Run, call: ToolCall) -> None:
    """Leave a call open that may run, and does elsewhere; see `AgentWork.postpone`."""
    run.live.deferred[_key(call)] = _taken(run, call)


async def answered_elsewhere(run: Run, call: ToolCall, result: ToolResult) -> ToolResult:
    """Tell of a result that came from elsewhere; see `AgentWork.answered_elsewhere`."""
    known = run.live.deferred.get(_key(call))
    opened = _opened(run, call if known is None else known.call, is_started=True)
    return await opened.finish(result, _output_transform(run))


async def run_call(run: Run, call: ToolCall, runner: Runner) -> ToolResult:
    """Run a tool that may run; see `AgentWork.carry_out`."""
    opened = _taken(run, call)
    token = CALL.set(call.call_id)
    try:
        return await opened.carry_out(runner, _output_transform(run))
    except Postponed:
        run.live.deferred[_key(call)] = opened
        raise
    finally:
        CALL.reset(token)


def _taken(run: Run, call: ToolCall) -> OpenCall:
    """Take a call that may run, and is the one that was decided about, out of those that are open."""
    opened = run.open_calls.get(_key(call))
    if opened is None or opened.call != call:
        raise HostError(f"the call {_key(call)!r} was not allowed; carry out only what `authorize` has allowed, once")
    return run.open_calls.pop(_key(call))


def _output_transform(run: Run) -> OutputTransform:
    session = run.live.session

    async def transform(call: ToolCall, result: ToolResult) -> ToolResult:
        if session.is_closed:
            raise GateRefused("the host of the plugins has stopped", plugin=None)
        return await session.transform_tool_output(call, result)

    return transform


def end_open_calls(run: Run) -> None:
    """Emit the end of the calls that may have run and never did, since their run has ended."""
    while run.open_calls:
        _, opened = run.open_calls.popitem()
        opened.end(ToolResult(success=False, error="not run: the run has ended before"))
