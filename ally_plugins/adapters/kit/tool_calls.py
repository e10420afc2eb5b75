"""The tool calls of one run: what each would change, whether it may run, and the running of it.

The order is that of `host.sessions.toolcalls`: around a function (`run_tool_call`), in two halves (`begin_call` and
`end_call`), and in pieces (`transform_input`, `authorize`, `carry_out`) for a framework that checks arguments itself.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypedDict, Unpack

from attrs import define, field, frozen

from ally_plugins.contract.tools.recorded_calls import arguments_of
from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.contract.values.errors import ArgumentsError, EventError, GateRefused, HostError
from ally_plugins.host.sessions.gates import ALLOWED
from ally_plugins.host.sessions.open_calls import (
    OpenCall,
    OpenCalls,
    PermissionOutcome,
    Postponed,
    Previewed,
    call_key,
    is_same_call,
    not_run,
)

from .context import enter_call, inside
from .run import AgentRun

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ally_plugins.host.sessions.open_calls import Check, Runner

__all__ = ["Answered", "CallDeferred", "CallOptions", "ToolCallRun", "UnshownCall"]

_log: Final = logging.getLogger(__name__)

_ALLOWED: Final = PermissionOutcome(is_allowed=True)
_HOST_STOPPED: Final = "the host of the plugins has stopped, nobody can decide"
_RUN_ENDED: Final = "the run that makes the call has ended"
_NOT_AGREED: Final = "the person did not agree"

Answered: TypeAlias = Callable[[ToolCall], bool | None]
"""What the person has answered to the question about a call with these arguments, None where they have not been asked.

Raises ArgumentsError for a yes that was given to other arguments."""

Sensitivity: TypeAlias = "str | Callable[[ToolCall], Awaitable[str | None]] | None"
"""How sensitive a call is, beside what the host author says of its tool, or what tells it of the final arguments."""


class CallOptions(TypedDict, total=False):
    """What may be said of a call that is about to begin, by name; `ToolCallRun.begin_call` says what each is."""

    check: Check | None
    sensitivity: Sensitivity
    is_approved: bool
    is_resumed: bool
    answered: Answered | None


@frozen
class UnshownCall:
    """A call of the model's that cannot be shown to plugins as it is, and why: it is refused."""

    tool_name: str
    call_id: str | None
    why: str


class CallDeferred(Exception):
    """Raised where a call waits for the person's answer, which comes in another run or step. It must not run now.

    `call` has its final arguments, `reason` says why the person is asked.
    """

    def __init__(self, call: ToolCall, reason: str) -> None:
        super().__init__(f"{call.tool_name} waits for the person: {reason}")
        self.call = call
        self.reason = reason


@define(eq=False)
class ToolCallRun(AgentRun):
    """One run of an agent, with the tool calls in it; those that may run and have not ended are in `open_calls`."""

    tool_count: int = field(init=False, default=0)
    """The calls that were carried out."""
    open_calls: OpenCalls = field(init=False, factory=OpenCalls)
    _running: dict[OpenCall, None] = field(init=False, factory=dict)
    """Those that `carry_out` runs."""

    # --- around a function, and in two halves ---

    def given_call(
        self, tool_name: str, arguments: Mapping[str, Any] | str | None, call_id: str | None
    ) -> ToolCall | UnshownCall:
        """Return a call as the model made it; `arguments` may be JSON text. Nothing else may stand in their place."""
        try:
            read = arguments_of({} if arguments is None or arguments == "" else arguments)
            return ToolCall(tool_name, read, call_id, self.about.get("agent_id"))
        except (ValueError, RecursionError, EventError) as error:
            return UnshownCall(tool_name, call_id, str(error))

    async def run_tool_call(
        self,
        call: ToolCall | UnshownCall,
        run: Runner,
        **how: Unpack[CallOptions],
    ) -> ToolResult:
        """Carry out one tool call, and return what the model is to see: the halves around `run`; see `begin_call`.

        What `run` raises is a result too. It raises Postponed where its tool has not run and goes on in another run or
        step (it has a question of its own): so does this, and the call stays open. Cancelling cancels `run`, and ends
        the call as interrupted. Raises CallDeferred as `begin_call` does.
        """
        begun = await self.admitted(call, **how)
        return begun if isinstance(begun, ToolResult) else await self.carry_out(begun, run)

    async def begin_call(
        self,
        call: ToolCall | UnshownCall,
        *,
        runs_here: bool = False,
        **how: Unpack[CallOptions],
    ) -> ToolCall | ToolResult:
        """Return the call that may run now, or the refusal for the model: run what is returned and nothing else.

        In order: input transforms; `check` of the arguments; TOOL_CALL_START; DIFF_PREVIEW; gates; the person, where a
        gate, `sensitivity` or the host author wants it. Then run it, and call `end_call`; one whose result never comes
        is ended with its run. `runs_here` says that its tool runs in this context, and a sub-agent that is opened there
        works for this call.

        A call that waits, or that its tool has put off, may come again in a step that is done anew, or in another run.
        It has begun; while it is the one that was decided on, that stands until the person speaks again. One with other
        arguments is decided anew. `is_resumed` says so of one that another process has begun. `is_approved` says that
        the person has agreed, to this call as it is known here: gates may still deny. `answered` says what the person
        has answered to the question about the call with its final arguments, where a framework brings that along.

        Raises CallDeferred for a question that is to wait (`can_defer`), HostError for a call whose id is open.
        Cancelling ends the call as interrupted, and it must not run.
        """
        begun = await self.admitted(call, **how)
        if isinstance(begun, ToolResult):
            # Kept, since some frameworks report a result for it all the same: the model is to see this one.
            self.open_calls.refuse(call.call_id or call.tool_name, begun)
            return begun
        opened = self.open_calls.find(begun)
        # The run was ended while gates or the person were awaited, and its calls with it.
        if opened is None:
            return not_run(_RUN_ENDED)
        if runs_here:
            enter_call(self, opened)
        self.tool_count += 1
        return opened.let_run()

    async def end_call(self, call_id: str, result: ToolResult) -> ToolResult:
        """Return what the model is to see of the result of a call that `begin_call` has let run; TOOL_CALL_END.

        `call_id` is the call's, or its tool's name where it has none. For a call that was refused this is the refusal,
        and of one that is not open, since nobody was asked about it or it has ended, the result is withheld. Cancelling
        ends the call as interrupted, and the result must not be shown.
        """
        try:
            opened = self.open_calls.take_running(call_id)
        except HostError as error:
            _log.error("the result of a call is withheld: %s", error)
            return ToolResult(success=False, error=f"the output is withheld: {error}")
        if isinstance(opened, ToolResult):
            return opened
        after = await opened.finish(result, self._transform_output)
        self._note_end(opened)
        return after

    def interrupt_call(self, call: ToolCall, error: BaseException) -> None:
        """End a call that `begin_call` has let run and whose tool was cut off, unless it has ended or was postponed."""
        if self.open_calls.find(call) is not None:
            self.open_calls.take(call).interrupt(error)

    async def admitted(
        self,
        given: ToolCall | UnshownCall,
        check: Check | None = None,
        sensitivity: Sensitivity = None,
        *,
        is_approved: bool = False,
        is_resumed: bool = False,
        answered: Answered | None = None,
    ) -> ToolCall | ToolResult:
        """Return the call that `carry_out` may run later on, or the refusal for the model; all else as `begin_call`."""
        if isinstance(given, UnshownCall):
            return ToolResult(success=False, error=await self.refuse(given.tool_name, given.why, given.call_id))
        if self.interruption_cause is not None:
            return not_run(f"the run is interrupted: {self.interruption_cause}")
        known = self.live.deferred.get(call_key(given))
        if known is not None and not is_same_call(known.given, given):
            known, is_approved = None, False  # the person has agreed to something else
        try:
            # One that was deferred is not transformed again: the person is to decide on the arguments that they saw.
            call = known.call if known is not None else await self.transform_input(given)
            if check is not None:
                check(call.arguments)
            answer = answered(call) if answered is not None else None
        except (GateRefused, ArgumentsError) as refusal:
            return not_run(str(refusal))
        if answer is False:
            self.refused_elsewhere(call, _NOT_AGREED)
            return not_run(_NOT_AGREED)
        is_approved, is_resumed = is_approved or answer is True, is_resumed or answer is True
        standing = known.outcome if known is not None and not is_approved else None
        if standing is not None and standing.is_deferred and self.can_defer and self.approve is None:
            raise CallDeferred(call, standing.reason)
        opened = self._opened(given, is_started=is_resumed)
        # Set afterwards, so that `given` stays what the model made: by it, the call is known when it comes again.
        opened.call = call
        is_standing = standing is not None and standing.is_allowed
        sensitivity = await sensitivity(call) if callable(sensitivity) else sensitivity
        outcome = await self._authorize(opened, sensitivity, is_approved=is_approved, is_standing=is_standing)
        if outcome.is_deferred:
            raise CallDeferred(call, outcome.reason)
        if outcome.is_allowed and self.interruption_cause is not None:  # meanwhile
            self.open_calls.remove(opened)
            outcome = PermissionOutcome(is_allowed=False, reason=f"the run is interrupted: {self.interruption_cause}")
            opened.end(not_run(outcome.reason))
        return call if outcome.is_allowed else not_run(outcome.reason)

    def _opened(self, call: ToolCall, *, is_started: bool = False) -> OpenCall:
        opened = OpenCall(self.emit_heard, call, self.parent_id, is_started)
        opened.failure = self.kit.tool_failure
        return opened

    # --- in pieces ---

    async def transform_input(self, call: ToolCall) -> ToolCall:
        """Return a call with the arguments that plugins made of it, before they are checked.

        Raises GateRefused when one blocks: its start and denied end have been emitted, and it must not run. Cancelling
        emits nothing.
        """
        session = self.live.session
        if session.passes("tool_input"):
            return call
        try:
            return await session.own_loop.run(session.transform_tool_input(call))
        except GateRefused as refusal:  # the transform may redact: no event may carry the arguments before it
            self._opened(call).deny_unshown(str(refusal))
            raise

    async def refuse(self, tool_name: str, reason: str, call_id: str | None = None) -> str:
        """Deny a call that cannot be shown to plugins as a `ToolCall`; return the text for the model.

        Cancelling before the deny is recorded emits nothing.
        """
        session = self.live.session
        if session.is_closed:
            return not_run(_HOST_STOPPED).error or ""
        agent_id = self.about.get("agent_id")
        result = await session.own_loop.run(
            session.refuse_call(tool_name, reason, call_id=call_id, agent_id=agent_id, parent_id=self.parent_id)
        )
        return result.error or ""

    async def admit_ungated(self, tools: Iterable[str]) -> None:
        """Name the agent's tools that the model's provider runs; call it before each request that has any.

        Raises GateRefused where a mandatory plugin gates them and the operator has not accepted it: the model must not
        be asked.
        """
        session, names = self.live.session, tuple(tools)
        if not names:
            return
        if session.is_closed:
            raise GateRefused(_HOST_STOPPED, plugin=None)
        await session.own_loop.run(session.admit_ungated(self.name, names))

    async def authorize(
        self,
        call: ToolCall,
        *,
        sensitivity: str | None = None,
        is_approved: bool = False,
        is_resumed: bool = False,
    ) -> PermissionOutcome:
        """Decide whether a call with its final arguments may run: TOOL_CALL_START, DIFF_PREVIEW, gates, the person.

        A refused call is ended, as denied; one that is deferred stays open, for the run that goes on. `is_approved`
        says that a person has agreed already (to a deferred question): gates may still deny. `is_resumed` says that the
        call was made in an earlier run, which has emitted its start. Cancelling ends the call as interrupted. Raises
        HostError for a call whose id is open already.
        """
        opened = self._opened(call, is_started=is_resumed)
        return await self._authorize(opened, sensitivity, is_approved=is_approved)

    async def _authorize(
        self, opened: OpenCall, sensitivity: str | None, *, is_approved: bool, is_standing: bool = False
    ) -> PermissionOutcome:
        """Decide about a call as `authorize` does; one that was allowed before, and `is_standing`, may run."""
        if self.live.session.is_closed:
            # Without events: a closed session takes none.
            return PermissionOutcome(is_allowed=False, reason=_HOST_STOPPED)
        # Before anything is awaited: of two calls with one id, the second is refused.
        self.open_calls.add(opened)
        # The host author's word comes first.
        sensitivity = self.kit.sensitivity(opened.call.tool_name) or sensitivity
        key = call_key(opened.call)
        # An earlier run, in this host or another, may have emitted its start.
        opened.is_started = self.live.deferred.pop(key, None) is not None or opened.is_started

        async def decide(call: ToolCall, previewed: Previewed) -> PermissionOutcome:
            if self.is_ended:
                return PermissionOutcome(is_allowed=False, reason=_RUN_ENDED)
            # No preview, gate or question again: the framework makes the step anew, and it was decided.
            if is_standing:
                return _ALLOWED
            return await self._decide(call, previewed, sensitivity, is_approved=is_approved)

        try:
            outcome = await opened.decide(decide, None if is_standing else self.kit.preview)
        except BaseException:
            self.open_calls.remove(opened)
            raise
        if not outcome.is_allowed:
            self.open_calls.remove(opened)
        if outcome.is_deferred:
            self.live.deferred[key] = opened
        return outcome

    async def _decide(
        self, call: ToolCall, previewed: Previewed, sensitivity: str | None, *, is_approved: bool
    ) -> PermissionOutcome:
        session = self.live.session
        # For an approved call too: a person's yes does not lift what a plugin forbids.
        is_free = session.passes("tool_call")
        ruling = ALLOWED if is_free else await session.own_loop.run(session.gate_tool_call(call))
        if is_approved:
            self.live.permission.respond(self.emit, call, is_allowed=not ruling.is_denied, parent_id=self.parent_id)
        if ruling.is_denied:
            return PermissionOutcome(is_allowed=False, reason=ruling.reason, decision_id=ruling.decision_id)
        if is_approved or (sensitivity is None and not ruling.needs_person):
            return _ALLOWED
        return await self.live.permission.decide(
            session,
            call,
            ruling,
            sensitivity=sensitivity,
            approve=self.approve,
            preview=previewed,
            may_defer=self.can_defer,
            parent_id=self.parent_id,
        )

    def refused_elsewhere(self, call: ToolCall, reason: str) -> None:
        """Emit the denial, and the call's end, of a question that an earlier run deferred and the host answered."""
        self.live.permission.respond(self.emit, call, is_allowed=False, parent_id=self.parent_id)
        self.live.deferred.pop(call_key(call), None)
        self._opened(call, is_started=True).deny(reason)

    def postpone(self, call: ToolCall) -> None:
        """Leave a call open that may run, for a tool that is run after this run, or that has put itself off."""
        self.live.deferred[call_key(call)] = self.open_calls.take(call)

    async def answered_elsewhere(self, call: ToolCall, result: ToolResult) -> ToolResult:
        """End a call that an earlier run postponed, with its result; return the result as transforms left it.

        Cancelling ends the call as interrupted.
        """
        deferred = self.live.deferred.pop(call_key(call), None)
        opened = self._opened(call if deferred is None else deferred.call, is_started=True)
        return await opened.finish(result, self._transform_output)

    async def carry_out(self, call: ToolCall, run: Runner) -> ToolResult:
        """Run a tool that may run: the tool, output transforms, TOOL_CALL_END.

        Runs nothing once the run has ended: the result says so. Raises HostError, and runs nothing, for a call that
        nobody has allowed. Raises Postponed where `run` does, since its tool waits for another run: the call stays
        open. Cancelling ends it as interrupted.
        """
        if self.is_ended:
            return not_run(_RUN_ENDED)
        opened = self.open_calls.take(call)
        self.tool_count += 1
        # `take` has removed it from `open_calls`: a run that ends meanwhile finds it here.
        self._running[opened] = None
        try:
            with inside(self, call.call_id):
                result = await opened.carry_out(run, self._transform_output)
        except Postponed:
            self.live.deferred[call_key(call)] = opened
            raise
        finally:
            del self._running[opened]
        self._note_end(opened)
        return result

    async def _transform_output(self, call: ToolCall, result: ToolResult) -> ToolResult:
        session = self.live.session
        if session.is_closed:
            # Withheld: the plugin that would have redacted it is gone.
            raise GateRefused("the host of the plugins has stopped", plugin=None)
        if session.passes("tool_output"):
            return result
        return await session.own_loop.run(session.transform_tool_output(call, result))

    def _note_end(self, ended: OpenCall) -> None:
        """Take note of what a call came to."""

    def end_open_calls(self) -> None:
        """Emit the end of the calls that are open, since their run has ended."""
        for opened in list(self._running):
            opened.end(ToolResult(success=False, error="interrupted: the run has ended before"))
        self.open_calls.close("the run has ended before")
