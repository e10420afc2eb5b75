"""The adapters for other frameworks beside each other: what each adds to a tool call, without a plugin and with a gate.

As `bench_adapter` has it for pydantic-ai: an offline model calls a tool that does nothing, twenty times one after the
other, then says that it is done; runs with and without the adapter take turns, and the fastest quarter of each counts,
in processor time of the loop's thread. Calls of functions are counted beside the time: no load changes these. A
framework that is not installed here has a sentence in place of its figures.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))
from bench_adapter import CALLS, Gatekeeper, Run, _added, _calls, _compared, _usual
from daemon_rows import Row, pinned, row

from ally_plugins import Host
from ally_plugins.contract.values.compat import override

# ruff: noqa: ARG002 - models take what they are given

ROUNDS: Final = 24

Agent = Callable[["Host | None"], Run]
"""What returns a run of an agent: with the adapter where there is a host, bare where there is none."""


def langchain(host: Host | None) -> Run:
    """Return runs of an agent that `create_agent` makes."""
    from langchain.agents import create_agent
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, ToolMessage
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.tools import tool

    from ally_plugins.adapters.langchain import AllyPlugins

    class Model(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "offline"

        @override
        def bind_tools(self, tools: Any, **_: Any) -> Any:
            return self

        @override
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
            number = sum(isinstance(each, ToolMessage) for each in messages)
            calls: Any = [] if number == CALLS else [{"name": "work", "args": {"text": "a"}, "id": str(number)}]
            return ChatResult(
                generations=[ChatGeneration(message=AIMessage("" if calls else "done", tool_calls=calls))]
            )

        @override
        async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
            return self._generate(messages)

    @tool
    async def work(text: str) -> str:
        """Do nothing."""
        return text

    agent: Any = create_agent(Model(), [work], middleware=[AllyPlugins(host)] if host is not None else [])
    numbers = count()

    async def run() -> None:
        config = {"configurable": {"thread_id": f"c{next(numbers)}"}, "recursion_limit": 10 * CALLS}
        done = await agent.ainvoke({"messages": [("user", "go")]}, config)
        assert done["messages"][-1].text == "done"

    return run


def openai_agents(host: Host | None) -> Run:
    """Return runs of an agent of the OpenAI Agents SDK, with its own scripted model."""
    from agents import Agent, Runner, function_tool, set_tracing_disabled
    from agents.testing import ScriptedModel, assistant_message, function_call

    from ally_plugins.adapters.openai_agents import AllyPlugins

    set_tracing_disabled(disabled=True)  # it would be sent to the provider

    @function_tool
    async def work(text: str) -> str:
        """Do nothing."""
        return text

    runner: Any = AllyPlugins(host) if host is not None else Runner

    async def run() -> None:
        calls = [[function_call("work", '{"text": "a"}', call_id=str(number))] for number in range(CALLS)]
        model = ScriptedModel([*calls, [assistant_message("done")]])
        done = await runner.run(Agent(name="agent", model=model, tools=[work]), "go", max_turns=2 * CALLS)
        assert done.final_output == "done"

    return run


def strands(host: Host | None) -> Run:
    """Return runs of an agent of strands, which is made for each: it keeps its conversation."""
    from strands import Agent, tool
    from strands.models import Model

    from ally_plugins.adapters.strands import AllyPlugins

    class Offline(Model):
        def update_config(self, **_: Any) -> None:
            raise NotImplementedError

        def get_config(self) -> Any:
            return {"model_id": "offline"}

        def structured_output(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

        async def stream(self, messages: Any, *_: Any, **__: Any) -> AsyncGenerator[Any]:
            number = len(messages) // 2
            use: Any = {} if number == CALLS else {"toolUse": {"name": "work", "toolUseId": str(number)}}
            yield {"messageStart": {"role": "assistant"}}
            yield {"contentBlockStart": {"start": use}}
            delta: Any = {"toolUse": {"input": json.dumps({"text": "a"})}} if use else {"text": "done"}
            yield {"contentBlockDelta": {"delta": delta}}
            yield {"contentBlockStop": {}}
            yield {"messageStop": {"stopReason": "tool_use" if use else "end_turn"}}

    @tool
    async def work(text: str) -> str:
        """Do nothing."""
        return text

    plugins = [AllyPlugins(host)] if host is not None else []

    async def run() -> None:
        done = await Agent(Offline(), tools=[work], plugins=plugins, callback_handler=None).invoke_async("go")
        assert str(done).strip() == "done"

    return run


def google_adk(host: Host | None) -> Run:
    """Return runs of an app of google-adk, with sessions in memory."""
    from google.adk.agents import LlmAgent
    from google.adk.apps import App
    from google.adk.models import BaseLlm, LlmResponse
    from google.adk.runners import Runner
    from google.adk.sessions import InMemorySessionService
    from google.genai.types import Content, FunctionCall, Part

    from ally_plugins.adapters.google_adk import AllyPlugins

    class Offline(BaseLlm):
        async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncGenerator[LlmResponse]:  # noqa: FBT001, FBT002 - the framework's own
            number = len(llm_request.contents) // 2
            call = FunctionCall(id=str(number), name="work", args={"text": "a"})
            part = Part(text="done") if number == CALLS else Part(function_call=call)
            yield LlmResponse(content=Content(role="model", parts=[part]))

    async def work(text: str) -> dict[str, Any]:
        """Do nothing."""
        return {"text": text}

    sessions: Any = InMemorySessionService()
    agent = LlmAgent(name="agent", model=Offline(model="offline"), tools=[work])
    plugins: Any = [AllyPlugins(host)] if host is not None else []
    runner = Runner(app=App(name="bench", root_agent=agent, plugins=plugins), session_service=sessions)
    numbers = count()

    async def run() -> None:
        about = {"user_id": "u", "session_id": f"c{next(numbers)}"}
        await sessions.create_session(app_name="bench", **about)
        words = Content(role="user", parts=[Part(text="go")])
        events = [each async for each in runner.run_async(**about, new_message=words)]
        assert events[-1].content.parts[0].text == "done"

    return run


FRAMEWORKS: Final[dict[str, tuple[str, Agent]]] = {
    "langchain": ("langchain", langchain),
    "openai-agents": ("agents", openai_agents),
    "strands": ("strands", strands),
    "google-adk": ("google.adk", google_adk),
}
"""What each is imported as, and its agent."""


def _is_installed(module: str) -> bool:
    return find_spec(module.partition(".")[0]) is not None and find_spec(module) is not None


async def _measured(name: str, agent: Agent) -> list[Row]:
    async with (
        Host("bench", home=None, discover=False) as none,
        Host("bench", home=None, discover=False, plugins={"p": Gatekeeper}) as gated,
    ):
        runs = {"bare": agent(None), "ours": agent(none), "gated": agent(gated)}
        calls = {each: await _calls(run) for each, run in runs.items()}
        found = await _compared(runs, ROUNDS)
    name = f"adapter for {name}"
    ours, bare = _usual(found, "ours") * 1e3, _usual(found, "bare") * 1e3
    return [
        row(f"{name}: added to each tool call (bare: of pydantic-ai's wanted)", (ours - bare) / CALLS, 0.25, "ms"),
        row(f"{name}: {CALLS} tool calls, against without", ours, bare, "ms"),
        row(f"{name}: calls of functions there", calls["ours"], calls["bare"], ""),
        row(
            f"{name}: an inline gate in memory, each tool call",
            _added(found, "gated", "ours") / CALLS * 1e6,
            None,
            "µs",
        ),
    ]


def _absent(name: str) -> Row:
    text = f"adapter for {name}: it is not installed here; `nox -s bench_adapters` has it"
    return {"name": text, "ours": None, "bare": None, "ratio": None, "target": "-", "unit": ""}


def run() -> list[Row]:
    """Measure those that are installed, and return the rows of all."""
    logging.disable(logging.CRITICAL)
    os.environ["OTEL_SDK_DISABLED"] = "true"  # nobody is told of these runs
    rows: list[Row] = []
    with pinned():
        for name, (module, agent) in FRAMEWORKS.items():
            rows += asyncio.run(_measured(name, agent)) if _is_installed(module) else [_absent(name)]
    return rows


if __name__ == "__main__":
    for one in run():
        print(one)
