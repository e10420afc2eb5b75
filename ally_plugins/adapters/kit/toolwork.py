"""The tool calls of one run: what each would change, whether it may run, and the running of it.

The order is that of `host.sessions.toolcalls`, in pieces, since a framework checks the arguments and asks the person in
between, or in another run.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from attrs import define, field

from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.contract.values.errors import GateRefused, HostError
from ally_plugins.host.sessions.toolcalls import OpenCall, Postponed, Previewed, not_run, refuse_unshown

from .permission import Outcome
from .run import Run

if TYPE_CHECKING:
    from ally_plugins.host.sessions.toolcalls import Runner

__all__ = ["CALL", "ToolWork"]

CALL: Final[ContextVar[str | None]] = ContextVar("ally_tool_call", default=None)
"""The tool call that runs, for what an agent that is started in it is part of."""

_ALLOWED: Final = Outcome(is_allowed=True)
_HOST_STOPPED: Final = "the host of the plugins has stopped, nobody can decide"


def _key(call: ToolCall) -> str:
    return call.call_id or call.tool_name


@define(eq=False)
class ToolWork(Run):
    """One run of an agent, with the tool calls in it; those that may run and have not ended are in `open_calls`."""

    tool_count: int = field(init=False, default=0)
    """The calls that were carried out."""

    async def transform_input(self, call: ToolCall) -> ToolCall:
        """Return a call with the arguments that plugins made of it, before they are checked.

        Raises GateRefused when one blocks: the call has been told as denied then, and must not run.
        """
        try:
            return await self.live.session.transform_tool_input(call)
        except GateRefused as refusal:  # nobody was to see the arguments before it had
            refuse_unshown(OpenCall(self.emit, call, self.parent_id), str(refusal))
            raise

    async def refuse(self, tool_name: str, why: str, call_id: str | None = None) -> str:
        """Deny a call of which no `ToolCall` can be made, for the reason `why`; return what the model is told."""
        session = self.live.session
        if session.is_closed:
            return not_run(_HOST_STOPPED).error or ""
        agent_id = self.about.get("agent_id")
        result = await session.refuse_call(tool_name, why, call_id=call_id, agent_id=agent_id, parent_id=self.parent_id)
        return result.error or ""

    async def authorize(
        self,
        call: ToolCall,
        *,
        sensitivity: str | None = None,
        is_approved: bool = False,
        is_resumed: bool = False,
    ) -> Outcome:
        """Decide whether a call with its final arguments may run: TOOL_CALL_START, DIFF_PREVIEW, gates, the person.

        A refused call is ended, as denied; one that is deferred stays open, for the run that goes on. `is_approved`
        says that a person has agreed already (to a deferred question): gates may still deny. `is_resumed` says that the
        call was made in an earlier run, which has emitted its start. Cancelling ends the call as interrupted. Raises
        HostError for a call whose id is open already.
        """
        if self.live.session.is_closed:
            return Outcome(is_allowed=False, reason=_HOST_STOPPED)
        if _key(call) in self.open_calls:
            raise HostError(f"the call {_key(call)!r} may run already; give each call of a run an id of its own")
        opened = self._opened(call, is_started=is_resumed)
        opened.start()
        try:
            outcome = await self._decide(opened, sensitivity, is_approved=is_approved)
        except BaseException as error:
            opened.interrupt(error)
            raise
        if outcome.is_deferred:
            self.live.deferred[_key(call)] = opened
        elif outcome.is_allowed:
            self.open_calls[_key(call)] = opened
        else:
            opened.deny(outcome.reason, outcome.decision_id)
        return outcome

    def _opened(self, call: ToolCall, *, is_started: bool) -> OpenCall:
        """Return a call as it is open: a run before this one, in this host or another, may have emitted its start."""
        known = self.live.deferred.pop(_key(call), None)
        return OpenCall(self.emit, call, self.parent_id, is_started=is_started or known is not None)

    async def _decide(self, opened: OpenCall, sensitivity: str | None, *, is_approved: bool) -> Outcome:
        session, call = self.live.session, opened.call
        seen = await opened.preview(self.kit.preview) if self.kit.preview is not None else Previewed()
        ruling = await session.gate_tool_call(call)
        if is_approved:
            self.live.permission.respond(self.emit, call, is_allowed=not ruling.is_denied, parent_id=self.parent_id)
        if ruling.is_denied:
            return Outcome(is_allowed=False, reason=ruling.reason, decision_id=ruling.decision_id)
        if is_approved or (sensitivity is None and not ruling.needs_person):
            return _ALLOWED
        return await self.live.permission.decide(
            session,
            call,
            ruling,
            sensitivity=sensitivity,
            approve=self.approve,
            preview=seen,
            may_defer=self.can_defer,
            parent_id=self.parent_id,
        )

    def refused_elsewhere(self, call: ToolCall, reason: str) -> None:
        """Tell of a no that came from elsewhere, to a question that an earlier run had deferred to this one."""
        self.live.permission.respond(self.emit, call, is_allowed=False, parent_id=self.parent_id)
        self._opened(call, is_started=True).deny(reason)

    def postpone(self, call: ToolCall) -> None:
        """Leave a call open that `authorize` has allowed, and that is carried out elsewhere, after this run."""
        self.live.deferred[_key(call)] = self._take_open(call)

    async def answered_elsewhere(self, call: ToolCall, result: ToolResult) -> ToolResult:
        """Tell of what came of a call that an earlier run had postponed; return what plugins made of the result."""
        known = self.live.deferred.get(_key(call))
        opened = self._opened(call if known is None else known.call, is_started=True)
        return await opened.finish(result, self._transform_output)

    async def carry_out(self, call: ToolCall, run: Runner) -> ToolResult:
        """Run a tool that `authorize` has allowed: the tool, output transforms, TOOL_CALL_END.

        Raises HostError, and runs nothing, for a call that nobody has allowed. Where `run` raises Postponed, since its
        tool waits for another run, so does this, and the call stays open.
        """
        self.tool_count += 1
        opened = self._take_open(call)
        token = CALL.set(call.call_id)
        try:
            return await opened.carry_out(run, self._transform_output)
        except Postponed:
            self.live.deferred[_key(call)] = opened
            raise
        finally:
            CALL.reset(token)

    def _take_open(self, call: ToolCall) -> OpenCall:
        """Take a call that may run, and is the one that was decided about, out of those that are open."""
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
        return await session.transform_tool_output(call, result)

    def end_open_calls(self) -> None:
        """Emit the end of the calls that may have run and never did, since their run has ended."""
        while self.open_calls:
            _, opened = self.open_calls.popitem()
            opened.end(ToolResult(success=False, error="not run: the run has ended before"))
