"""Other middleware of the framework beside plugins, and its own ways to stop and go on."""

from __future__ import annotations

from typing import Any

from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
    LLMToolEmulator,
    ModelFallbackMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from ally_plugins import AgentEnd, AgentStart, Deny, ModelResponse, ToolCallEnd, UserMessage
from ally_plugins.adapters.langchain import AllyPlugins
from ally_plugins.testing import Answer
from tests.adapters.langchain.bench import CALL, HELLO, ONE, approve, gate, live, model, new_agent, results
from tests.kit.waiting import go


def failing(times: int, ran: list[str]) -> Any:
    """Return a tool that fails so many times."""

    @tool
    async def work(text: str) -> str:
        """Work."""
        ran.append(text)
        if len(ran) <= times:
            raise ConnectionError("no connection")
        return f"worked on {text}"

    return work


def test_each_attempt_of_a_tool_is_gated() -> None:
    ran: list[str] = []

    async def play() -> None:
        async with live({"guard": gate(lambda _: Deny("not a third time") if len(ran) == 2 else None)}) as bench:
            retry = ToolRetryMiddleware(max_retries=5, initial_delay=0)
            state = await bench.agent(CALL, "done", tools=[failing(9, ran)], before=[retry]).ainvoke(HELLO, ONE)
            assert len(ran) == 2
            assert "not a third time" in results(state)["c1"]
            assert [each.denied for each in bench.of(ToolCallEnd)] == [False, False, True]

    go(play())


def test_a_person_who_was_asked_by_the_framework_is_not_asked_over_a_gate() -> None:
    ran: list[str] = []

    async def play() -> None:
        async with live(
            {"guard": gate(lambda call: Deny("not b") if call.arguments["text"] == "b" else None)}
        ) as bench:
            asking = HumanInTheLoopMiddleware(interrupt_on={"work": True})
            agent = bench.agent(CALL, "done", tools=[failing(0, ran)], before=[asking])
            await agent.ainvoke(HELLO, ONE)
            edited = {"name": "work", "args": {"text": "b"}}
            state = await agent.ainvoke(Command(resume=approve("edit", edited_action=edited)), ONE)
            assert ran == []
            assert "not b" in results(state)["c1"]
            assert bench.seen() == [("work", {"text": "b"})]

    go(play())


def test_a_tool_that_other_middleware_answers_for_does_not_run() -> None:
    ran: list[str] = []

    async def play() -> None:
        async with live({"guard": gate(lambda _: None)}) as bench:
            emulator = LLMToolEmulator(model=model("made up"))
            state = await bench.agent(CALL, "done", tools=[failing(0, ran)], before=[emulator]).ainvoke(HELLO, ONE)
            assert (ran, results(state)) == ([], {"c1": "made up"})
            assert bench.told == []

    go(play())


def test_each_attempt_of_a_model_is_reported() -> None:
    async def play() -> None:
        async with live() as bench:
            fallback = ModelFallbackMiddleware(model("from the other"))
            agent = bench.agent(Answer(error=ConnectionError("no connection")), before=[fallback])
            state = await agent.ainvoke(HELLO, ONE)
            assert str(state["messages"][-1].text) == "from the other"
            assert [each.stop_reason for each in bench.of(ModelResponse)] == ["ConnectionError", None]

    go(play())


def test_a_graph_that_stops_before_its_tools_goes_on_as_another_run() -> None:
    ran: list[str] = []

    async def play() -> None:
        async with live({"guard": gate(lambda _: None)}) as bench:
            agent = new_agent(
                model(CALL, "done"),
                [failing(0, ran)],
                middleware=[AllyPlugins(bench.host)],
                checkpointer=InMemorySaver(),
                interrupt_before=["tools"],
            )
            await agent.ainvoke(HELLO, ONE)
            assert (ran, bench.told) == ([], [])
            await agent.ainvoke(None, ONE)
            assert (ran, bench.told) == (["a"], ["start c1", "end c1"])
            assert [each.message for each in bench.of(AgentStart)] == ["hello", None]
            assert [each.content for each in bench.of(AgentEnd)] == [None, "done"]
            assert len(bench.of(UserMessage)) == 1

    go(play())
