"""How checks and tests drive an agent of the OpenAI Agents SDK: its own offline model, turns, and the history."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from agents import Agent, FunctionTool, SQLiteSession, Usage, function_tool, set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.testing.model import ModelCall, ModelStep
from attrs import define, field
from openai.types.responses.response_reasoning_item import ResponseReasoningItem, Summary

from ally_plugins.adapters.openai_agents import AllyPlugins
from ally_plugins.adapters.openai_agents.items import convert, grouped, items_of, sent
from ally_plugins.adapters.openai_agents.serves import SERVES
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import Message
from ally_plugins.testing.adapters.driver import AdapterDriver, AgentSetup, HostTool
from ally_plugins.testing.adapters.script import Answer, Asked, Script

__all__ = ["FollowingModel", "OpenAIAgentsDriver", "read"]

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
    """Return a tool of the host author's."""

    async def run(text: str) -> str:
        return await tool.run(text)

    return function_tool(run, name_override=tool.name, failure_error_function=_failure)


def _failure(_context: Any, error: Exception) -> str:
    return f"it failed: {error}"


@define(eq=False)
class Driven:
    """An agent, the plugins, and the sessions that its host author keeps."""

    agent: Agent[Any]
    plugins: AllyPlugins
    sessions: dict[str, SQLiteSession] = field(factory=dict)
    kept: dict[str, list[Any]] = field(factory=dict)

    def session(self, session_id: str) -> SQLiteSession:
        """Return the framework's session of a conversation."""
        return self.sessions.setdefault(session_id, SQLiteSession(session_id))


class OpenAIAgentsDriver(AdapterDriver):
    """Drives agents with the framework's sessions."""

    name = "openai-agents"
    serves = SERVES

    @override
    def make(self, setup: AgentSetup) -> Driven:
        """Return an agent with a scripted model."""
        plugins = AllyPlugins(
            setup.host,
            **setup.options,
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

    @override
    async def run(self, agent: Driven, prompt: str | None, *, session_id: str, is_streamed: bool = False) -> str:
        """Run a turn, and keep the history, however it ends."""
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

    @override
    def history(self, agent: Driven, session_id: str) -> Sequence[Message]:
        """Return the history as the next run reads it."""
        return read(agent.kept.get(session_id, []))


def _from_the_last_prompt(items: list[Any]) -> list[Any]:
    prompts = [n for n, each in enumerate(items) if each.get("role") == "user" and "ally_plugins" not in each]
    return items[prompts[-1] :]
