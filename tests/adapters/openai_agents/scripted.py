"""Agents of the OpenAI Agents SDK with its own offline model, and how the checks for host adapters drive them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from agents import Agent, FunctionTool, SQLiteSession, Usage, function_tool, set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.testing.model import ModelCall, ModelStep
from attrs import define, field
from openai.types.responses.response_reasoning_item import ResponseReasoningItem, Summary

from ally_plugins import Event, Host, Message, ToolCallEnd, ToolCallStart
from ally_plugins.adapters.openai_agents import AllyPlugins
from ally_plugins.adapters.openai_agents.items import convert, grouped, items_of, sent
from ally_plugins.adapters.openai_agents.serves import SERVES
from ally_plugins.testing import AdapterDriver, AgentSetup, Answer, Asked, HostTool, Script
from tests.kit.hosts import new_host

if TYPE_CHECKING:
    from ally_plugins.testing.adapters.script import Step

E = TypeVar("E", bound=Event)

set_tracing_disabled(disabled=True)  # it would be sent to the provider


class FollowingModel(ScriptedModel):
    """The framework's scripted model, whose every step follows a script of ours."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script
        self._answered = 0
        self.enqueue(ModelStep.respond(self._answer))

    def _answer(self, call: ModelCall) -> ModelStep:
        self.enqueue(ModelStep.respond(self._answer))
        self._answered += 1
        said = self.script.answer(asked(call))
        return ModelStep(output=list(self._output(said)), usage=_usage(said), response_id=f"resp-{self._answered}")

    def _output(self, said: Answer) -> Iterable[Any]:
        if said.thinking:
            summary = [Summary(text=said.thinking, type="summary_text")]
            yield ResponseReasoningItem(id=f"rs-{self._answered}", summary=summary, type="reasoning")
        if said.text:
            yield assistant_message(said.text, item_id=f"msg-{self._answered}")
        for call in said.calls:
            yield function_call(call.tool_name, _json(call.arguments), call_id=call.call_id or "")


def _json(arguments: Any) -> str:
    return json.dumps(dict(arguments), default=dict)


def _usage(said: Answer) -> Usage:
    tokens = said.input_tokens + said.output_tokens
    return Usage(requests=1, input_tokens=said.input_tokens, output_tokens=said.output_tokens, total_tokens=tokens)


def asked(call: ModelCall) -> Asked:
    """Return what reached the model."""
    system = [Message(role="system", content=call.system_instructions)] if call.system_instructions else []
    tools = {each.name: each.params_json_schema for each in call.tools if isinstance(each, FunctionTool)}
    settings = {
        name: value for name, value in vars(call.model_settings).items() if isinstance(value, (int, float, str))
    }
    return Asked(messages=(*system, *read(call.input)), tools=tools, settings=settings)


def read(given: Any) -> list[Message]:
    """Return items of the framework as messages, as a model reads them."""
    return [found for group in grouped(sent(items_of(given))) for found in convert(group)]


def tool_of(tool: HostTool) -> FunctionTool:
    async def run(text: str) -> str:
        return await tool.run(text)

    return function_tool(run, name_override=tool.name, failure_error_function=_failure)


def _failure(_context: Any, error: Exception) -> str:
    return f"it failed: {error}"


class Bench:
    """A host with plugins, the events that it emitted, and agents that follow scripts."""

    def __init__(self, host: Host, **options: Any) -> None:
        self.host = host
        self.plugins = AllyPlugins(host, **options)
        self.events: list[Any] = []
        host.stream.subscribe("*", self.events.append)

    def agent(self, *steps: Step, name: str = "agent", **options: Any) -> Agent[Any]:
        """Return an agent whose model follows these steps; `agent.model.script.asked` is what it was asked."""
        return Agent(name=name, model=FollowingModel(Script(steps)), **options)

    def of(self, *kinds: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kinds)]

    def ends(self) -> dict[str | None, str | None]:
        """Return the error of each call that has ended, by its id."""
        assert len({end.call_id for end in self.of(ToolCallEnd)}) == len(self.of(ToolCallEnd)), "a call ended twice"
        return {end.call_id: end.error for end in self.of(ToolCallEnd)}

    def starts(self) -> list[str | None]:
        return [start.call_id for start in self.of(ToolCallStart)]


@asynccontextmanager
async def live(plugins: Mapping[str, Any] | None = None, **options: Any) -> AsyncGenerator[Bench]:
    """Run a host with these plugins; `options` are the adapter's."""
    async with new_host(plugins) as host:
        yield Bench(host, **options)


@contextmanager
def loop_of_run_sync() -> Generator[None]:
    """Close the loop that the framework's `run_sync` makes for a thread, and leaves open, at the end of the block."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def requests(agent: Agent[Any]) -> list[Asked]:
    """Return what the agent's model was asked."""
    assert isinstance(agent.model, FollowingModel)
    return agent.model.script.asked


def texts(request: Asked) -> list[str]:
    """Return what a model was asked, without the system prompt, each with its role."""
    return [f"{each.role}: {each.content}" for each in request.messages if each.role != "system"]


@define(eq=False)
class Driven:
    """An agent, the plugins, and the sessions that its host author keeps."""

    agent: Agent[Any]
    plugins: AllyPlugins
    sessions: dict[str, SQLiteSession] = field(factory=dict)
    kept: dict[str, list[Any]] = field(factory=dict)

    def session(self, session_id: str) -> SQLiteSession:
        return self.sessions.setdefault(session_id, SQLiteSession(session_id))


class OpenAIAgentsDriver(AdapterDriver):
    """Drives agents with the framework's sessions."""

    name = "openai-agents"
    serves = SERVES

    def make(self, setup: AgentSetup) -> Driven:
        plugins = AllyPlugins(
            setup.host,
            approve=setup.approve,
            sensitive=setup.sensitive,
            preview=setup.preview,
            tool_failure=setup.tool_failure,
            context_window=setup.script.window,
            compact=_from_the_last_prompt if setup.can_compact else None,
        )
        agent: Agent[Any] = Agent(
            name=setup.name,
            instructions=setup.system_prompt,
            model=FollowingModel(setup.script),
            tools=[tool_of(each) for each in setup.tools],
        )
        return Driven(agent, plugins)

    async def run(self, agent: Driven, prompt: str | None, *, session_id: str, is_streamed: bool = False) -> str:
        session = agent.session(session_id)
        given: Any = [] if prompt is None else prompt
        try:
            if is_streamed:
                stream = agent.plugins.run_streamed(agent.agent, given, session=session)
                async for _ in stream.stream_events():
                    pass
                return str(stream.final_output)
            return str((await agent.plugins.run(agent.agent, given, session=session)).final_output)
        finally:
            agent.kept[session_id] = await session.get_items()

    def history(self, agent: Driven, session_id: str) -> Sequence[Message]:
        return read(agent.kept.get(session_id, []))


def _from_the_last_prompt(items: list[Any]) -> list[Any]:
    prompts = [n for n, each in enumerate(items) if each.get("role") == "user" and "ally_plugins" not in each]
    return items[prompts[-1] :]
