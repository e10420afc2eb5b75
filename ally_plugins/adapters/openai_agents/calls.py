"""The tool calls of one run: what guards each function, what is decided about a call, and what comes of it.

A guard stands in a copy of a tool; the agent's own tool stays as it is. An agent's `get_all_tools` is replaced while
runs with plugins use the agent, since that is the one place where tools of its own, of MCP servers and of plugins meet.
"""

from __future__ import annotations

import copy
import inspect
import json
import threading
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from agents import Agent, FunctionTool, ItemHelpers, Tool
from agents.items import ToolApprovalItem
from agents.tool import (
    _DEFAULT_FAILURE_HANDLED_ATTR,
    _invoke_function_tool_with_metadata,
    default_tool_error_function,
    resolve_function_tool_failure_error_function,
    set_function_tool_failure_error_function,
)
from agents.tool_context import ToolContext  # noqa: TC002 - the framework reads the annotation of a guard
from agents.util._approvals import evaluate_function_tool_approval, parse_function_tool_arguments

from ally_plugins.adapters.kit.mending import mended_value
from ally_plugins.adapters.kit.plugin_tools import call_offered, text_for_model
from ally_plugins.adapters.kit.tool_calls import CallDeferred
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.contract.values.errors import HostError
from ally_plugins.host.sessions.open_calls import Postponed, not_run, result_of_error

from .items import text_of
from .tools import may_wait

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agents import RunContextWrapper, RunResultBase, RunState
    from agents.run import AgentRunner

    from ally_plugins.adapters.kit.under_way import UnderWay
    from ally_plugins.adapters.kit.work import AgentWork
    from ally_plugins.contract.tools.agent_tool import AgentTool

__all__ = ["RUN", "Calls", "Guard", "GuardedAgents", "original"]


class Calls:
    """The tool calls of one run; it lives as long as the run, and those that code runs in it."""

    def __init__(self, work: AgentWork, runner: AgentRunner, under_way: UnderWay, *, may_defer: bool) -> None:
        self.work = work
        self.runner = runner
        """What runs agents that are run within this run."""
        self.made: set[str] = set()
        """The ids of the calls that the model has made in this run."""
        self.waiting: set[str] = set()
        """Calls whose sub-agent waits for a person."""
        self._under_way = under_way
        self._may_defer = may_defer
        self._goes_on = False
        self._offered: dict[str, FunctionTool] = {}
        """The functions that the model was offered last, by name."""
        self._decided: dict[str, ToolCall | ToolResult | None] = {}
        """What may run, or the refusal for the model; None for what waits for another run."""

    # --- what may run ---

    def tools(self, agent: Agent[Any], tools: list[Tool]) -> list[Tool]:
        """Return the tools of an agent with their guards, and what plugins offer now; its own keep their names."""
        if self._may_defer and self.work.approve is None and any(map(may_wait, tools)):
            self.work.can_defer = True
        taken = [tool.name for tool in tools]
        taken += [getattr(handoff, "tool_name", "") for handoff in agent.handoffs]
        made = [*tools, *(_plugin_tool(self.work, offered) for offered in self.work.offered(taken=taken))]
        made = [_guarded(tool) if isinstance(tool, FunctionTool) else tool for tool in made]
        self._offered = {tool.name: tool for tool in made if isinstance(tool, FunctionTool)}
        return made

    async def needs_approval(self, tool: FunctionTool, context: Any, arguments: Any, call_id: str) -> bool:
        """Decide about a call, once, and say whether it waits for another run."""
        async with self._under_way:
            if call_id not in self._decided:
                self._decided[call_id] = await self._decide(tool, context, arguments, call_id)
            return self._decided[call_id] is None

    async def _decide(
        self, tool: FunctionTool, context: Any, arguments: Any, call_id: str, *, is_late: bool = False
    ) -> ToolCall | ToolResult | None:
        """Decide about a call. `is_late`: the framework would run it now, and can put it off no more."""
        work = self.work
        is_agreed = is_late and _is_agreed(tool, context)
        is_resumed = call_id in work.live.deferred or (self._goes_on and call_id not in self.made)

        async def sensitivity(call: ToolCall) -> str | None:
            return "normal" if not is_agreed and await _is_confirmed(tool, context, call) else None

        try:
            given = work.given_call(tool.qualified_name, arguments, call_id)
            is_approved = is_agreed and is_resumed
            return await work.admitted(given, None, sensitivity, is_approved=is_approved, is_resumed=is_resumed)
        except CallDeferred as deferred:
            if not is_late:
                return None
            work.refused_elsewhere(deferred.call, deferred.reason)  # a gate asks what the person has not answered
            return not_run(deferred.reason)

    def resume(self, state: RunState[Any]) -> None:
        """Go on with the calls that a state puts off; those that were rejected meanwhile are reported as denied."""
        self._goes_on = True
        context: RunContextWrapper[Any] | None = getattr(state, "_context", None)
        agent = getattr(state, "_current_agent", None)
        for item in state.get_interruptions():
            name, call_id = item.tool_name or "", item.call_id or ""
            # A sub-agent's is told by its own run; its ids are its own model's, and may be the same.
            if context is None or item.agent is not agent:
                continue
            if context.get_approval_status(name, call_id, existing_pending=item) is False:
                reason = context.get_rejection_message(name, call_id, existing_pending=item)
                before = self.work.live.deferred.get(call_id)
                call = before.call if before is not None else ToolCall(name, {}, call_id)
                self.work.refused_elsewhere(call, reason or "the person did not agree")

    async def decide_unread(self, context: RunContextWrapper[Any], made: Iterable[Mapping[str, Any]]) -> None:
        """Decide about calls of functions of which the framework cannot read some arguments: it would wait unasked.

        A function without arguments may be called with an empty text.
        """
        calls = [call for call in made if call.get("type") == "function_call" and call["name"] in self._offered]
        for name in {call["name"]: None for call in calls if parse_function_tool_arguments(call["arguments"]) is None}:
            tool = self._offered[name]
            own = [call for call in calls if call["name"] == name]
            waits = [
                await self.needs_approval(original(tool), context, call["arguments"], call["call_id"]) for call in own
            ]
            tool.needs_approval = any(waits)  # of this step: the next one is offered another copy

    async def resolve(self, result: RunResultBase) -> RunState[Any] | None:
        """Decide about calls that the framework put off unasked, beside one of the same function that waits.

        Returns the state to go on with, None when what is put off waits for the person.
        """
        state = None
        for item in result.interruptions:
            call_id, tool = item.call_id or "", self._offered.get(item.tool_name or "")
            if call_id not in self.made or tool is None:
                continue
            if not await self.needs_approval(original(tool), result.context_wrapper, item.arguments, call_id):
                state = state or result.to_state()
                state.approve(item)  # what was decided is said by `carry_out`
        return state

    # --- what comes of it ---

    async def carry_out(self, tool: FunctionTool, context: ToolContext[Any], arguments: str) -> Any:
        """Run a call that may run, and return what the model reads; raises what the framework's own run would."""
        call_id = context.tool_call_id
        async with self._under_way:
            decided = self._decided.pop(call_id, None)
            if decided is None:
                decided = await self._decide(tool, context, arguments, call_id, is_late=True)
            if not isinstance(decided, ToolCall):
                return text_for_model(decided) if decided is not None else ""
            call = _ToolRun(self.work, tool, context, self.waiting)
            try:
                return call.restored(await self.work.carry_out(decided, call.run))
            except Postponed:
                return call.value  # the framework leaves it out


RUN: Final[ContextVar[Calls | None]] = ContextVar("ally_openai_run", default=None)
"""The calls of the run that code is part of: the framework makes its tasks in the run's context."""


class _ToolRun:
    """One call of a tool: what it returned or raised, as plugins see it and as the framework takes it."""

    def __init__(self, work: AgentWork, tool: FunctionTool, context: ToolContext[Any], waiting: set[str]) -> None:
        self._work, self._tool, self._context, self._waiting = work, tool, context, waiting
        self._failures: list[Exception] = []
        self._is_raised = False
        self._before = ToolResult(success=True)
        self.value: Any = None

    async def run(self, call: ToolCall) -> ToolResult:
        """Run the tool. Raises Postponed when it is an agent that waits for a person."""
        self._before = await self._run(call)
        return self._before

    async def _run(self, call: ToolCall) -> ToolResult:
        given = self._context.tool_arguments = encode(call.arguments).decode()
        try:
            made = await _invoke_function_tool_with_metadata(
                function_tool=self._noting(self._tool), context=self._context, arguments=given
            )
        except Exception as error:  # noqa: BLE001 - raised again by `restored`, once its end is emitted
            self._failures.append(error)
            self._is_raised = True
            return result_of_error(error)
        if isinstance(made.output, ToolResult):  # of a plugin's tool
            self.value = text_for_model(made.output)
            return made.output
        self.value = mended_value(made.output)
        if call.call_id in self._waiting:
            self._waiting.discard(call.call_id)
            raise Postponed
        text = self.value if isinstance(self.value, str) else self._as_read()
        if made.is_sdk_generated_error:
            setattr(self._context, _DEFAULT_FAILURE_HANDLED_ATTR, True)  # for the framework, which asks the guard
        if self._failures or made.is_sdk_generated_error:
            return ToolResult(success=False, error=text)
        return ToolResult(success=True, output=text)

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
        if self._work.wants("tool_output"):
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


async def _is_confirmed(tool: FunctionTool, context: Any, call: ToolCall) -> bool:
    """Say whether a person has to agree because the framework says so of the tool, or a plugin of its own."""
    if isinstance(tool.needs_approval, bool):
        return tool.needs_approval
    found = await evaluate_function_tool_approval(tool, context, encode(call.arguments).decode(), call.call_id or "")
    return found.outcome != "invoke"


def _is_agreed(tool: FunctionTool, context: ToolContext[Any]) -> bool:
    """Say whether the person has agreed to a call, or to this agent's tool for good."""
    if context.tool_call is None or not isinstance(context.agent, Agent):
        return False
    call = ToolApprovalItem(context.agent, context.tool_call, tool.name)
    return context.get_approval_status(tool.name, context.tool_call_id, current_invocation=call) is True


# --- tools with guards ---


class Guard:
    """Stands in the place of what a function tool calls, and of what says whether that needs approval."""

    def __init__(self, tool: FunctionTool) -> None:
        self.tool = tool

    async def needs_approval(self, context: RunContextWrapper[Any], arguments: dict[str, Any], call_id: str) -> bool:
        """Let plugins and the person decide, and say whether the framework shall put the call off."""
        return await self._calls.needs_approval(self.tool, context, arguments, call_id)

    async def __call__(self, context: ToolContext[Any], arguments: str) -> Any:
        """Call the tool if that was decided, and return what the model reads."""
        return await self._calls.carry_out(self.tool, context, arguments)

    @property
    def _calls(self) -> Calls:
        calls = RUN.get()
        if calls is None:
            raise HostError(f"{self.tool.name!r} is called outside of its run; plugins cannot be asked about it")
        return calls


def _guarded(tool: FunctionTool) -> FunctionTool:
    """Return a function tool's copy with a guard; the guard's time is not the tool's, which it limits itself."""
    guard = Guard(original(tool))
    made = object.__new__(type(tool))  # `copy.copy` would make the schema strict again, which takes a while
    vars(made).update(vars(guard.tool), on_invoke_tool=guard, needs_approval=guard.needs_approval, timeout_seconds=None)
    return made


def original(tool: Any) -> Any:
    """Return the tool that a copy with a guard is of, and every other as it is."""
    guard = getattr(tool, "on_invoke_tool", None)
    return guard.tool if isinstance(guard, Guard) else tool


def _plugin_tool(work: AgentWork, offered: AgentTool) -> FunctionTool:
    """Return a plugin's tool as one of the agent's; it returns our result."""

    async def call(_context: ToolContext[Any], arguments: str) -> ToolResult:
        return await call_offered(work, offered, json.loads(arguments))

    made = FunctionTool(offered.name, offered.description, thaw(offered.schema), call, strict_json_schema=False)
    made.needs_approval = offered.requires_confirmation
    return made


_LOCK: Final = threading.Lock()


class _GuardedTools:
    """Stands in the place of one agent's `get_all_tools`; without a run it does what that does."""

    def __init__(self, agent: Agent[Any]) -> None:
        self.agent = agent
        self.users = 0

    async def __call__(self, context: RunContextWrapper[Any]) -> list[Tool]:
        tools = await type(self.agent).get_all_tools(self.agent, context)
        calls = RUN.get()
        return tools if calls is None else calls.tools(self.agent, tools)


class GuardedAgents:
    """The agents that one run has reached; they are as they were when no run uses them any more."""

    def __init__(self) -> None:
        self._found: list[_GuardedTools] = []

    def add(self, agent: Agent[Any]) -> None:
        """Guard the tools of an agent that the run has reached."""
        if any(tools.agent is agent for tools in self._found):
            return
        with _LOCK:
            tools = vars(agent).get("get_all_tools")
            if not isinstance(tools, _GuardedTools) or tools.agent is not agent:  # a copy of one that is guarded
                tools = vars(agent)["get_all_tools"] = _GuardedTools(agent)
            tools.users += 1
        self._found.append(tools)

    def release(self) -> None:
        """Let the agents go."""
        with _LOCK:
            for tools in self._found:
                tools.users -= 1
                if not tools.users:
                    vars(tools.agent).pop("get_all_tools", None)
        self._found.clear()
