"""Agents of langchain with scripted models on real hosts, and what was emitted of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from langchain.agents import create_agent
from langchain_core.messages import BaseMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from ally_plugins import Event, Host, ToolCall, ToolCallEnd, ToolCallStart
from ally_plugins.adapters.langchain import AllyPlugins
from ally_plugins.testing import Script
from ally_plugins.testing.adapters.script import calls
from ally_plugins.testing.agents.langchain import ScriptedModel
from tests.kit.hosts import make_plugin, new_host

E = TypeVar("E", bound=Event)

ONE: Any = {"configurable": {"thread_id": "t1"}}
HELLO: Any = {"messages": [("user", "hello")]}
CALL = calls(("c1", "work", "a"))


def gate(decide: Callable[[ToolCall], Any]) -> type[Any]:
    """Return a plugin whose gate of tool calls answers so; the calls that it was shown are in its `seen`."""

    async def ally_gate_tool_call(self: Any, call: ToolCall) -> Any:
        self.seen.append((call.tool_name, dict(call.arguments)))
        return decide(call)

    return make_plugin(ally_gate_tool_call=ally_gate_tool_call)


class Bench:
    """A host, and the events that it emitted."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.events: list[Any] = []
        host.stream.subscribe("*", self.events.append)

    def of(self, kind: type[E], session: str | None = None) -> list[E]:
        return [each for each in self.events if isinstance(each, kind) and session in {None, each.session_id}]

    @property
    def told(self) -> list[str]:
        """The starts and ends of calls, in order."""
        marks = {ToolCallStart: "start", ToolCallEnd: "end"}
        return [f"{marks[type(each)]} {each.call_id}" for each in self.events if type(each) in marks]

    def seen(self, name: str = "guard") -> list[Any]:
        found: list[Any] = self.host.plugins[name].instance.seen
        return found

    def agent(self, *steps: Any, tools: Any = (), is_kept: bool = True, before: Any = (), **options: Any) -> Any:
        """Return an agent that follows these steps; with `is_kept` it has a checkpointer."""
        plugins = AllyPlugins(self.host, **options)
        saver = InMemorySaver() if is_kept else None
        return new_agent(model(*steps), list(tools), middleware=[*before, plugins], checkpointer=saver)


def new_agent(*args: Any, **options: Any) -> Any:
    return create_agent(*args, **options)


def model(*steps: Any) -> ScriptedModel:
    return ScriptedModel(script=Script(steps))


@asynccontextmanager
async def live(plugins: Mapping[str, Any] | None = None, **options: Any) -> AsyncGenerator[Bench]:
    async with new_host(plugins, **options) as host:
        yield Bench(host)


def results(state: Mapping[str, Any]) -> dict[str, str]:
    """Return the results of calls in a state, by their ids."""
    messages: list[BaseMessage] = state["messages"]
    return {each.tool_call_id: str(each.text) for each in messages if isinstance(each, ToolMessage)}


def question(state: Mapping[str, Any]) -> Any:
    """Return the one question that waits for the person."""
    (found,) = state["__interrupt__"]
    return found.value


def resume(answer: Any) -> Any:
    return Command(resume=answer)


def approve(kind: str = "approve", **more: Any) -> dict[str, Any]:
    """Return an answer as the framework's own middleware takes it."""
    return {"decisions": [{"type": kind, **more}]}
