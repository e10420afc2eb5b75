"""How checks and tests drive an agent of google-adk: a scripted model, turns, and the history."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from attrs import define, field
from google.adk.agents import LlmAgent
from google.adk.agents._streaming_mode import StreamingMode
from google.adk.agents.run_config import RunConfig
from google.adk.apps import App
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import Runner
from google.adk.sessions import InMemorySessionService
from google.adk.tools.function_tool import FunctionTool
from google.genai.types import (
    Content,
    FinishReason,
    FunctionCall,
    GenerateContentResponseUsageMetadata,
    Part,
)

from ally_plugins.adapters.google_adk import AllyPlugins
from ally_plugins.contract.tools.recorded_calls import recorded_call
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import Message
from ally_plugins.testing.adapters.driver import AdapterDriver, AgentSetup, HostTool
from ally_plugins.testing.adapters.script import Answer, Asked

__all__ = ["GoogleADKDriver", "ScriptedModel", "said"]


class ScriptedModel(BaseLlm):
    """A model that follows a script."""

    script: Any = None

    @override
    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncGenerator[LlmResponse, None]:  # noqa: FBT001, FBT002 - the framework's own
        """Answer by the script."""
        config = llm_request.config
        declared = [each for tool in config.tools or () for each in tool.function_declarations or ()]
        tools = {each.name: _schema(each) for each in declared}
        system = [Message(role="system", content=config.system_instruction)] if config.system_instruction else []
        answer = self.script.answer(Asked(messages=(*system, *read(llm_request.contents)), tools=tools))
        if stream and answer.text:
            for word in answer.text.split(" "):
                yield LlmResponse(content=Content(role="model", parts=[Part(text=f"{word} ")]), partial=True)
        yield response(answer)


def _schema(declared: Any) -> dict[str, Any]:
    given = declared.parameters
    return declared.parameters_json_schema or {"properties": dict((given.properties if given else None) or {})}


def response(answer: Answer) -> LlmResponse:
    """Return an answer of the script as the framework's."""
    parts = [Part(text=answer.thinking, thought=True)] if answer.thinking else []
    parts += [Part(text=answer.text)] if answer.text else []
    parts += [
        Part(
            function_call=FunctionCall.model_construct(id=call.call_id, name=call.tool_name, args=dict(call.arguments))
        )
        for call in answer.calls
    ]
    usage = GenerateContentResponseUsageMetadata(
        prompt_token_count=answer.input_tokens, candidates_token_count=answer.output_tokens
    )
    content = Content(role="model", parts=parts)
    return LlmResponse(content=content, usage_metadata=usage, finish_reason=FinishReason.STOP)


def read(contents: Iterable[Any]) -> list[Message]:
    """Return contents of the framework as the model reads them."""
    found = []
    for content in contents:
        text, calls = "", []
        for part in content.parts:
            if part.function_call is not None:
                calls.append(
                    recorded_call(part.function_call.name, part.function_call.args or {}, part.function_call.id)
                )
            elif part.function_response is not None:
                said = part.function_response.response
                shown = said.get("result", said.get("error")) if len(said) == 1 else json.dumps(said)
                found.append(Message(role="tool", content=str(shown), tool_call_id=part.function_response.id))
            elif content.role == "user":
                found.append(Message(role="user", content=part.text))
            elif not part.thought:
                text += part.text
        if content.role == "model":
            found.append(Message(role="assistant", content=text, tool_calls=calls))
    return found


def as_tool(tool: HostTool) -> Any:
    """Return a tool of the host author's."""

    async def run(text: str) -> str:
        return await tool.run(text)

    run.__name__ = tool.name
    run.__doc__ = "A tool of the host author's."
    return FunctionTool(run)


def said(text: str) -> Content:
    """Return what the person says."""
    return Content(role="user", parts=[Part(text=text)])


@define(eq=False)
class Driven:
    """A runner with its sessions, and the plugins of the host."""

    runner: Runner
    plugins: AllyPlugins
    sessions: InMemorySessionService = field(factory=InMemorySessionService)


class GoogleADKDriver(AdapterDriver):
    """Drives a runner whose sessions are in memory."""

    name = "google-adk"
    serves = AllyPlugins.serves

    @override
    def make(self, setup: AgentSetup) -> Driven:
        """Return an agent with a scripted model."""
        plugins = AllyPlugins(
            setup.host,
            **setup.options,
            context_window=setup.script.window,
            session_id=lambda session: session.id,
        )
        tools = [as_tool(each) for each in setup.tools]
        model = ScriptedModel(model="scripted", script=setup.script)
        agent = LlmAgent(name=setup.name, model=model, instruction=setup.system_prompt, tools=tools)
        sessions = InMemorySessionService()
        app = App(name="test", root_agent=agent, plugins=[plugins])
        runner = Runner(app=app, session_service=sessions)
        return Driven(runner, plugins, sessions)

    @override
    async def run(self, agent: Driven, prompt: str | None, *, session_id: str, is_streamed: bool = False) -> str:
        """Run a turn, and keep the history, however it ends."""
        who: Any = {"user_id": "someone", "session_id": session_id}
        if await agent.sessions.get_session(app_name="test", **who) is None:
            await agent.sessions.create_session(app_name="test", **who)
        config = RunConfig(streaming_mode=StreamingMode.SSE if is_streamed else StreamingMode.NONE)
        answer = ""
        message = said(prompt) if prompt is not None else None
        async with aclosing(
            agent.plugins.run_async(agent.runner, new_message=message, run_config=config, **who)
        ) as events:
            async for event in events:
                if event.is_final_response() and event.content is not None:
                    answer = "".join(part.text or "" for part in event.content.parts or () if not part.thought)
        return answer

    @override
    def history(self, agent: Driven, session_id: str) -> Sequence[Message]:
        """Return the history as the next run reads it."""
        session = agent.sessions.get_session_sync(app_name="test", user_id="someone", session_id=session_id)
        assert session is not None  # noqa: S101 - it has run
        return read(event.content for event in session.events if event.content is not None)
