"""How checks and tests drive an agent of strands: a scripted model, turns, and the history."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

from attrs import define, field
from strands import Agent
from strands.models import Model
from strands.session import SnapshotSessionManager
from strands.storage import InMemoryStorage
from strands.tools.decorator import tool as make_tool

from ally_plugins.adapters.strands import AllyPlugins
from ally_plugins.contract.tools.recorded_calls import recorded_call
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import Message
from ally_plugins.testing.adapters.driver import AdapterDriver, AgentSetup, HostTool
from ally_plugins.testing.adapters.script import Answer, Asked, Script

__all__ = ["ScriptedModel", "StrandsDriver", "read"]


class ScriptedModel(Model):
    """A model that follows a script."""

    def __init__(self, script: Script) -> None:
        self.script = script

    @override
    def update_config(self, **model_config: Any) -> None:
        """Raise: no test changes its configuration."""
        raise NotImplementedError

    @override
    def get_config(self) -> Any:
        """Return what the framework asks of a model."""
        return {"model_id": "scripted", "context_window_limit": self.script.window}

    @override
    def structured_output(self, *_: Any, **__: Any) -> Any:
        """Raise: no test asks for structured output here."""
        raise NotImplementedError

    @override
    async def stream(
        self, messages: Any, tool_specs: Any = None, system_prompt: str | None = None, **_: Any
    ) -> AsyncGenerator[Any, None]:
        """Answer by the script."""
        system = [Message(role="system", content=system_prompt)] if system_prompt else []
        tools = {spec["name"]: spec["inputSchema"]["json"] for spec in tool_specs or ()}
        answer = self.script.answer(Asked(messages=(*system, *read(messages)), tools=tools))
        for event in chunks(answer):
            yield event


def chunks(answer: Answer) -> Iterable[Any]:
    """Return an answer of the script as the framework's events."""
    yield {"messageStart": {"role": "assistant"}}
    if answer.thinking:
        yield {"contentBlockStart": {"start": {}}}
        yield {"contentBlockDelta": {"delta": {"reasoningContent": {"text": answer.thinking}}}}
        yield {"contentBlockStop": {}}
    if answer.text:
        yield {"contentBlockStart": {"start": {}}}
        for word in answer.text.split(" "):
            yield {"contentBlockDelta": {"delta": {"text": word if word == answer.text.split(" ")[0] else f" {word}"}}}
        yield {"contentBlockStop": {}}
    for call in answer.calls:
        yield {"contentBlockStart": {"start": {"toolUse": {"name": call.tool_name, "toolUseId": call.call_id}}}}
        yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps(dict(call.arguments))}}}}
        yield {"contentBlockStop": {}}
    yield {"messageStop": {"stopReason": "tool_use" if answer.calls else "end_turn"}}
    usage = {"inputTokens": answer.input_tokens, "outputTokens": answer.output_tokens}
    total = answer.input_tokens + answer.output_tokens
    yield {"metadata": {"usage": {**usage, "totalTokens": total}, "metrics": {"latencyMs": 1}}}


def read(messages: Iterable[Any]) -> list[Message]:
    """Return messages of the framework as the model reads them."""
    found = []
    for message in messages:
        text = ""
        calls = []
        for block in message["content"]:
            if "toolUse" in block:
                use = block["toolUse"]
                calls.append(recorded_call(use["name"], use["input"], use["toolUseId"]))
            elif "toolResult" in block:
                result = block["toolResult"]
                said = "\n".join(each.get("text") or json.dumps(each.get("json")) for each in result["content"])
                found.append(Message(role="tool", content=said, tool_call_id=result["toolUseId"]))
            elif message["role"] == "user":
                found.append(Message(role="user", content=block["text"]))
            else:
                text += block.get("text", "")
        if message["role"] == "assistant":
            found.append(Message(role="assistant", content=text, tool_calls=calls))
    return found


def as_tool(tool: HostTool) -> Any:
    """Return a tool of the host author's."""

    async def run(text: str) -> str:
        return await tool.run(text)

    return make_tool(name=tool.name, description="A tool of the host author's.")(run)


@define(eq=False)
class Driven:
    """How the agents of all conversations are made: each turn has one of its own, with what the storage has kept."""

    setup: AgentSetup
    plugins: AllyPlugins
    storage: InMemoryStorage = field(factory=InMemoryStorage)

    def agent(self, session_id: str) -> Agent:
        """Return an agent for the next turn of a conversation."""
        setup = self.setup
        kept = SnapshotSessionManager(session_id.replace(" ", "-"), storage=self.storage)
        return Agent(
            ScriptedModel(setup.script),
            name=setup.name,
            system_prompt=setup.system_prompt,
            tools=[as_tool(each) for each in setup.tools],
            session_manager=kept,
            callback_handler=None,
            plugins=[self.plugins],
        )


class StrandsDriver(AdapterDriver):
    """Drives agents whose conversations the framework stores."""

    name = "strands"
    serves = AllyPlugins.serves

    @override
    def make(self, setup: AgentSetup) -> Driven:
        """Return an agent with a scripted model."""
        plugins = AllyPlugins(
            setup.host,
            **setup.options,
            compact=_from_the_last_prompt if setup.can_compact else None,
        )
        return Driven(setup, plugins)

    @override
    async def run(self, agent: Driven, prompt: str | None, *, session_id: str, is_streamed: bool = False) -> str:
        """Run a turn, and keep the history, however it ends."""
        made = agent.agent(session_id)
        if not is_streamed:
            return str(await made.invoke_async(prompt)).strip()
        said = ""
        async for event in made.stream_async(prompt):
            if "message" in event:  # it is whole: what was said before it is no part of the next one
                said = said if "result" in event else ""
            said += event.get("data", "")
            if "result" in event:
                said = str(event["result"]).strip()
        return said

    @override
    def history(self, agent: Driven, session_id: str) -> Sequence[Message]:
        """Return the history as the next run reads it."""
        return read(agent.agent(session_id).messages)


def _from_the_last_prompt(messages: list[Any]) -> list[Any]:
    prompts = [n for n, each in enumerate(messages) if each["role"] == "user" and "text" in each["content"][0]]
    return messages[prompts[-1] :]
