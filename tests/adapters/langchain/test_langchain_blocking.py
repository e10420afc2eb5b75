"""Agents of langchain that are run without a loop: `invoke`, `stream`, and graphs in the threads of a server."""

# ruff: noqa: ARG001 - hooks are methods, and take what their event or the framework gives them

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.errors import GraphDrained
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt

from ally_plugins import (
    AgentEnd,
    AgentStart,
    Ask,
    BlockingHost,
    Deny,
    HostError,
    ModelResponse,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    UserMessage,
)
from ally_plugins.adapters.langchain import AllyPlugins
from ally_plugins.adapters.langchain.runs import OPEN
from ally_plugins.runtime.lanes.call_thread import run_blocking
from ally_plugins.testing import Answer
from ally_plugins.testing.adapters.script import calls
from tests.adapters.langchain.bench import CALL, HELLO, ONE, Bench, gate, model, new_agent, question, results, resume
from tests.kit.hosts import make_plugin, new_host
from tests.kit.waiting import go


def noting(ran: list[str]) -> Any:
    @tool
    def work(text: str) -> str:
        """Work."""
        ran.append(text)
        return f"worked on {text}"

    return work


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.mark.smoke
def test_an_invoked_agent_tells_and_asks_as_an_awaited_one(ran: list[str]) -> None:
    bench = Bench(new_host({"guard": gate(lambda call: Deny("not b") if call.arguments["text"] == "b" else None)}))
    agent = bench.agent(calls(("c1", "work", "a"), ("c2", "work", "b")), "done", tools=[noting(ran)])
    state = agent.invoke(HELLO, ONE)
    assert ran == ["a"]
    assert results(state)["c1"] == "worked on a"
    assert "not b" in results(state)["c2"]
    told = [type(each) for each in bench.events]
    for kind, count in ((UserMessage, 1), (AgentStart, 1), (ModelResponse, 2), (ToolCallStart, 2), (ToolCallEnd, 2)):
        assert told.count(kind) == count
    assert [each.content for each in bench.of(AgentEnd)] == ["done"]
    assert bench.host.loop is None
    assert not OPEN


def test_an_invoked_agent_asks_by_an_interrupt(ran: list[str]) -> None:
    bench = Bench(new_host({"guard": gate(lambda _: Ask("is it safe?"))}))
    agent = bench.agent(CALL, "done", tools=[noting(ran)])
    assert question(agent.invoke(HELLO, ONE))["call_id"] == "c1"
    assert ran == []
    agent.invoke(resume("allow"), ONE)
    assert ran == ["a"]
    assert [type(each) for each in bench.events].count(ToolCallEnd) == 1


def test_an_interrupt_of_a_tool_passes_in_a_thread_too() -> None:
    answers: list[str] = []

    @tool
    def work(text: str) -> str:
        """Work."""
        answers.append(interrupt("which?"))
        return answers[-1]

    with BlockingHost("test", home=None, discover=False, plugins={"guard": gate(lambda _: None)}) as running:
        bench = Bench(running.host)
        agent = bench.agent(CALL, "done", tools=[work])
        assert question(agent.invoke(HELLO, ONE)) == "which?"
        agent.invoke(resume("this"), ONE)
        assert answers == ["this"]
        assert bench.told == ["start c1", "end c1"]


def test_a_tool_may_run_a_loop_of_its_own() -> None:
    async def one() -> int:
        return 1

    @tool
    def work(text: str) -> str:
        """Work."""
        return str(asyncio.run(one()))

    agent = Bench(new_host()).agent(CALL, "done", tools=[work])
    assert results(agent.invoke(HELLO, ONE)) == {"c1": "1"}


def test_threads_of_a_server_share_a_host(ran: list[str]) -> None:
    with BlockingHost("test", home=None, discover=False, plugins={"guard": gate(lambda _: None)}) as running:
        bench = Bench(running.host)

        def step(asked: Any) -> Any:
            own = asked.messages[0].content
            return calls((f"c{own}", "work", own)) if len(asked.messages) == 1 else f"done with {own}"

        agent = new_agent(model(*[step] * 40), [noting(ran)], middleware=[AllyPlugins(bench.host)])

        def talk(number: int) -> str:
            config: Any = {"configurable": {"thread_id": f"t{number}"}}
            state = agent.invoke({"messages": [("user", str(number))]}, config)
            return str(state["messages"][-1].text)

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(talk, range(20))) == [f"done with {number}" for number in range(20)]
        assert sorted(map(int, ran)) == list(range(20))
        for number in range(20):
            assert [each.call_id for each in bench.of(ToolCallEnd, f"t{number}")] == [f"c{number}"]


@pytest.mark.parametrize("is_running", [False, True])
def test_an_invoked_run_that_raises_ends(*, is_running: bool) -> None:
    host = new_host()
    blocking = BlockingHost("test", home=None, discover=False)
    bench = Bench(blocking.host if is_running else host)
    agent = bench.agent(Answer(error=RuntimeError("no connection")))
    if is_running:
        with blocking, pytest.raises(RuntimeError, match="no connection"):
            agent.invoke(HELLO, ONE)
    else:
        with pytest.raises(RuntimeError, match="no connection"):
            agent.invoke(HELLO, ONE)
    assert [each.interruption_cause for each in bench.of(AgentEnd)] == ["RuntimeError: no connection"]
    assert not OPEN


def test_a_tool_that_raises_raises_in_the_thread() -> None:
    @tool
    def work(text: str) -> str:
        """Work."""
        raise RuntimeError("the disk is full")

    bench = Bench(new_host())
    with pytest.raises(RuntimeError, match="the disk is full"):
        bench.agent(CALL, tools=[work]).invoke(HELLO, ONE)
    assert bench.of(ToolCallEnd)[0].error == "RuntimeError: the disk is full"


def test_a_tool_in_a_thread_is_not_cancelled_when_its_run_is_interrupted(ran: list[str]) -> None:
    @tool
    def work(text: str) -> str:
        """Work."""
        assert plugins.interrupt("t1", "a key was pressed")
        run_blocking(asyncio.sleep(0))  # a cancellation would have come by now
        ran.append(text)
        return f"worked on {text}"

    bench = Bench(new_host())
    plugins = AllyPlugins(bench.host)
    with pytest.raises(GraphDrained, match="a key was pressed"):
        new_agent(model(CALL, "done"), [work], middleware=[plugins]).invoke(HELLO, ONE)
    (end,) = bench.of(ToolCallEnd)
    assert (ran, end.success, end.output) == (["a"], True, "worked on a")
    assert [each.interruption_cause for each in bench.of(AgentEnd)] == ["a key was pressed"]


def test_a_stream_that_a_thread_does_not_read_to_its_end_ends_the_run(ran: list[str]) -> None:
    bench = Bench(new_host())
    stream = bench.agent(CALL, "done", tools=[noting(ran)]).stream(HELLO, ONE, stream_mode="updates")
    for part in stream:
        if "tools" in part:
            break
    stream.close()
    assert bench.of(AgentEnd)[0].interrupted
    assert not OPEN


def test_a_graph_by_hand_is_gated_in_threads_too(ran: list[str]) -> None:
    bench = Bench(new_host({"guard": gate(lambda call: Deny("not b") if call.arguments["text"] == "b" else None)}))
    plugins = AllyPlugins(bench.host)
    node = ToolNode([noting(ran)], wrap_tool_call=plugins.wrap_tool_call)
    builder = StateGraph(MessagesState)
    builder.add_node("tools", node)
    builder.add_edge(START, "tools")
    builder.add_edge("tools", END)
    made = [{"name": "work", "args": {"text": text}, "id": text} for text in "abc"]
    built: Any = builder.compile()
    state = built.invoke({"messages": [AIMessage("", tool_calls=made)]}, ONE)
    assert sorted(ran) == ["a", "c"]
    assert "not b" in results(state)["b"]


def test_plugins_steer_an_invoked_agent() -> None:
    async def ally_gate_tool_call(self: Any, call: ToolCall) -> None:  # so that it is said before the step's end
        await self.ally.add_message("user", "try another way")

    bench = Bench(new_host({"helper": make_plugin(ally_gate_tool_call=ally_gate_tool_call)}))
    state = bench.agent(CALL, "done", tools=[noting([])]).invoke(HELLO, ONE)
    assert [str(each.text) for each in state["messages"]][-2:] == ["[plugin helper] try another way", "done"]


def test_an_agent_that_is_invoked_on_the_hosts_own_loop_says_so_instead_of_waiting_for_itself(ran: list[str]) -> None:
    async def play() -> None:
        async with new_host({"guard": gate(lambda _: Ask("is it safe?"))}) as host:
            agent = Bench(host).agent(CALL, "done", tools=[noting(ran)])
            with pytest.raises(HostError, match="ainvoke"):
                agent.invoke(HELLO, ONE)
            await agent.ainvoke(HELLO, ONE)
            with pytest.raises(HostError, match="ainvoke"):  # here a thread of the framework's asks first
                agent.invoke(resume("allow"), ONE)
            assert ran == []
        assert not OPEN

    go(play(), 20)


def test_an_agent_may_be_invoked_on_another_loop_than_the_hosts(ran: list[str]) -> None:
    with BlockingHost("test", home=None, discover=False, plugins={"guard": gate(lambda _: None)}) as running:
        bench = Bench(running.host)

        async def play() -> None:
            bench.agent(CALL, "done", tools=[noting(ran)]).invoke(HELLO, ONE)

        go(play(), 20)
        assert (ran, bench.told) == (["a"], ["start c1", "end c1"])
        assert [each.content for each in bench.of(AgentEnd)] == ["done"]
