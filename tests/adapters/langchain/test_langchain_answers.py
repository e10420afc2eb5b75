"""Answers of langchain's agents on their way to the person: nothing is shown that a gate has not allowed."""

# ruff: noqa: ARG001, S105 - hooks are methods, and take what their event promises; what a gate looks for is no password

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents.structured_output import ToolStrategy
from langchain_core.tools import tool
from pydantic import BaseModel

from ally_plugins import AgentEnd, AssistantMessage, Deny, GateRefused, Replace, ToolCall, ToolCallEnd, evolve
from ally_plugins.adapters.langchain import AllyPlugins
from ally_plugins.testing import Answer
from ally_plugins.testing.adapters.script import calls
from tests.adapters.langchain.bench import HELLO, ONE, Bench, live, model, new_agent, results
from tests.kit.hosts import make_plugin, new_host
from tests.kit.waiting import go

SECRET = "the code is wxyz"


def denying() -> dict[str, Any]:
    async def ally_gate_answer(self: Any, message: Any) -> Deny | None:
        self.seen.append((message.content, message.metadata.get("isStructured")))
        return Deny("it has a code") if "wxyz" in message.content else None

    return {"guard": make_plugin(ally_gate_answer=ally_gate_answer)}


@pytest.mark.parametrize("how", ["messages", "events"])
def test_no_token_of_a_denied_answer_is_streamed(how: str) -> None:
    async def play() -> None:
        async with live(denying()) as bench:
            agent = bench.agent(SECRET, tools=[])
            shown: list[str] = []

            async def read() -> None:
                if how == "messages":
                    async for part, _ in agent.astream(HELLO, ONE, stream_mode="messages"):
                        shown.append(str(part.text))
                else:
                    async for event in agent.astream_events(HELLO, ONE, version="v2"):
                        if event["event"] == "on_chat_model_stream":
                            shown.append(str(event["data"]["chunk"].text))  # noqa: PERF401 - what came before it raises counts

            with pytest.raises(GateRefused, match="it has a code"):
                await read()
            assert "wxyz" not in "".join(shown)

    go(play())


def test_tokens_are_streamed_where_nobody_wants_to_see_the_answer() -> None:
    async def play() -> None:
        async with live() as bench:
            agent = bench.agent("one two three")
            parts = [part async for part, _ in agent.astream(HELLO, ONE, stream_mode="messages")]
            assert [str(part.text) for part in parts if str(part.text)] == ["one ", "two ", "three"]

    go(play())


class Found(BaseModel):
    """What was found."""

    code: str


def found(code: str) -> Answer:
    return Answer(calls=(ToolCall("Found", {"code": code}, "c1"),))


def test_structured_output_is_an_answer() -> None:
    async def play() -> None:
        for code, is_denied in (("wxyz", True), ("0000", False)):
            async with live(denying()) as bench:
                plugins = AllyPlugins(bench.host)
                agent = new_agent(model(found(code)), middleware=[plugins], response_format=ToolStrategy(Found))
                if is_denied:
                    with pytest.raises(GateRefused, match="it has a code"):
                        await agent.ainvoke(HELLO, ONE)
                else:
                    state = await agent.ainvoke(HELLO, ONE)
                    assert state["structured_response"] == Found(code=code)
                assert bench.seen() == [(f'{{"code": "{code}"}}', True)]

    go(play())


def test_structured_output_that_a_transform_would_change_is_withheld() -> None:
    async def ally_transform_answer(self: Any, message: Any) -> Any:
        return Replace(evolve(message, content=message.content.replace("wxyz", "****")))

    async def play() -> None:
        async with live({"redact": make_plugin(ally_transform_answer=ally_transform_answer)}) as bench:
            plugins = AllyPlugins(bench.host)
            agent = new_agent(model(found("wxyz")), middleware=[plugins], response_format=ToolStrategy(Found))
            with pytest.raises(GateRefused, match="structured output"):
                await agent.ainvoke(HELLO, ONE)

    go(play())


def test_a_denied_answer_of_a_sub_agent_is_a_failed_call_that_its_agent_reads() -> None:
    async def play() -> None:
        async with live(denying()) as bench:
            helper = new_agent(model(SECRET), middleware=[AllyPlugins(bench.host)], name="helper")

            @tool
            async def ask(text: str) -> str:
                """Ask the helper."""
                return str((await helper.ainvoke({"messages": [("user", text)]}))["messages"][-1].text)

            state = await bench.agent(calls(("m1", "ask", "go")), "I see", tools=[ask]).ainvoke(HELLO, ONE)
            assert "it has a code" in results(state)["m1"]
            assert "wxyz" not in str(state)
            assert not bench.of(ToolCallEnd)[0].success
            assert [each.content for each in bench.of(AssistantMessage)] == ["I see"]
            assert [each.content for each in bench.of(AgentEnd)][-1] == "I see"

    go(play())


def test_a_run_that_was_refused_goes_on_with_the_next_message() -> None:
    async def play() -> None:
        async with live(denying()) as bench:
            agent = bench.agent(SECRET, "hello again")
            with pytest.raises(GateRefused):
                await agent.ainvoke(HELLO, ONE)
            state = await agent.ainvoke({"messages": [("user", "and now?")]}, ONE)
            assert [str(each.text) for each in state["messages"]] == [
                "hello",
                "[the answer was withheld: guard: it has a code]",
                "and now?",
                "hello again",
            ]

    go(play())


def test_a_denied_answer_of_an_invoked_agent_raises_too() -> None:
    agent = Bench(new_host(denying())).agent(SECRET)
    with pytest.raises(GateRefused, match="it has a code"):
        agent.invoke(HELLO, ONE)
