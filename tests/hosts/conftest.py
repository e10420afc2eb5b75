"""Agents of pydantic-ai with offline models on real hosts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from ally_plugins import Ally, Event, GrantSet, Host, Limits, PluginRecord, hookimpl
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from ally_plugins.catalog.home.config import PluginConfig

E = TypeVar("E", bound=Event)

Step = ModelResponse | str | Exception | Callable[[list[ModelMessage], AgentInfo], "ModelResponse | str"]


def respond(*parts: ToolCallPart | str) -> ModelResponse:
    return ModelResponse(parts=[TextPart(part) if isinstance(part, str) else part for part in parts])


def make_plugin(**hooks: Callable[..., Any]) -> type[Any]:
    class Puppet:
        ally: Ally

        def __init__(self, ally: Ally) -> None:
            type(self).ally = ally

    for name, function in hooks.items():
        setattr(Puppet, name, function if hasattr(function, "_ally_tool") else hookimpl(function))
    return Puppet


class Script:
    """A model that answers by a script, one step a request, and keeps what it was sent."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.seen: list[list[ModelMessage]] = []
        self.infos: list[AgentInfo] = []

    @property
    def model(self) -> FunctionModel:
        return FunctionModel(self._answer, stream_function=self._stream)

    def _next(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.seen.append(list(messages))
        self.infos.append(info)
        step = self.steps.pop(0) if self.steps else "done"
        if callable(step):
            step = step(messages, info)
        if isinstance(step, Exception):
            raise step
        return ModelResponse(parts=[TextPart(step)]) if isinstance(step, str) else step

    def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return self._next(messages, info)

    async def _stream(self, messages: list[ModelMessage], info: AgentInfo) -> Any:
        for index, part in enumerate(self._next(messages, info).parts):
            if isinstance(part, TextPart):
                for word in part.content.split(" "):
                    yield word + " "
            elif isinstance(part, ToolCallPart):
                yield {index: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)}

    def texts(self, request: int = -1) -> list[str]:
        """Return what the model read in one request, in order, flattened."""
        return [text for message in self.seen[request] for text in texts_of(message)]


def texts_of(message: ModelMessage) -> list[str]:
    found = []
    for part in message.parts:
        content: Any = getattr(part, "content", None)
        items = content if isinstance(content, list) else [content]
        found += [item if isinstance(item, str) else getattr(item, "content", None) for item in items]
    return [text for text in found if isinstance(text, str)]


def returns_of(messages: Iterable[ModelMessage]) -> dict[str, ToolReturnPart]:
    parts = [part for message in messages if isinstance(message, ModelRequest) for part in message.parts]
    return {part.tool_call_id: part for part in parts if isinstance(part, ToolReturnPart)}


class Bench:
    """A host with plugins and the events that it emitted."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.events: list[Event] = []
        host.stream.subscribe("*", self.events.append)

    def of(self, kind: type[E], session: str | None = None) -> list[E]:
        return [e for e in self.events if isinstance(e, kind) and session in {None, e.session_id}]

    def types(self, *left_out: str) -> list[str]:
        ignored = {"DECISION", "SESSION_START", "SESSION_END", "PLUGIN_STATE", *left_out}
        return [event.type for event in self.events if event.type not in ignored]

    def agent(self, script: Script, **options: Any) -> Agent[None, Any]:
        output = options.pop("output_type", str)
        others = options.pop("capabilities", [])
        name = options.pop("name", "main-agent")
        tools = options.pop("tools", [])
        plugins = AllyPlugins(self.host, **options)
        return Agent(script.model, name=name, output_type=output, tools=tools, capabilities=[*others, plugins])


def make_free(plugin: type[Any], *granted: str, on_error: str = "drop", name: str = "p") -> Any:
    """Return a plugin that may say as much as it likes, as `Host(plugins=...)` takes it."""
    grants = GrantSet.of(granted)
    limits = Limits(messages_per_minute=100_000)
    config = PluginConfig(enabled=True, is_decided=True, grants=grants, limits=limits, transform_on_error=on_error)
    return plugin, PluginRecord.by_code(name, grants=grants, config=config)


@asynccontextmanager
async def bench(
    plugins: Mapping[str, Any] | None = None, grants: Mapping[str, Iterable[str]] | None = None, **options: Any
) -> AsyncGenerator[Bench]:
    async with Host(home=None, discover=False, plugins=plugins, grants=grants, **options) as host:
        yield Bench(host)


# Makers hold nothing: one for the whole session, so that Hypothesis may use them.


@pytest.fixture(scope="session")
def script() -> type[Script]:
    """Return the class of a model that answers by a script."""
    return Script


@pytest.fixture(scope="session")
def live() -> Callable[..., Any]:
    """Return what opens a host with plugins, and keeps what it emits."""
    return bench


@pytest.fixture(scope="session")
def call() -> Callable[..., ToolCallPart]:
    """Return what makes a tool call of the model's."""
    return ToolCallPart


@pytest.fixture(scope="session")
def answer() -> Callable[..., ModelResponse]:
    """Return what makes a response of calls and texts."""
    return respond


@pytest.fixture(scope="session")
def returns() -> Callable[..., dict[str, ToolReturnPart]]:
    """Return what finds the results of tool calls in a history."""
    return returns_of


@pytest.fixture(scope="session")
def plugin() -> Callable[..., type[Any]]:
    """Return what makes a plugin class of hooks; the last one built leaves its handle in the attribute `ally`."""
    return make_plugin


@pytest.fixture(scope="session")
def free() -> Callable[..., Any]:
    """Return what gives a plugin grants and no limit of messages."""
    return make_free


@pytest.fixture(scope="session")
def go(run: Callable[..., Any]) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Return what runs a test's coroutine, for a minute at most."""
    return lambda main: run(asyncio.wait_for(main, 60))
