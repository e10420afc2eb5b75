"""The tool calls of one run: their final arguments, whether they may run, and what came of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic_ai.exceptions import ApprovalRequired, SkipToolExecution, ToolFailed
from pydantic_ai.tools import DeferredToolResults, ToolApproved, ToolDenied
from pydantic_core import from_json

from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.conversation import ToolCall, ToolResult, evolve
from ally_plugins.contract.values.errors import EventError, GateRefused

from .failures import with_failure
from .history import MARK, said_call
from .history_repair import mended_text, mended_value
from .results import failure_text, restore, restore_failure, summary, with_failure_text
from .todos import todos_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic_ai.agent import CallToolsNode
    from pydantic_ai.capabilities.abstract import RawToolArgs, ValidatedToolArgs, WrapToolExecuteHandler
    from pydantic_ai.messages import ModelResponse, ToolCallPart
    from pydantic_ai.tools import DeferredToolRequests, RunContext, ToolDefinition

    from ally_plugins.adapters.kit.work import AgentWork

__all__ = ["Calls"]

_NEEDS_APPROVAL: Final = "normal"
"""How sensitive a tool is of which the framework only says that it needs approval."""


class Calls:
    """The tool calls of one run; it lives as long as the run."""

    def __init__(self, work: AgentWork) -> None:
        self._work = work
        self._final: dict[str, ToolCall] = {}
        self._approved: set[str] = set()
        self._made: set[str] = set()

    def made(self, response: ModelResponse) -> None:
        """Take note of the calls that the model makes in this run; others were made in an earlier one."""
        self._made.update(call.tool_call_id for call in response.tool_calls)

    async def prepare(self, ctx: RunContext[Any], call: ToolCallPart, args: RawToolArgs) -> RawToolArgs:
        """Return the arguments as plugins' transforms leave them; the framework's check refuses what is no JSON object.

        An approved call that was prepared before keeps what the person has seen. Raises ToolFailed when a transform
        blocks, and for arguments that cannot be shown to plugins: the tool does not run.
        """
        known = self._final.get(call.tool_call_id)
        if known is not None and ctx.tool_call_approved:
            return _plain(known)
        read = _read(args)
        if read is None:
            return args
        try:
            given = self._call(call, read)
        except EventError as error:
            raise ToolFailed(await self._work.refuse(call.tool_name, str(error), call.tool_call_id)) from None
        try:
            final = await self._work.transform_input(given)
        except GateRefused as refusal:
            raise ToolFailed(f"not run: {refusal}") from None
        self._final[call.tool_call_id] = final
        return args if final.arguments == given.arguments else _plain(final)

    async def execute(
        self,
        ctx: RunContext[Any],
        call: ToolCallPart,
        tool: ToolDefinition,
        args: ValidatedToolArgs,
        handler: WrapToolExecuteHandler,
    ) -> Any:
        """Run a call that may run and return its value; a refusal is returned as the framework's denial.

        Raises ApprovalRequired when the question waits for another run, and what the tool raises.
        """
        try:
            final = self._final.get(call.tool_call_id) or self._as_given(call)
        except (ValueError, AssertionError, EventError) as error:  # the framework's check took what nobody was shown
            return ToolDenied(await self._work.refuse(call.tool_name, str(error), call.tool_call_id))
        if call.tool_call_id not in self._approved:
            outcome = await self._work.authorize(
                final,
                sensitivity=self._work.kit.sensitivity(call.tool_name) or _confirmed(tool),
                is_approved=ctx.tool_call_approved,
                is_resumed=call.tool_call_id not in self._made,
            )
            if outcome.is_deferred:
                raise ApprovalRequired({"reason": outcome.reason, "by": "ally_plugins"})
            if not outcome.is_allowed:
                self._forget(call.tool_call_id)
                return ToolDenied(f"not run: {outcome.reason}")
        self._forget(call.tool_call_id)
        value = await self._carry_out(final, args, handler, lambda result: with_failure(ctx, tool, result))
        if tool.capability_id is not None and (todos := await todos_after(ctx, tool)) is not None:
            self._work.planned(todos, call.tool_call_id)
        return value

    async def _carry_out(
        self,
        call: ToolCall,
        args: ValidatedToolArgs,
        handler: WrapToolExecuteHandler,
        judged: Callable[[ToolResult], ToolResult],
    ) -> Any:
        value: Any = None
        failure: Exception | None = None
        before = ToolResult(success=True)

        async def run(_call: ToolCall) -> ToolResult:
            nonlocal value, failure, before
            try:
                value = mended_value(await handler(args))
            except SkipToolExecution as skipped:
                value = skipped.result
            except Exception as error:  # noqa: BLE001 - raised again below, once it has been told
                text = failure_text(error)
                before = ToolResult(success=False, error=mended_text(text))
                failure = error if before.error == text else with_failure_text(error, before.error or "")
                return before
            before = judged(summary(value))
            return before

        after = await self._work.carry_out(call, run)
        if failure is not None:
            raise restore_failure(failure, before, after)
        return restore(value, before, after)

    async def approve(self, requests: DeferredToolRequests) -> DeferredToolResults | None:
        """Ask about each call that needs approval, and answer what could be decided; None when nothing could."""
        results = DeferredToolResults()
        for call in requests.approvals:
            if requests.metadata.get(call.tool_call_id, {}).get("by") == "ally_plugins":
                continue  # asked about already, and nobody was there
            final = self._final.get(call.tool_call_id)
            if final is None:  # the framework validates a call before it asks for approval: nobody was shown this one
                why = await self._work.refuse(call.tool_name, "its arguments are no JSON object", call.tool_call_id)
                results.approvals[call.tool_call_id] = ToolDenied(why)
                continue
            sensitivity = self._work.kit.sensitivity(call.tool_name) or _NEEDS_APPROVAL
            is_resumed = call.tool_call_id not in self._made
            outcome = await self._work.authorize(final, sensitivity=sensitivity, is_resumed=is_resumed)
            if outcome.is_allowed:
                self._approved.add(call.tool_call_id)
                results.approvals[call.tool_call_id] = ToolApproved()
            elif not outcome.is_deferred:
                results.approvals[call.tool_call_id] = ToolDenied(f"not run: {outcome.reason}")
        return results if results.approvals else None

    def answered_elsewhere(self, node: CallToolsNode[Any, Any]) -> None:
        """Tell of the deferred questions that were answered with no between this run and the one before."""
        calls = {call.tool_call_id: call for call in node.model_response.tool_calls}
        for call_id, answer in (node.tool_call_results or {}).items():
            if isinstance(answer, ToolDenied) and call_id in calls:
                call = evolve(said_call(calls[call_id]), agent_id=self._work.about.get("agent_id"))
                self._work.refused_elsewhere(call, answer.message)

    def _as_given(self, call: ToolCallPart) -> ToolCall:
        """Return a call as the model made it. Raises ValueError, AssertionError or EventError when there is none."""
        return self._call(call, call.args_as_dict(raise_if_invalid=True))

    def _call(self, call: ToolCallPart, arguments: Any) -> ToolCall:
        return ToolCall(call.tool_name, arguments, call.tool_call_id, self._work.about.get("agent_id"))

    def _forget(self, call_id: str) -> None:
        self._final.pop(call_id, None)
        self._approved.discard(call_id)


def _confirmed(tool: ToolDefinition) -> str | None:
    """Return how sensitive a plugin's tool is that wants each call to be agreed to, None for every other tool."""
    kept = tool.metadata.get(MARK) if tool.metadata is not None else None
    return _NEEDS_APPROVAL if isinstance(kept, dict) and kept.get("confirm") else None


def _plain(call: ToolCall) -> dict[str, Any]:
    plain: dict[str, Any] = thaw(call.arguments)
    return plain


def _read(args: RawToolArgs) -> Any:
    """Return arguments as the JSON object that they are, None when they are something else."""
    try:
        read = args if isinstance(args, dict) else from_json(args or "{}")
    except ValueError:
        return None
    return read if isinstance(read, dict) else None
