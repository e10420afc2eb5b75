"""Agents of google-adk with offline models on real hosts, and how the checks for host adapters drive them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

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

from ally_plugins import Event, Host, Message
from ally_plugins.adapters.google_adk import AllyPlugins
from ally_plugins.contract.tools.recorded_calls import recorded_call
from ally_plugins.testing import AdapterDriver, AgentSetup, Answer, Asked, HostTool, Script
from tests.kit.hosts import new_host

E = TypeVar("E", bound=Event)


class ScriptedModel(BaseLlm):
    """A model that follows a script."""

    script: Any = None

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncGenerator[LlmResponse, None]:  # noqa: FBT001, FBT002 - the framework's own
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
    async def run(text: str) -> str:
        return await tool.run(text)

    run.__name__ = tool.name
    run.__doc__ = "A tool of the host author's."
    return FunctionTool(run)


def said(text: str) -> Content:
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

    def make(self, setup: AgentSetup) -> Driven:
        plugins = AllyPlugins(
            setup.host,
            approve=setup.approve,
            sensitive=setup.sensitive,
            preview=setup.preview,
            tool_failure=setup.tool_failure,
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

    async def run(self, agent: Driven, prompt: str | None, *, session_id: str, is_streamed: bool = False) -> str:
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
                    answer = "".join(part.text or "" for part in event.content.parts if not part.thought)
        return answer

    def history(self, agent: Driven, session_id: str) -> Sequence[Message]:
        session = agent.sessions.get_session_sync(app_name="test", user_id="someone", session_id=session_id)
        assert session is not None
        return read(event.content for event in session.events if event.content is not None)


class Bench:
    """A host with plugins, what it emitted, and runners on it; their sessions are `s` of the user `u`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.events: list[Any] = []
        self.sessions = InMemorySessionService()
        host.stream.subscribe("*", self.events.append)

    def plugins(self, **options: Any) -> AllyPlugins:
        return AllyPlugins(self.host, session_id=lambda session: session.id, **options)

    def agent(self, *steps: Any, name: str = "agent", **options: Any) -> LlmAgent:
        """Return an agent whose model follows these steps."""
        return LlmAgent(name=name, model=ScriptedModel(model="scripted", script=Script(steps)), **options)

    def runner(self, agent: Any, plugins: AllyPlugins | None = None, *others: Any) -> Runner:
        app = App(name="test", root_agent=agent, plugins=[*others, plugins or self.plugins()])
        return Runner(app=app, session_service=self.sessions)

    async def run(self, runner: Runner, message: Any = "go", *, session: str = "s", user: str = "u") -> list[Any]:
        """Run one turn by the runner itself, and return its events."""
        who: Any = {"user_id": user, "session_id": session}
        if await self.sessions.get_session(app_name="test", **who) is None:
            await self.sessions.create_session(app_name="test", **who)
        given = said(message) if isinstance(message, str) else message
        return [event async for event in runner.run_async(new_message=given, **who)]

    def of(self, *kinds: type[E], session: str | None = None) -> list[E]:
        """Return the events of these types, in order."""
        return [each for each in self.events if isinstance(each, kinds) and session in {None, each.session_id}]


@asynccontextmanager
async def live(plugins: Mapping[str, Any] | None = None, **options: Any) -> AsyncGenerator[Bench]:
    async with new_host(plugins, **options) as host:
        yield Bench(host)


def results(events: Iterable[Any]) -> dict[str, Any]:
    """Return what calls were answered with, the last of each."""
    responses = [each for event in events for each in event.get_function_responses()]
    return {each.id: each.response for each in responses}


def answer_of(events: Iterable[Any]) -> str:
    """Return what the agent said last."""
    texts = [part.text for event in events if event.content for part in event.content.parts if part.text]
    return texts[-1] if texts else ""
