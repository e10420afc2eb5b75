"""How the checks for host adapters drive an agent of langchain: a scripted model, turns, and the history."""

# ruff: noqa: ARG002 - the framework gives its models all that it has, by name

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from ally_plugins.adapters.langchain import AllyPlugins
from ally_plugins.adapters.langchain.messages import answered
from ally_plugins.contract.tools.recorded_calls import recorded_call
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import Message
from ally_plugins.testing.adapters.driver import AdapterDriver, AgentSetup, AgentWithHistories, HostTool
from ally_plugins.testing.adapters.script import Answer, Asked

__all__ = ["LangChainDriver", "ScriptedModel"]


class LangChainDriver(AdapterDriver):
    """Drives agents as `create_agent` makes them; the history is kept by who runs them, so there is no checkpointer."""

    name = "langchain"
    serves = AllyPlugins.serves

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
        model = ScriptedModel(script=setup.script)
        agent: Any = create_agent(
            model, tools, system_prompt=setup.system_prompt, middleware=[plugins], name=setup.name
        )
        return AgentWithHistories(agent)

    @override
    async def run(
        self, agent: AgentWithHistories, prompt: str | None, *, session_id: str, is_streamed: bool = False
    ) -> str:
        """Run a turn, and keep the history, however it ends."""
        history = agent.histories.setdefault(session_id, [])
        given = [*history, HumanMessage(prompt)] if prompt is not None else history
        config = {"configurable": {"thread_id": session_id}}
        words: list[str] = []
        async for mode, part in agent.agent.astream({"messages": given}, config, stream_mode=["values", "messages"]):
            if mode == "values":
                agent.histories[session_id] = part["messages"]
            elif isinstance(part[0], AIMessage) and part[1]["langgraph_node"] == "model":
                words.append(str(part[0].text))  # a whole one is an answer that was held
        return "".join(words) if is_streamed else str(agent.histories[session_id][-1].text)

    @override
    def history(self, agent: AgentWithHistories, session_id: str) -> Sequence[Message]:
        """Return the history as the next run reads it."""
        return read(answered(agent.histories.get(session_id, []))[0])  # as the next run reads it


def _from_the_last_prompt(messages: list[BaseMessage]) -> list[BaseMessage]:
    prompts = [number for number, each in enumerate(messages) if isinstance(each, HumanMessage)]
    return messages[prompts[-1] :]


def _tool(tool: HostTool) -> BaseTool:
    async def run(text: str) -> str:
        return await tool.run(text)

    return StructuredTool.from_function(coroutine=run, name=tool.name, description=tool.name)


class ScriptedModel(BaseChatModel):
    """A model that follows a script."""

    script: Any

    @property
    @override
    def _llm_type(self) -> str:
        return "scripted"

    @override
    def bind_tools(self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any) -> Any:
        """Take the tools along to each request."""
        return self.bind(tools=[convert_to_openai_tool(each) for each in tools], **kwargs)

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=_response(self._answer(messages, kwargs)))])

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages, **kwargs)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        whole = _response(self._answer(messages, kwargs))
        said = [each for each in whole.content if isinstance(each, dict)]
        for block in said:
            yield ChatGenerationChunk(message=AIMessageChunk(content=[block]))
        last = AIMessageChunk(content=[], tool_calls=whole.tool_calls, usage_metadata=whole.usage_metadata)
        yield ChatGenerationChunk(message=last)

    def _answer(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> Answer:
        found = [each["function"] for each in kwargs.pop("tools", [])]
        tools = {each["name"]: each["parameters"] for each in found}
        answer: Answer = self.script.answer(Asked(messages=tuple(read(messages)), tools=tools, settings=kwargs))
        return answer


def _response(said: Answer) -> AIMessage:
    blocks: list[Any] = [{"type": "reasoning", "reasoning": said.thinking}] if said.thinking else []
    words = [f"{word} " for word in said.text.split(" ")]
    if said.text:
        words[-1] = words[-1].removesuffix(" ")
        blocks += [{"type": "text", "text": word} for word in words]
    calls: Any = [{"name": each.tool_name, "args": dict(each.arguments), "id": each.call_id} for each in said.calls]
    total = said.input_tokens + said.output_tokens
    usage: Any = {"input_tokens": said.input_tokens, "output_tokens": said.output_tokens, "total_tokens": total}
    return AIMessage(blocks, tool_calls=calls, usage_metadata=usage)


def read(messages: Iterable[BaseMessage]) -> list[Message]:
    """Return messages of the framework as the model reads them."""
    return [_read(message) for message in messages]


def _read(message: BaseMessage) -> Message:
    if isinstance(message, ToolMessage):
        return Message(role="tool", content=str(message.text), tool_call_id=message.tool_call_id)
    if isinstance(message, AIMessage):
        calls: Any = [recorded_call(each["name"], each["args"], each["id"]) for each in message.tool_calls]
        return Message(role="assistant", content=str(message.text), tool_calls=calls)
    return Message(role="system" if isinstance(message, SystemMessage) else "user", content=str(message.text))
