"""The tool calls of one run: what is decided about each, and what comes of it."""

from __future__ import annotations

import copy
import inspect
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from agents import FunctionTool, ItemHelpers
from agents.tool import (
    _DEFAULT_FAILURE_HANDLED_ATTR,
    _invoke_function_tool_with_metadata,
    default_tool_error_function,
    resolve_function_tool_failure_error_function,
    set_function_tool_failure_error_function,
)
from agents.util._approvals import evaluate_function_tool_approval, parse_function_tool_arguments
from attrs import frozen

from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import ToolCall, ToolResult, evolve
from ally_plugins.contract.values.errors import EventError, GateRefused
from ally_plugins.host.sessions.open_calls import Postponed

from .items import text_of
from .tools import Guard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agents import RunContextWrapper, RunResultBase, RunState
    from agents.items import ToolApprovalItem
    from agents.tool_context import ToolContext

    from ally_plugins.adapters.kit.work import AgentWork

__all__ = ["Calls"]


@frozen
class _Decided:
    """What was decided about a call: `final` may run, a `refusal` is for the model, or it waits for another run."""

    final: ToolCall | None = None
    refusal: str = ""
    is_deferred: bool = False


class Calls:
    """The tool calls of one run; it lives as long as the run."""

    def __init__(self, work: AgentWork) -> None:
        self._work = work
        self._decided: dict[str, _Decided] = {}
        self._put_off: set[str] = set()
        """Calls of the state that this run goes on with."""
        self.offered: dict[str, FunctionTool] = {}
        """The functions that the model was offered last, by name, with their guards."""
        self.made: set[str] = set()
        """The ids of the calls that the model has made in this run."""
        self.waiting: set[str] = set()
        """Calls whose sub-agent waits for a person."""

    # --- what may run ---

    async def needs_approval(
        self, guard: Guard, context: RunContextWrapper[Any], arguments: dict[str, Any] | None, call_id: str
    ) -> bool:
        """Decide about a call, once; return whether it waits for another run."""
        if call_id not in self._decided:
            self._decided[call_id] = await self._decide(guard, context, arguments, call_id)
        return self._decided[call_id].is_deferred

    async def decide_unread(self, context: RunContextWrapper[Any], made: Iterable[Mapping[str, Any]]) -> None:
        """Decide about calls of functions of which the framework cannot read some arguments: it would wait unasked.

        A function without arguments may be called with an empty text.
        """
        calls = [call for call in made if call.get("type") == "function_call" and call["name"] in self.offered]
        for name in {call["name"]: None for call in calls if parse_function_tool_arguments(call["arguments"]) is None}:
            tool = self.offered[name]
            waits = False
            for call in (call for call in calls if call["name"] == name):
                read = _read(call["arguments"])
                waits = await self.needs_approval(_guard(tool), context, read, call["call_id"]) or waits
            tool.needs_approval = waits  # of this step: the next one is offered another copy

    async def _decide(
        self,
        guard: Guard,
        context: RunContextWrapper[Any],
        arguments: dict[str, Any] | None,
        call_id: str,
        *,
        is_late: bool = False,
    ) -> _Decided:
        """Decide about a call. `is_late`: the framework would run it now, and can put it off no more."""
        work, tool = self._work, guard.tool
        name, agent_id = tool.qualified_name, work.about.get("agent_id")
        is_agreed = is_late and context.is_tool_approved(tool.name, call_id) is True  # to it, or to its tool for good
        before = work.live.deferred.get(call_id)
        is_resumed = before is not None or call_id in self._put_off
        if arguments is None:
            return _Decided(refusal=await work.refuse(name, "the arguments are no JSON object", call_id))
        try:
            final = ToolCall(name, arguments, call_id, agent_id)
            if before is not None and before.call.tool_name == name:  # it is what the person was asked about
                final = evolve(before.call, agent_id=agent_id)
            else:
                final = await work.transform_input(final)
        except EventError as error:
            return _Decided(refusal=await work.refuse(name, str(error), call_id))
        except GateRefused as refusal:
            return _Decided(refusal=f"not run: {refusal}")
        sensitivity = work.kit.sensitivity(name)
        if sensitivity is None and not is_agreed and await _is_confirmed(guard, context, final):
            sensitivity = "normal"
        outcome = await work.authorize(
            final, sensitivity=sensitivity, is_approved=is_agreed and is_resumed, is_resumed=is_resumed
        )
        if outcome.is_deferred and is_late:  # a gate asks what the person has not answered
            work.refused_elsewhere(final, outcome.reason)
        elif outcome.is_allowed or outcome.is_deferred:
            return _Decided(final, is_deferred=outcome.is_deferred)
        return _Decided(refusal=f"not run: {outcome.reason}")

    def resume(self, state: RunState[Any]) -> None:
        """Take over the calls that a state puts off; those that were rejected meanwhile are reported as denied."""
        response = getattr(state, "_last_processed_response", None)
        functions = {run.tool_call.call_id: run for run in (response.functions if response is not None else ())}
        self._put_off |= functions.keys()
        context: RunContextWrapper[Any] | None = getattr(state, "_context", None)
        for item in state.get_interruptions():
            call_id = item.call_id or ""
            if context is None or call_id not in functions or _status(context, item) is not False:
                continue  # a sub-agent's is told by its own run
            reason = context.get_rejection_message(item.tool_name or "", call_id, existing_pending=item)
            before = self._work.live.deferred.get(call_id)
            call = before.call if before is not None else ToolCall(item.tool_name or "", {}, call_id)
            self._work.refused_elsewhere(call, reason or "the person did not agree")

    async def resolve(self, result: RunResultBase) -> RunState[Any] | None:
        """Decide about calls that the framework put off unasked, beside one of the same function that waits.

        Returns the state to go on with, None when what is put off waits for the person.
        """
        state = None
        for item in result.interruptions:
            call_id, tool = item.call_id or "", self.offered.get(item.tool_name or "")
            if call_id not in self.made or tool is None:
                continue
            guard = _guard(tool)
            if not await self.needs_approval(guard, result.context_wrapper, _read(item.arguments), call_id):
                state = state or result.to_state()
                state.approve(item)  # what was decided is said by `carry_out`
        return state

    # --- what comes of it ---

    async def carry_out(self, guard: Guard, context: ToolContext[Any], arguments: str) -> Any:
        """Run a call that may run, and return what the model reads; raises what the framework's own run would."""
        decided = self._decided.pop(context.tool_call_id, None)
        if decided is None or decided.is_deferred:
            decided = await self._decide(guard, context, _read(arguments), context.tool_call_id, is_late=True)
        if decided.final is None:
            return decided.refusal
        call = _ToolRun(self._work, guard, context, self.waiting)
        try:
            after = await self._work.carry_out(decided.final, call.run)
        except Postponed:
            return call.value  # the framework leaves it out
        return call.restored(after)


class _ToolRun:
    """One call of a tool: what it returned or raised, as plugins see it and as the framework takes it."""

    def __init__(self, work: AgentWork, guard: Guard, context: ToolContext[Any], waiting: set[str]) -> None:
        self._work, self._guard, self._context, self._waiting = work, guard, context, waiting
        self._failures: list[Exception] = []
        self._is_raised = False
        self._before = ToolResult(success=True)
        self.value: Any = None

    async def run(self, call: ToolCall) -> ToolResult:
        """Run the tool. Raises Postponed when it is an agent that waits for a person."""
        if self._guard.offered is not None:
            self._before = await self._work.call_plugin_tool(self._guard.offered, call.arguments)
            self.value = self._before.output if self._before.success else self._before.error
            return self._before
        given = encode(call.arguments).decode()
        self._context.tool_arguments = given
        try:
            made = await _invoke_function_tool_with_metadata(
                function_tool=self._noting(self._guard.tool), context=self._context, arguments=given
            )
        except Exception as error:  # noqa: BLE001 - raised again by `restored`, once its end is emitted
            self._failures.append(error)
            self._is_raised = True
            self._before = ToolResult(success=False, error=f"{type(error).__name__}: {error}".removesuffix(": "))
            return self._before
        self.value = made.output
        if call.call_id in self._waiting:
            self._waiting.discard(call.call_id)
            raise Postponed
        text = self.value if isinstance(self.value, str) else self._as_read()
        if made.is_sdk_generated_error:
            setattr(self._context, _DEFAULT_FAILURE_HANDLED_ATTR, True)  # for the framework, which asks the guard
        if self._failures or made.is_sdk_generated_error:
            self._before = ToolResult(success=False, error=text)
        else:
            self._before = ToolResult(success=True, output=text)
        return self._before

    def _noting(self, tool: FunctionTool) -> FunctionTool:
        """Return a tool that notes the failures which functions of the host author's turn into texts.

        The framework says so itself of what it makes a text of, and must know by the tool that it does.
        """
        says, limits = resolve_function_tool_failure_error_function(tool, self._context), tool.timeout_error_function
        if (says is None or says is default_tool_error_function) and limits is None:
            return tool
        noting = copy.copy(tool)

        async def note(function: Any, context: RunContextWrapper[Any], error: Exception) -> Any:
            self._failures.append(error)
            made = function(context, error)
            return await made if inspect.isawaitable(made) else made

        if limits is not None:
            noting.timeout_error_function = partial(note, limits)
        if says is not None and says is not default_tool_error_function:
            set_function_tool_failure_error_function(noting, partial(note, says))
        return noting

    def _as_read(self) -> str:
        """Return the value as the model reads it; media are described. Its object is not read again."""
        call: Any = self._context.tool_call
        output = ItemHelpers.tool_call_output_item(call, self.value)["output"]
        if self._work.live.session.wants("tool_output"):
            self.value = output
        return text_of({"output": output})

    def restored(self, after: ToolResult) -> Any:
        """Return the value as transforms left it, or raise what the tool has raised."""
        if self._is_raised:
            self._work.failed(self._failures[-1], after.error or "")
            raise self._failures[-1]
        if after.success != self._before.success or after.error != self._before.error:
            return after.error or after.output
        return self.value if after.output == self._before.output else after.output


async def _is_confirmed(guard: Guard, context: RunContextWrapper[Any], call: ToolCall) -> bool:
    """Say whether a person has to agree because the framework says so of the tool, or a plugin of its own."""
    tool = guard.tool
    if guard.offered is not None or isinstance(tool.needs_approval, bool):
        return tool.needs_approval is True or (guard.offered is not None and guard.offered.requires_confirmation)
    found = await evaluate_function_tool_approval(tool, context, encode(call.arguments).decode(), call.call_id or "")
    return found.outcome != "invoke"


def _guard(tool: FunctionTool) -> Guard:
    guard = tool.on_invoke_tool
    assert isinstance(guard, Guard)  # noqa: S101 - only such are offered
    return guard


def _status(context: RunContextWrapper[Any], item: ToolApprovalItem) -> bool | None:
    return context.get_approval_status(item.tool_name or "", item.call_id or "", existing_pending=item)


def _read(arguments: str | None) -> dict[str, Any] | None:
    """Return arguments as the JSON object that they are, None when they are something else."""
    try:
        read = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None
