"""Graphs that are built by hand, whose ToolNode asks plugins about its calls."""

# ruff: noqa: ARG001, ARG005 - hooks are methods, and take what their event or the framework gives them

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from ally_plugins import AgentEnd, AgentStart, Ask, Deny, Replace, ToolCallEnd, ToolResult, evolve
from ally_plugins.adapters.langchain import AllyPlugins
from tests.adapters.langchain.bench import HELLO, ONE, Bench, gate, live, results, resume
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go


def graph(bench: Bench, *tools: Any, calls: Any, before: Any = None, **options: Any) -> Any:
    """Return a graph that makes these calls, all in one node; `before` stands between the framework and plugins."""
    plugins = AllyPlugins(bench.host)
    made = [{"name": name, "args": {"text": text}, "id": call_id} for call_id, name, text in calls]

    async def speak(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("", tool_calls=made)]}

    async def outer(request: Any, handler: Any) -> Any:
        return await before(request, lambda inner: plugins.awrap_tool_call(inner, handler))

    wrapper: Any = plugins.awrap_tool_call if before is None else outer
    node = ToolNode(list(tools), wrap_tool_call=plugins.wrap_tool_call, awrap_tool_call=wrapper, **options)
    builder = StateGraph(MessagesState)
    builder.add_node("speak", speak)
    builder.add_node("tools", node)
    builder.add_edge(START, "speak")
    builder.add_edge("speak", "tools")
    builder.add_edge("tools", END)
    return builder.compile(checkpointer=InMemorySaver())


def compiled(builder: Any) -> Any:
    return builder.compile()


def noting(ran: list[str], name: str = "work") -> Any:
    async def work(text: str) -> str:
        """Work."""
        ran.append(text)
        return f"worked on {text}"

    return tool(name)(work)


@pytest.mark.smoke
def test_calls_of_a_graph_are_gated_and_reported() -> None:
    ran: list[str] = []

    async def play() -> None:
        decide = gate(lambda call: Deny("not b") if call.arguments["text"] == "b" else None)
        async with live({"guard": decide}) as bench:
            built = graph(bench, noting(ran), calls=[("c1", "work", "a"), ("c2", "work", "b")])
            state = await built.ainvoke(HELLO, ONE)
            assert ran == ["a"]
            found = results(state)
            assert found["c1"] == "worked on a"
            assert "not b" in found["c2"]
            assert sorted(bench.told) == ["end c1", "end c2", "start c1", "start c2"]
            (start,), (end,) = bench.of(AgentStart, "t1"), bench.of(AgentEnd, "t1")
            assert start.seq < end.seq
            assert end.seq > max(each.seq for each in bench.of(ToolCallEnd))

    go(play())


def test_answers_reach_the_calls_that_they_name_when_several_wait_in_one_node() -> None:
    ran: list[str] = []

    async def play() -> None:
        async with live({"guard": gate(lambda _: Ask("is it safe?"))}) as bench:
            built = graph(bench, noting(ran), calls=[("c1", "work", "a"), ("c2", "work", "b")])
            state = await built.ainvoke(HELLO, ONE)
            assert state["__interrupt__"][0].value["call_id"] == "c1"
            state = await built.ainvoke(resume({"c2": "allow", "c1": "deny"}), ONE)
            assert ran == ["b"]
            assert results(state)["c2"] == "worked on b"
            assert "did not agree" in results(state)["c1"]

    go(play())


def test_an_answer_that_names_no_call_is_nobodys_when_several_wait_in_one_node() -> None:
    ran: list[str] = []

    async def play() -> None:
        async with live({"guard": gate(lambda _: Ask("is it safe?"))}) as bench:
            built = graph(bench, noting(ran), calls=[("c1", "work", "a"), ("c2", "work", "b")])
            await built.ainvoke(HELLO, ONE)
            for _ in range(2):
                state = await built.ainvoke(resume("allow"), ONE)
                assert state["__interrupt__"]
            assert ran == []

    go(play())


def test_a_node_that_runs_again_tells_no_second_start() -> None:
    answers: list[str] = []

    @tool
    async def work(text: str) -> str:
        """Work."""
        answers.append(interrupt("which?"))
        return answers[-1]

    async def play() -> None:
        async with live({"guard": gate(lambda _: None)}) as bench:
            built = graph(bench, work, calls=[("c1", "work", "a")])
            await built.ainvoke(HELLO, ONE)
            await built.ainvoke(resume("this"), ONE)
            assert (answers, bench.told) == (["this"], ["start c1", "end c1"])
            assert bench.seen() == [("work", {"text": "a"})]

    go(play())


async def change(built: Any, text: str) -> None:
    """Let somebody change the call that waits."""
    messages = (await built.aget_state(ONE)).values["messages"]
    calls = [{"name": "work", "args": {"text": text}, "id": "c1"}]
    changed = messages[-1].model_copy(update={"tool_calls": calls})
    await built.aupdate_state(ONE, {"messages": [changed]}, as_node="speak")


def test_a_node_that_runs_again_with_other_arguments_is_gated_again() -> None:
    answers: list[str] = []

    @tool
    async def work(text: str) -> str:
        """Work."""
        answers.append(f"{text} {interrupt('which?')}")
        return answers[-1]

    async def play() -> None:
        decide = gate(lambda call: Deny("not b") if call.arguments["text"] == "b" else None)
        for text, ran in (("b", []), ("c", ["c this"])):
            answers.clear()
            async with live({"guard": decide}) as bench:
                built = graph(bench, work, calls=[("c1", "work", "a")])
                await built.ainvoke(HELLO, ONE)
                await change(built, text)
                await built.ainvoke(None, ONE)
                await built.ainvoke(resume("this"), ONE)
                assert (answers, bench.told) == (ran, ["start c1", "end c1"])
                assert bench.seen() == [("work", {"text": "a"}), ("work", {"text": text})]

    go(play())


def test_an_answer_does_not_count_for_arguments_that_have_changed_since() -> None:
    ran: list[str] = []

    async def play() -> None:
        async with live({"guard": gate(lambda _: Ask("is it safe?"))}) as bench:
            built = graph(bench, noting(ran), calls=[("c1", "work", "a")])
            await built.ainvoke(HELLO, ONE)
            await change(built, "b")
            state = await built.ainvoke(resume("allow"), ONE)
            assert ran == []
            assert state["__interrupt__"][0].value["action_requests"][0]["args"] == {"text": "b"}
            await built.ainvoke(resume("allow"), ONE)
            assert (ran, bench.told) == (["b"], ["start c1", "end c1"])

    go(play())


def test_what_stands_between_plugins_and_the_tool_lets_nothing_run() -> None:
    ran: list[str] = []

    async def play() -> None:
        async with live({"guard": gate(lambda _: None)}) as bench:
            plugins = AllyPlugins(bench.host)

            async def behind(request: Any, handler: Any) -> Any:
                async def change(inner: Any) -> Any:
                    call = {**inner.tool_call, "args": {"text": "something else"}}
                    return await handler(inner.override(tool_call=call))

                return await plugins.awrap_tool_call(request, change)

            node = ToolNode([noting(ran)], awrap_tool_call=behind)
            builder = StateGraph(MessagesState)
            builder.add_node("tools", node)
            builder.add_edge(START, "tools")
            call = {"name": "work", "args": {"text": "a"}, "id": "c1"}
            state = await compiled(builder).ainvoke({"messages": [AIMessage("", tool_calls=[call])]})
            assert ran == []
            assert "stands between plugins and the tool" in results(state)["c1"]
            assert bench.of(ToolCallEnd)[0].denied

    go(play())


def test_gates_see_what_stands_before_them_has_made_of_the_call() -> None:
    ran: list[str] = []

    async def shout(request: Any, handler: Any) -> Any:
        return await handler(request.override(tool_call={**request.tool_call, "args": {"text": "A"}}))

    async def play() -> None:
        async with live({"guard": gate(lambda _: None)}) as bench:
            built = graph(bench, noting(ran), calls=[("c1", "work", "a")], before=shout)
            await built.ainvoke(HELLO, ONE)
            assert (ran, bench.seen()) == (["A"], [("work", {"text": "A"})])

    go(play())


def test_another_tool_than_the_call_names_does_not_run() -> None:
    ran: list[str] = []

    async def swap(request: Any, handler: Any) -> Any:
        return await handler(request.override(tool=noting(ran, "remove")))

    async def play() -> None:
        async with live({"guard": gate(lambda _: None)}) as bench:
            built = graph(bench, noting(ran), calls=[("c1", "work", "a")], before=swap)
            state = await built.ainvoke(HELLO, ONE)
            assert ran == []
            assert "'remove'" in results(state)["c1"]

    go(play())


def redacting() -> type[Any]:
    """Return a plugin that takes the word `secret` out of results and errors."""

    async def ally_transform_tool_output(self: Any, result: ToolResult) -> Replace[ToolResult]:
        error = result.error.replace("secret", "***") if result.error else None
        return Replace(evolve(result, output=result.output.replace("secret", "***"), error=error))

    return make_plugin(ally_transform_tool_output=ally_transform_tool_output)


@pytest.mark.parametrize(
    "value",
    [
        ToolMessage([{"type": "text", "text": "a secret"}], tool_call_id="c1", artifact={"raw": "a secret"}),
        Command(update={"messages": [ToolMessage("a secret", tool_call_id="c1")]}),
        [Command(update={"messages": [ToolMessage("a secret", tool_call_id="c1")]})],
    ],
)
def test_every_kind_of_result_is_given_to_transforms(value: Any) -> None:
    @tool
    async def work(text: str) -> Any:
        """Work."""
        return value

    async def play() -> None:
        async with live({"redact": redacting()}) as bench:
            state = await graph(bench, work, calls=[("c1", "work", "a")]).ainvoke(HELLO, ONE)
            assert results(state) == {"c1": "a ***"}
            assert "secret" not in str(state["messages"])
            assert bench.of(ToolCallEnd)[0].output == "a ***"

    go(play())


@pytest.mark.parametrize("handled", [True, (ValueError,), (KeyError,)])
def test_the_text_of_an_error_reaches_nobody_as_it_was(handled: Any) -> None:
    @tool
    async def work(text: str) -> str:
        """Work."""
        raise ValueError("the secret is out")

    async def play() -> None:
        async with live({"redact": redacting()}) as bench:
            built = graph(bench, work, calls=[("c1", "work", "a")], handle_tool_errors=handled)
            try:
                outcome = await built.ainvoke(HELLO, ONE)
            except Exception as error:  # noqa: BLE001 - what is not handled ends the run
                outcome = error
            (end,) = bench.of(ToolCallEnd)
            assert "the *** is out" in (end.error or "")
            assert not end.success
            assert "secret" not in str(outcome)
            assert "secret" not in str(bench.events)

    go(play())


def test_a_tool_that_hands_over_keeps_what_it_does_beside() -> None:
    @tool
    async def work(text: str) -> Any:
        """Work."""
        return Command(goto="last", update={"messages": [ToolMessage("over to you", tool_call_id="c1")]})

    async def play() -> None:
        async with live() as bench:
            plugins = AllyPlugins(bench.host)
            builder = StateGraph(MessagesState)
            builder.add_node("tools", ToolNode([work], awrap_tool_call=plugins.awrap_tool_call))
            builder.add_node("last", lambda state: {"messages": [AIMessage("thanks")]})
            builder.add_edge(START, "tools")
            call = {"name": "work", "args": {"text": "a"}, "id": "c1"}
            state = await compiled(builder).ainvoke({"messages": [AIMessage("", tool_calls=[call])]})
            assert [str(each.text) for each in state["messages"]] == ["", "over to you", "thanks"]
            assert bench.of(ToolCallEnd)[0].success
            assert bench.of(AgentEnd)[0].content == "thanks"

    go(play())
