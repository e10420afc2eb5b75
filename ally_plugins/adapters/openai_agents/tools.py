"""Tools of agents on their way to the model: each function tool with a guard, plugins' beside them, and what has none.

A guard stands in a copy; the agent's own tool stays as it is. An agent's `get_all_tools` is replaced while runs with
plugins use the agent, since that is the one place where tools of its own, of MCP servers and of plugins meet.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol

from agents import Agent, FunctionTool, Handoff, Tool
from agents.tool_context import ToolContext  # noqa: TC002 - the framework reads the annotation of a guard

from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.errors import HostError

if TYPE_CHECKING:
    from agents import RunContextWrapper
    from agents.run import AgentRunner

    from ally_plugins.adapters.kit.work import AgentWork
    from ally_plugins.contract.tools.agent_tool import AgentTool

__all__ = [
    "RUN",
    "Guard",
    "GuardedAgents",
    "Running",
    "guarded",
    "may_interrupt",
    "plugin_tool",
    "ungated",
    "ungated_tools",
]


class Running(Protocol):
    """What a run answers when the framework asks for its tools, and calls them."""

    runner: AgentRunner
    work: AgentWork

    def tools(self, agent: Agent[Any], tools: list[Tool]) -> list[Tool]:
        """Return the tools of an agent with their guards, and what plugins offer."""
        ...

    async def needs_approval(self, guard: Guard, context: Any, arguments: dict[str, Any], call_id: str) -> bool:
        """Decide about a call, and say whether the framework shall put it off."""
        ...

    async def call(self, guard: Guard, context: Any, arguments: str) -> Any:
        """Run a call that may run."""
        ...


RUN: Final[ContextVar[Running | None]] = ContextVar("ally_openai_run", default=None)
"""The run that code is part of: the framework makes its tasks in the run's context."""

_LOCK: Final = threading.Lock()


class Guard:
    """Stands in the place of what a function tool calls, and of what says whether that needs approval."""

    def __init__(self, tool: FunctionTool, offered: AgentTool | None) -> None:
        self.tool = tool
        self.offered = offered
        """The plugin's tool that it is, None for the agent's own."""

    async def needs_approval(self, context: RunContextWrapper[Any], arguments: dict[str, Any], call_id: str) -> bool:
        """Let plugins and the person decide, and say whether the framework shall put the call off."""
        return await self._run.needs_approval(self, context, arguments, call_id)

    async def __call__(self, context: ToolContext[Any], arguments: str) -> Any:
        """Call the tool if that was decided, and return what the model reads."""
        return await self._run.call(self, context, arguments)

    @property
    def _run(self) -> Running:
        run = RUN.get()
        if run is None:
            raise HostError(f"{self.tool.name!r} is called outside of its run; plugins cannot be asked about it")
        return run


def guarded(tool: FunctionTool, offered: AgentTool | None = None) -> FunctionTool:
    """Return a function tool's copy with a guard; the guard's time is not the tool's, which it limits itself."""
    if isinstance(tool.on_invoke_tool, Guard):
        return tool
    guard = Guard(tool, offered)
    made = object.__new__(type(tool))  # `copy.copy` would make the schema strict again, which takes a while
    vars(made).update(vars(tool), on_invoke_tool=guard, needs_approval=guard.needs_approval, timeout_seconds=None)
    return made


def original(tool: Tool) -> Tool:
    """Return the tool that a copy with a guard is of, and every other as it is."""
    guard = tool.on_invoke_tool if isinstance(tool, FunctionTool) else None
    return guard.tool if isinstance(guard, Guard) else tool


def plugin_tool(offered: AgentTool) -> FunctionTool:
    """Return a plugin's tool as one of the agent's."""

    async def never(_context: ToolContext[Any], _arguments: str) -> Any:
        raise NotImplementedError("the guard calls the plugin")

    schema = thaw(offered.schema)
    return guarded(FunctionTool(offered.name, offered.description, schema, never, strict_json_schema=False), offered)


class _GuardedTools:
    """Stands in the place of one agent's `get_all_tools`; without a run it does what that does."""

    def __init__(self, agent: Agent[Any]) -> None:
        self.agent = agent
        self.users = 0

    async def __call__(self, context: RunContextWrapper[Any]) -> list[Tool]:
        tools = await type(self.agent).get_all_tools(self.agent, context)
        run = RUN.get()
        return tools if run is None else run.tools(self.agent, tools)


class GuardedAgents:
    """The agents that one run has reached; they are as they were when no run uses them any more."""

    def __init__(self) -> None:
        self._found: list[_GuardedTools] = []

    def add(self, agent: Agent[Any]) -> bool:
        """Guard the tools of an agent; say whether it is new to the run."""
        if any(tools.agent is agent for tools in self._found):
            return False
        with _LOCK:
            tools = vars(agent).get("get_all_tools")
            if not isinstance(tools, _GuardedTools) or tools.agent is not agent:  # a copy of one that is guarded
                tools = vars(agent)["get_all_tools"] = _GuardedTools(agent)
            tools.users += 1
        self._found.append(tools)
        return True

    def release(self) -> None:
        """Let the agents go."""
        with _LOCK:
            for tools in self._found:
                tools.users -= 1
                if not tools.users:
                    vars(tools.agent).pop("get_all_tools", None)
        self._found.clear()


def ungated_tools(agent: Agent[Any]) -> tuple[str, ...]:
    """Return the names of what the provider runs, or the framework without calling a function: it reaches no gate.

    Those of agents that this one may hand off to or calls as tools are among them, but not such as a function chooses.
    """
    return tuple(sorted({name for each in _reachable(agent, []) for name in ungated(each)}))


def may_interrupt(agent: Agent[Any]) -> bool:
    """Say whether the author of an agent expects runs that end with a question, since a tool of it needs approval."""
    return any(may_wait(tool) for each in _reachable(agent, []) for tool in each.tools)


def may_wait(tool: Tool) -> bool:
    """Say whether a tool may need approval, as the framework has it."""
    return getattr(tool, "needs_approval", False) is not False


def ungated(agent: Agent[Any]) -> Iterator[str]:
    """Yield the names of an agent's own tools that reach no gate."""
    yield from (tool.name for tool in agent.tools if not isinstance(tool, FunctionTool))
    if agent.prompt is not None:
        yield "prompt"  # kept by the provider, with whatever tools it has there


def _reachable(agent: Agent[Any], seen: list[Agent[Any]]) -> list[Agent[Any]]:
    if not any(each is agent for each in seen):
        seen.append(agent)
        for handoff in agent.handoffs:
            target = handoff if isinstance(handoff, Agent) else _target(handoff)
            if target is not None:
                _reachable(target, seen)
        for tool in agent.tools:
            inner = getattr(tool, "_agent_instance", None)
            if isinstance(inner, Agent):
                _reachable(inner, seen)
    return seen


def _target(handoff: Handoff[Any, Any]) -> Agent[Any] | None:
    held = getattr(handoff, "_agent_ref", None)
    target = held() if held is not None else None
    return target if isinstance(target, Agent) else None
