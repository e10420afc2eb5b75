"""The tool calls of one run: what each would change, whether it may run, and the running of it.

The order is that of `host.sessions.toolcalls`, in pieces, since a framework checks the arguments and gets approval in
between, or in another run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, field

from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.contract.values.errors import GateRefused, HostError
from ally_plugins.host.sessions.toolcalls import OpenCall, Postponed, Previewed, not_run, refuse_unshown

from .context import inside
from .permission import PermissionOutcome
from .run import AgentRun

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ally_plugins.host.sessions.toolcalls import Runner

__all__ = ["ToolCallRun"]

_ALLOWED: Final = PermissionOutcome(is_allowed=True)
_HOST_STOPPED: Final = "the host of the plugins has stopped, nobody can decide"
_RUN_ENDED: Final = "the run that makes the call has ended"


def _key(call: ToolCall) -> str:
    return call.call_id or call.tool_name


@define(eq=False)
class ToolCallRun(AgentRun):
    """One run of an agent, with the tool calls in it; those that may run and have not ended are in `open_calls`."""

    tool_count: int = field(init=False, default=0)
    """The calls that were carried out."""

    async def transform_input(self, call: ToolCall) -> ToolCall:
        """Return a call with the arguments that plugins made of it, before they are checked.

        Raises GateRefused when one blocks: its start and denied end have been emitted, and it must not run. Cancelling
        emits nothing.
        """
        try:
            return await self.live.session.own_loop.run(self.live.session.transform_tool_input(call))
        except GateRefused as refusal:  # the transform may redact: no event may carry the arguments before it
            refuse_unshown(OpenCall(self.emit, call, self.parent_id), str(refusal))
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
        if self.live.session.is_closed:
            return PermissionOutcome(is_allowed=False, reason=_HOST_STOPPED)
        if _key(call) in self.open_calls:
            raise HostError(f"the call {_key(call)!r} may run already; give each call of a run an id of its own")
        opened = self._open(call, is_started=is_resumed)
        opened.start()
        if self.is_ended:
            opened.deny(_RUN_ENDED)
            return PermissionOutcome(is_allowed=False, reason=_RUN_ENDED)
        try:
            outcome = await self._decide(opened, sensitivity, is_approved=is_approved)
        except BaseException as error:
            opened.interrupt(error)
            raise
        if self.is_ended:  # meanwhile: whoever carries it out would do so for nobody
            opened.end(not_run(_RUN_ENDED))
            return PermissionOutcome(is_allowed=False, reason=_RUN_ENDED)
        if outcome.is_deferred:
            self.live.deferred[_key(call)] = opened
        elif outcome.is_allowed:
            self.open_calls[_key(call)] = opened
        else:
            opened.deny(outcome.reason, outcome.decision_id)
        return outcome

    def _open(self, call: ToolCall, *, is_started: bool) -> OpenCall:
        """Return a call as open; an earlier run, in this host or another, may have emitted its start."""
        deferred = self.live.deferred.pop(_key(call), None)
        return OpenCall(self.emit, call, self.parent_id, is_started=is_started or deferred is not None)

    async def _decide(self, opened: OpenCall, sensitivity: str | None, *, is_approved: bool) -> PermissionOutcome:
        session, call = self.live.session, opened.call
        previewed = await opened.preview(self.kit.preview) if self.kit.preview is not None else Previewed()
        ruling = await session.own_loop.run(session.gate_tool_call(call))
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
        self._open(call, is_started=True).deny(reason)

    def postpone(self, call: ToolCall) -> None:
        """Leave a call open that `authorize` has allowed, for a tool that the host author runs after this run."""
        self.live.deferred[_key(call)] = self._pop_open(call)

    async def answered_elsewhere(self, call: ToolCall, result: ToolResult) -> ToolResult:
        """End a call that an earlier run postponed, with its result; return the result as transforms left it.

        Cancelling ends the call as interrupted.
        """
        deferred = self.live.deferred.get(_key(call))
        opened = self._open(call if deferred is None else deferred.call, is_started=True)
        return await opened.finish(result, self._transform_output)

    async def carry_out(self, call: ToolCall, run: Runner) -> ToolResult:
        """Run a tool that `authorize` has allowed: the tool, output transforms, TOOL_CALL_END.

        Runs nothing once the run has ended: the result says so. Raises HostError, and runs nothing, for a call that
        nobody has allowed. Raises Postponed where `run`
        does, since its tool waits for another run: the call stays open. Cancelling ends it as interrupted.
        """
        if self.is_ended:
            return not_run(_RUN_ENDED)
        self.tool_count += 1
        opened = self._pop_open(call)
        try:
            with inside(self, call.call_id):
                return await opened.carry_out(run, self._transform_output)
        except Postponed:
            self.live.deferred[_key(call)] = opened
            raise

    def _pop_open(self, call: ToolCall) -> OpenCall:
        """Remove a call from those that are open, if it may run and has the arguments that were decided on."""
        opened = self.open_calls.get(_key(call))
        if opened is None or opened.call != call:
            raise HostError(
                f"the call {_key(call)!r} was not allowed; carry out only what `authorize` has allowed, once"
            )
        return self.open_calls.pop(_key(call))

    async def _transform_output(self, call: ToolCall, result: ToolResult) -> ToolResult:
        session = self.live.session
        if session.is_closed:
            raise GateRefused("the host of the plugins has stopped", plugin=None)
        return await session.own_loop.run(session.transform_tool_output(call, result))

    def end_open_calls(self) -> None:
        """Emit the end of the calls that may have run and never did, since their run has ended."""
        while self.open_calls:
            _, opened = self.open_calls.popitem()
            opened.end(ToolResult(success=False, error="not run: the run has ended before"))
