"""Agents of pydantic-ai with offline models on real hosts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from ally_plugins import Event, Host, Limits
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from tests.kit.hosts import Setup, new_host, setup

E = TypeVar("E", bound=Event)

Step = ModelResponse | str | Exception | Callable[[list[ModelMessage], AgentInfo], "ModelResponse | str"]


def answer(*parts: ToolCallPart | str) -> ModelResponse:
    return ModelResponse(parts=[TextPart(part) if isinstance(part, str) else part for part in parts])


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
        self.events: list[Any] = []
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


def make_free(plugin: type[Any], *granted: str, on_error: str = "drop") -> Setup:
    """Return a plugin that may say as much as it likes."""
    return setup(plugin, granted, limits=Limits(messages_per_minute=100_000), transform_on_error=on_error)


@asynccontextmanager
async def live(
    plugins: Mapping[str, Any] | None = None, grants: Mapping[str, Iterable[str]] | None = None, **options: Any
) -> AsyncGenerator[Bench]:
    async with new_host(plugins, grants=grants, **options) as host:
        yield Bench(host)
