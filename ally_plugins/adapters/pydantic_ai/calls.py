"""The tool calls of one run: their final arguments, whether they may run, and what came of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from attrs import frozen
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ModelRetry, SkipToolExecution, ToolFailed
from pydantic_ai.tools import DeferredToolResults, ToolApproved, ToolDenied
from pydantic_core import from_json

from ally_plugins.adapters.kit.answers import AnswerRefused
from ally_plugins.adapters.kit.kept_messages import MARK
from ally_plugins.adapters.kit.tool_calls import UnshownCall
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import ToolCall, ToolResult, evolve
from ally_plugins.contract.values.errors import GateRefused
from ally_plugins.host.sessions.open_calls import PermissionOutcome, Postponed, is_same_call

from .history import call_of_part
from .other_capabilities import CHANGES_ARGUMENTS, changed_arguments, takes_part
from .owners import todos_after, with_failure
from .results import ToolOutcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.capabilities.abstract import RawToolArgs
    from pydantic_ai.messages import ModelResponse, ToolCallPart
    from pydantic_ai.tools import DeferredToolRequests, RunContext, ToolDefinition
    from pydantic_ai.toolsets import ToolsetTool

    from ally_plugins.adapters.kit.work import AgentWork

__all__ = ["Calls"]

RunTool: TypeAlias = "Callable[[], Awaitable[Any]]"
"""What runs the tool of a call, with the arguments that the framework has checked."""

_NEEDS_APPROVAL: Final = "normal"
"""How sensitive a tool is of which the framework only says that it needs approval."""


@frozen
class _Prepared:
    """A call as the model made it, as transforms left it, and `args`: that as the framework's check is given it."""

    given: ToolCall
    final: ToolCall
    args: str | dict[str, Any]


class Calls:
    """The tool calls of one run; it lives as long as the run."""

    def __init__(self, work: AgentWork, capability: AbstractCapability[Any]) -> None:
        self._work = work
        self._capability = capability
        self._may_differ: bool | None = None
        self._prepared: dict[str, _Prepared] = {}
        self._approved: dict[str, ToolCall] = {}
        self._running: dict[str, _Prepared] = {}
        self._resumed: set[str] = set()
        self._postponed: set[str] = set()

    async def prepare(self, ctx: RunContext[Any], call: ToolCallPart, args: RawToolArgs) -> RawToolArgs:
        """Return the arguments as plugins' transforms leave them; the framework's check refuses what is no JSON object.

        It is given what plugins are shown, and not what that was read from, which may say more (a key twice). An
        approved call that was prepared before keeps what the person has seen, unless other arguments were approved.
        Raises ToolFailed when a transform blocks, and for arguments that cannot be shown to plugins: the tool does not
        run. Cancelling cancels the transform, and emits nothing.
        """
        read = _read(args)
        if read is None:
            return args
        given = self._work.given_call(call.tool_name, read, call.tool_call_id)
        if isinstance(given, UnshownCall):
            raise ToolFailed(await self._work.refuse(given.tool_name, given.why, given.call_id))
        before = self._prepared.get(call.tool_call_id)
        if (
            before is not None
            and ctx.tool_call_approved
            and any(is_same_call(given, each) for each in (before.given, before.final))
        ):
            return before.args
        try:
            final = await self._work.transform_input(given)
        except GateRefused as refusal:
            raise ToolFailed(f"not run: {refusal}") from None
        prepared = self._prepared[call.tool_call_id] = _prepared(given, final, as_text=not isinstance(args, dict))
        return prepared.args

    async def execute(self, ctx: RunContext[Any], call: ToolCallPart, tool: ToolDefinition, run: RunTool) -> Any:
        """Run a call that may run and return its value; a refusal is returned as the framework's denial.

        Raises ApprovalRequired when the question waits for another run, and what the tool raises. Cancelling takes the
        question back, or cancels the tool; the call ends as interrupted.
        """
        prepared = self._prepared.get(call.tool_call_id)
        if prepared is None:  # the framework took what is no JSON object
            given = self._work.given_call(call.tool_name, call.args, call.tool_call_id)
            if isinstance(given, UnshownCall):
                return ToolDenied(await self._work.refuse(given.tool_name, given.why, given.call_id))
            prepared = _prepared(given, given, as_text=not isinstance(call.args, dict))
        final = prepared.final
        # Taken out: an approval holds for one run of the call.
        agreed = self._approved.pop(call.tool_call_id, None)
        if agreed is None or not is_same_call(agreed, final):
            outcome = await self._work.authorize(
                final,
                sensitivity=_confirmed(tool),
                is_approved=ctx.tool_call_approved,
                is_resumed=call.tool_call_id in self._resumed,
            )
            if outcome.is_deferred:
                raise ApprovalRequired({"reason": outcome.reason, "by": "ally_plugins"})
            if not outcome.is_allowed:
                self._prepared.pop(call.tool_call_id, None)
                return ToolDenied(f"not run: {outcome.reason}")
        # For `check`, which stands in the toolset and is given nothing but the call's id.
        self._running[call.tool_call_id] = prepared
        try:
            value = await self._carry_out(final, run, lambda result: with_failure(ctx, tool, result))
        finally:
            del self._running[call.tool_call_id]
        if tool.capability_id is not None and (todos := await todos_after(ctx, tool)) is not None:
            self._work.planned(todos, call.tool_call_id)
        return value

    def check(self, ctx: RunContext[Any], tool: ToolsetTool[Any], args: dict[str, Any]) -> None:
        """Raise ToolFailed unless a tool is about to be called with what its check makes of what plugins were shown."""
        prepared = self._running.get(ctx.tool_call_id or "")
        if prepared is None:
            raise ToolFailed("not run: plugins were not asked about this call")
        if self._may_differ is None:  # a run has the same capabilities from its beginning to its end
            self._may_differ = takes_part(ctx, self._capability, *CHANGES_ARGUMENTS)
        if self._may_differ and (changed := changed_arguments(ctx, tool, prepared.args, args)):
            names = ", ".join(map(repr, changed))
            raise ToolFailed(
                f"not run: a capability changed {names} after plugins were shown the arguments; "
                "let it do so in before_tool_validate, and give it to the agent before AllyPlugins"
            )

    async def _carry_out(self, call: ToolCall, run_tool: RunTool, judged: Callable[[ToolResult], ToolResult]) -> Any:
        answer = ToolOutcome(is_transformed=self._work.live.session.wants("tool_output"))

        async def run(_call: ToolCall) -> ToolResult:
            try:
                value = await run_tool()
            except SkipToolExecution as skipped:
                value = skipped.result
            # A tool that asks by itself: neither a result nor a failure.
            except (ApprovalRequired, CallDeferred) as error:
                raise Postponed from error
            except AnswerRefused as refusal:  # a sub-agent's: the agent that called it goes on without
                return answer.failed(ToolFailed(str(refusal)))
            except Exception as error:  # noqa: BLE001 - raised again below, once its end is emitted
                return answer.failed(error)
            return answer.returned(value, judged)

        try:
            after = await self._work.carry_out(call, run)
        except Postponed as postponed:  # it has not run, and stays open
            self._postponed.add(call.call_id or "")
            # The framework's own exception again: it is what puts the call off.
            raise postponed.__cause__ or postponed from None
        self._prepared.pop(call.call_id or "", None)
        return self._restore(answer, after)

    def _restore(self, answer: ToolOutcome, after: ToolResult) -> Any:
        """Return what the model is to read, or raise it; AGENT_END then has the error's text as transforms left it."""
        if answer.failure is not None:
            self._work.failed(answer.failure, after.error or "")
        return answer.restored(after)

    async def approve(self, requests: DeferredToolRequests) -> DeferredToolResults | None:
        """Decide on each call that needs approval; return the answers, None when nothing could be decided.

        Cancelling leaves the remaining calls undecided.
        """
        results = DeferredToolResults()
        # First: whoever decides, here or in another run, sees what would run.
        self._show_final(requests.approvals)
        self._show_final(requests.calls)
        for call in requests.approvals:
            if requests.metadata.get(call.tool_call_id, {}).get("by") == "ally_plugins":
                continue  # decided on already: it waits for the person
            outcome = await self._decide(call, _NEEDS_APPROVAL)
            if outcome.is_allowed:
                self._approved[call.tool_call_id] = self._prepared[call.tool_call_id].final
                results.approvals[call.tool_call_id] = ToolApproved()
            elif not outcome.is_deferred:
                results.approvals[call.tool_call_id] = ToolDenied(f"not run: {outcome.reason}")
        for call in requests.calls:
            if call.tool_call_id in self._postponed:
                continue  # decided before its tool put it off
            outcome = await self._decide(call, None)
            if outcome.is_allowed:
                self._work.postpone(self._prepared[call.tool_call_id].final)
            else:  # the framework runs it without asking again
                results.calls[call.tool_call_id] = ToolDenied(f"not run: {outcome.reason}")
        return results if results.approvals or results.calls else None

    async def _decide(self, call: ToolCallPart, sensitivity: str | None) -> PermissionOutcome:
        """Decide about a call that the framework checked, and puts off."""
        prepared = self._prepared.get(call.tool_call_id)
        if prepared is None:  # its arguments were never shown to plugins
            why = await self._work.refuse(call.tool_name, "its arguments are no JSON object", call.tool_call_id)
            return PermissionOutcome(is_allowed=False, reason=why.removeprefix("not run: "))
        is_resumed = call.tool_call_id in self._resumed
        return await self._work.authorize(prepared.final, sensitivity=sensitivity, is_resumed=is_resumed)

    def _show_final(self, calls: list[ToolCallPart]) -> None:
        """Put the final arguments into requests, for who approves them or runs the call after this run."""
        for index, call in enumerate(calls):
            prepared = self._prepared.get(call.tool_call_id)
            if prepared is not None and not is_same_call(prepared.given, prepared.final):
                calls[index] = dataclasses.replace(call, args=prepared.args)

    async def answered_elsewhere(self, answers: dict[str, Any], response: ModelResponse) -> None:
        """End the calls that an earlier run deferred by their answers: emit a denial, show a result to transforms.

        Results are put into `answers` as transforms left them. Cancelling ends the call that is under way as
        interrupted, and leaves the others open.
        """
        calls = {call.tool_call_id: call for call in response.tool_calls}
        for call_id, answer in answers.items():
            if answer == "skip" or call_id not in calls:
                continue
            # The framework runs it in this run: gates are asked there.
            if isinstance(answer, ToolApproved):
                self._resumed.add(call_id)
                continue
            call = evolve(call_of_part(calls[call_id]), agent_id=self._work.about.get("agent_id"))
            if isinstance(answer, ToolDenied):
                self._work.refused_elsewhere(call, answer.message)
            else:
                answers[call_id] = await self._answered(call, answer)

    async def _answered(self, call: ToolCall, given: Any) -> Any:
        """Return the result of a call that was carried out elsewhere, as transforms leave it."""
        answer = ToolOutcome(is_transformed=self._work.live.session.wants("tool_output"))
        is_failure = isinstance(given, (ModelRetry, ToolFailed))
        before = answer.failed(given) if is_failure else answer.returned(given)
        after = await self._work.answered_elsewhere(call, before)
        try:
            return self._restore(answer, after)
        except (ModelRetry, ToolFailed) as failure:
            return failure


def _confirmed(tool: ToolDefinition) -> str | None:
    """Return how sensitive a plugin's tool is that wants each call to be agreed to, None for every other tool."""
    kept = tool.metadata.get(MARK) if tool.metadata is not None else None
    return _NEEDS_APPROVAL if isinstance(kept, dict) and kept.get("confirm") else None


def _prepared(given: ToolCall, final: ToolCall, *, as_text: bool) -> _Prepared:
    return _Prepared(given, final, encode(final.arguments).decode() if as_text else thaw(final.arguments))


def _read(args: RawToolArgs) -> Any:
    """Return arguments as the JSON object that they are, None when they are something else."""
    try:
        read = args if isinstance(args, dict) else from_json(args or "{}")
    except ValueError:
        return None
    return read if isinstance(read, dict) else None
