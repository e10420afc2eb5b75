"""How the checks for host adapters drive an agent of pydantic-ai: a scripted model, turns, and the history."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from pydantic_ai import Agent, Tool, capture_run_messages
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
    repair_messages,
)
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.usage import RequestUsage

from ally_plugins.adapters.pydantic_ai import AllyPlugins
from ally_plugins.contract.tools.recorded_calls import recorded_call
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import Message
from ally_plugins.testing.adapters.driver import AdapterDriver, AgentSetup, AgentWithHistories, HostTool
from ally_plugins.testing.adapters.script import Answer, Asked, Script

__all__ = ["PydanticAIDriver", "read", "scripted"]


class PydanticAIDriver(AdapterDriver):
    """Drives agents as `make_agent` makes them."""

    name = "pydantic-ai"
    serves = AllyPlugins.serves

    def make_agent(self, model: Any, plugins: AllyPlugins, **options: Any) -> Agent[None, str]:
        """Return an agent; a host author puts their own here."""
        return Agent(model, capabilities=[plugins], **options)

    @override
    def make(self, setup: AgentSetup) -> AgentWithHistories:
        """Return an agent with a scripted model."""
        plugins = AllyPlugins(
            setup.host,
            **setup.options,
            context_window=setup.script.window,
            compact=_from_the_last_prompt if setup.can_compact else None,
        )
        tools = [_tool(each) for each in setup.tools]
        model = scripted(setup.script)
        return AgentWithHistories(
            self.make_agent(model, plugins, name=setup.name, tools=tools, instructions=setup.system_prompt)
        )

    @override
    async def run(
        self, agent: AgentWithHistories, prompt: str | None, *, session_id: str, is_streamed: bool = False
    ) -> str:
        """Run a turn, and keep the history, however it ends."""
        history = agent.histories.setdefault(session_id, [])
        with capture_run_messages() as messages:
            try:
                given: dict[str, Any] = {"message_history": history, "conversation_id": session_id}
                if is_streamed:
                    async with agent.agent.run_stream(prompt, **given) as stream:
                        return "".join([text async for text in stream.stream_text(delta=True)])
                answer: str = (await agent.agent.run(prompt, **given)).output
                return answer
            finally:
                agent.histories[session_id] = list(messages) or history

    @override
    def history(self, agent: AgentWithHistories, session_id: str) -> Sequence[Message]:
        """Return the history as the next run reads it."""
        return read(repair_messages(agent.histories.get(session_id, [])))


def _from_the_last_prompt(messages: list[ModelMessage]) -> list[ModelMessage]:
    prompts = [n for n, each in enumerate(messages) if any(isinstance(part, UserPromptPart) for part in each.parts)]
    return messages[prompts[-1] :]


def _tool(tool: HostTool) -> Tool[None]:
    async def run(text: str) -> str:
        return await tool.run(text)

    return Tool(run, name=tool.name)


def scripted(script: Script) -> FunctionModel:
    """Return a model that follows a script."""

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return _response(script.answer(_asked(messages, info)))

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        """Answer by the script."""
        said = script.answer(_asked(messages, info))
        if said.thinking:
            yield {0: DeltaThinkingPart(content=said.thinking)}
        for number, word in enumerate(said.text.split(" ") if said.text else ()):
            yield f" {word}" if number else word
        for number, call in enumerate(said.calls, 1):
            arguments = ToolCallPart(call.tool_name, dict(call.arguments)).args_as_json_str()
            yield {number: DeltaToolCall(call.tool_name, arguments, tool_call_id=call.call_id)}

    return FunctionModel(answer, stream_function=stream)


def _response(said: Answer) -> ModelResponse:
    parts: list[Any] = [ThinkingPart(said.thinking)] if said.thinking else []
    parts += [TextPart(said.text)] if said.text else []
    parts += [ToolCallPart(each.tool_name, dict(each.arguments), each.call_id or "") for each in said.calls]
    return ModelResponse(parts, usage=RequestUsage(input_tokens=said.input_tokens, output_tokens=said.output_tokens))


def _asked(messages: list[ModelMessage], info: AgentInfo) -> Asked:
    system = [Message(role="system", content=info.instructions)] if info.instructions else []
    tools = {each.name: each.parameters_json_schema for each in info.function_tools}
    return Asked(messages=(*system, *read(messages)), tools=tools, settings=dict(info.model_settings or {}))


def read(messages: Iterable[ModelMessage]) -> list[Message]:
    """Return messages of the framework as the model reads them."""
    return [found for message in messages for found in _read(message)]


def _read(message: ModelMessage) -> Iterable[Message]:
    if isinstance(message, ModelRequest):
        for part in message.parts:
            if isinstance(part, ToolReturnPart):
                yield Message(role="tool", content=part.model_response_str(), tool_call_id=part.tool_call_id)
            elif isinstance(part, UserPromptPart):
                items = [part.content] if isinstance(part.content, str) else part.content
                for item in items:
                    yield Message(role="user", content=getattr(item, "content", item))  # type: ignore[arg-type]
            elif isinstance(part, SystemPromptPart):
                yield Message(role="system", content=part.content)
        return
    text = "".join(part.content for part in message.parts if isinstance(part, TextPart))
    parts = [part for part in message.parts if isinstance(part, ToolCallPart)]
    calls = [recorded_call(each.tool_name, each.args or {}, each.tool_call_id) for each in parts]
    yield Message(role="assistant", content=text, tool_calls=calls)
