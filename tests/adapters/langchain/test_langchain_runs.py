"""How runs of langchain's agents begin, end and overlap, and what stands in their requests."""

# ruff: noqa: ARG001, ARG002 - hooks are methods, and take what their event or the framework gives them

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware, ModelCallLimitMiddleware, hook_config
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.errors import GraphDrained, GraphRecursionError
from langgraph.graph import END, START, MessagesState, StateGraph

from ally_plugins import (
    AgentEnd,
    AgentStart,
    AssistantMessage,
    Deny,
    ModelResponse,
    PromptSection,
    Replace,
    ToolCallEnd,
    ToolCallStart,
    UserMessage,
    evolve,
)
from ally_plugins.adapters.langchain import AllyPlugins, runs
from ally_plugins.adapters.langchain.runs import OPEN
from ally_plugins.testing import Answer, Script
from ally_plugins.testing.adapters.script import calls
from ally_plugins.testing.agents.langchain import ScriptedModel
from tests.adapters.langchain.bench import CALL, HELLO, ONE, gate, live, model, new_agent, results
from tests.kit.hosts import make_plugin, new_host
from tests.kit.waiting import go


@tool
async def work(text: str) -> str:
    """Work."""
    return f"worked on {text}"


class Blocked:
    """A tool that does not return until it is cancelled."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.is_stopped = False

    @property
    def tool(self) -> Any:
        @tool
        async def work(text: str) -> str:
            """Work."""
            self.began.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.is_stopped = True
            return text

        return work


@pytest.mark.smoke
def test_fifty_conversations_at_once_each_see_their_own() -> None:
    async def play() -> None:
        async with live({"guard": gate(lambda call: Deny("no 7") if call.arguments["text"] == "7" else None)}) as bench:

            def step(asked: Any) -> Any:
                own = asked.messages[1].content
                return calls((f"c{own}", "work", own)) if len(asked.messages) == 2 else f"done with {own}"

            agent = new_agent(model(*[step] * 100), [work], system_prompt="s", middleware=[AllyPlugins(bench.host)])

            async def talk(number: int) -> str:
                config = {"configurable": {"thread_id": f"t{number}"}}
                state = await agent.ainvoke({"messages": [("user", str(number))]}, config)
                return str(state["messages"][-1].text)

            found = await asyncio.gather(*map(talk, range(50)))
            assert found == [f"done with {number}" for number in range(50)]
            for number in range(50):
                (end,) = bench.of(ToolCallEnd, f"t{number}")
                assert (end.call_id, end.success) == (f"c{number}", number != 7)
                assert [each.content for each in bench.of(AgentEnd, f"t{number}")] == [f"done with {number}"]
            assert not OPEN
            assert not runs._STARTED

    go(play())


def test_a_run_that_raises_ends_with_the_error() -> None:
    async def play() -> None:
        async with live() as bench:
            agent = bench.agent(Answer(error=RuntimeError("no connection")))
            with pytest.raises(RuntimeError, match="no connection"):
                await agent.ainvoke(HELLO, ONE)
            (end,) = bench.of(AgentEnd)
            assert (end.interrupted, end.interruption_cause) == (True, "RuntimeError: no connection")
            assert bench.of(ModelResponse)[0].stop_reason == "RuntimeError"
            assert not OPEN

    go(play())


class Failing(AgentMiddleware[Any, Any, Any]):
    """Middleware whose own node fails."""

    async def abefore_model(self, state: Any, runtime: Any) -> None:
        raise RuntimeError("not today")


class Waiting(AgentMiddleware[Any, Any, Any]):
    """Middleware whose own node waits for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.began = asyncio.Event()

    async def abefore_model(self, state: Any, runtime: Any) -> None:
        self.began.set()
        await asyncio.Event().wait()


def test_a_run_ends_also_where_no_hook_of_ours_stands() -> None:
    async def play() -> None:
        async with live() as bench:
            with pytest.raises(RuntimeError, match="not today"):
                await bench.agent(before=[Failing()]).ainvoke(HELLO, ONE)
            waiting = Waiting()
            running = asyncio.ensure_future(bench.agent(before=[waiting]).ainvoke(HELLO, ONE))
            await waiting.began.wait()
            running.cancel()
            await asyncio.wait([running])
            assert [each.interruption_cause for each in bench.of(AgentEnd)] == [
                "RuntimeError: not today",
                "CancelledError",
            ]
            assert not OPEN

    go(play())


def test_a_cancelled_run_stops_its_tools_and_its_history_goes_on() -> None:
    async def play() -> None:
        async with live() as bench:
            blocked = Blocked()
            agent = bench.agent(CALL, "back", tools=[blocked.tool])
            running = asyncio.ensure_future(agent.ainvoke(HELLO, ONE))
            await blocked.began.wait()
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled()
            assert blocked.is_stopped
            assert bench.told == ["start c1", "end c1"]
            state = await agent.ainvoke({"messages": [("user", "go on")]}, ONE)
            assert [each.type for each in state["messages"]] == ["human", "ai", "tool", "human", "ai"]
            assert [each.content for each in bench.of(UserMessage)] == ["hello", "go on"]

    go(play())


def test_an_interrupted_run_is_drained_with_a_result_for_each_call() -> None:
    async def play() -> None:
        async with live() as bench:
            blocked = Blocked()
            plugins = AllyPlugins(bench.host)
            agent = new_agent(model(CALL, "back"), [blocked.tool], middleware=[plugins])
            running = asyncio.ensure_future(agent.ainvoke(HELLO, ONE))
            await blocked.began.wait()
            assert plugins.interrupt("t1", "a key was pressed")
            with pytest.raises(GraphDrained, match="a key was pressed"):
                await running
            assert blocked.is_stopped
            assert [each.interruption_cause for each in bench.of(AgentEnd)] == ["a key was pressed"]
            assert not plugins.interrupt("t1")

    go(play())


def test_a_run_that_is_interrupted_while_the_model_answers_or_a_gate_decides_ends_soon() -> None:
    async def play() -> None:
        began = asyncio.Event()

        async def wait(*_: Any) -> Any:
            began.set()
            await asyncio.Event().wait()

        class Slow(ScriptedModel):
            async def _agenerate(self, *_: Any, **__: Any) -> Any:
                await wait()

        async def ally_gate_tool_call(self: Any, call: Any) -> None:
            await wait()

        slow_gate = make_plugin(ally_gate_tool_call=ally_gate_tool_call)
        for brain, plugins in ((Slow(script=Script(())), {}), (model(CALL), {"guard": slow_gate})):
            began.clear()
            async with live(plugins) as bench:
                ours = AllyPlugins(bench.host)
                agent = new_agent(brain, [work], middleware=[ours])
                running = asyncio.ensure_future(agent.ainvoke(HELLO, ONE))
                await began.wait()
                assert ours.interrupt("t1", "a key was pressed")
                with pytest.raises(GraphDrained, match="a key was pressed"):
                    await running
                assert [each.interruption_cause for each in bench.of(AgentEnd)] == ["a key was pressed"]

    go(play())


def test_a_stream_that_nobody_reads_to_its_end_ends_the_run() -> None:
    async def play() -> None:
        async with live() as bench:
            agent = bench.agent(CALL, "done", tools=[work])
            async with aclosing(agent.astream(HELLO, ONE, stream_mode="updates")) as stream:
                async for part in stream:
                    if "tools" in part:
                        break
            (end,) = bench.of(AgentEnd)
            assert end.interrupted
            assert not OPEN

    go(play())


def test_a_run_that_takes_too_many_steps_ends() -> None:
    async def play() -> None:
        async with live() as bench:
            agent = bench.agent(*[CALL] * 9, tools=[work])
            with pytest.raises(GraphRecursionError):
                await agent.ainvoke(HELLO, {**ONE, "recursion_limit": 9})
            (end,) = bench.of(AgentEnd)
            assert end.interrupted

    go(play())


def test_calls_at_once_run_at_once_and_one_that_raises_ends_the_others() -> None:
    async def play() -> None:
        began = asyncio.Barrier(3)

        @tool
        async def work(text: str) -> str:
            """Work."""
            await began.wait()
            if text == "b":
                raise RuntimeError("the disk is full")
            await asyncio.Event().wait()
            return text

        async with live() as bench:
            made = calls(("c1", "work", "a"), ("c2", "work", "b"), ("c3", "work", "c"))
            with pytest.raises(RuntimeError, match="the disk is full"):
                await bench.agent(made, tools=[work]).ainvoke(HELLO, ONE)
            ends = {each.call_id: each.error for each in bench.of(ToolCallEnd)}
            assert ends == {"c1": "interrupted", "c2": "RuntimeError: the disk is full", "c3": "interrupted"}
            assert bench.of(AgentEnd)[0].seq > max(each.seq for each in bench.of(ToolCallEnd))

    go(play())


def test_a_run_without_a_thread_is_a_conversation_of_its_own() -> None:
    async def play() -> None:
        async with live() as bench:
            agent = bench.agent("one", "two", is_kept=False)
            await agent.ainvoke(HELLO)
            await agent.ainvoke(HELLO)
            assert len({each.session_id for each in bench.of(AgentStart)}) == 2

    go(play())


def test_agents_that_are_nodes_of_one_graph_share_the_persons_message() -> None:
    async def play() -> None:
        async with live() as bench:
            builder = StateGraph(MessagesState)
            for name, answer in (("one", "first"), ("two", "second")):
                agent = new_agent(model(answer), middleware=[AllyPlugins(bench.host)], name=name)
                builder.add_node(name, agent)
            builder.add_edge(START, "one")
            builder.add_edge("one", "two")
            builder.add_edge("two", END)
            compiled: Any = builder.compile()
            await compiled.ainvoke(HELLO, ONE)
            assert [each.agent_name for each in bench.of(AgentStart)] == ["one", "two"]
            assert [each.content for each in bench.of(AssistantMessage)] == ["first", "second"]
            assert {each.session_id for each in bench.of(AgentStart)} == {"t1"}

    go(play())


def test_what_the_person_says_in_several_messages_is_one() -> None:
    async def ally_transform_user_message(self: Any, message: Any) -> Any:
        return Replace(evolve(message, content=message.content.replace("secret", "***")))

    async def play() -> None:
        async with live({"redact": make_plugin(ally_transform_user_message=ally_transform_user_message)}) as bench:
            agent = bench.agent("done")
            state = await agent.ainvoke({"messages": [("user", "a secret"), ("user", "go")]}, ONE)
            assert "secret" not in str(state["messages"])
            assert [each.content for each in bench.of(UserMessage)] == ["a ***\ngo"]

    go(play())


def test_an_image_of_the_person_is_described_and_kept() -> None:
    image = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}

    async def ally_transform_user_message(self: Any, message: Any) -> Any:
        return Replace(evolve(message, content=message.content.replace("look", "see")))

    async def play() -> None:
        async with live({"p": make_plugin(ally_transform_user_message=ally_transform_user_message)}) as bench:
            agent = bench.agent("done")
            said = HumanMessage([{"type": "text", "text": "look"}, image])
            state = await agent.ainvoke({"messages": [said]}, ONE)
            (message,) = bench.of(UserMessage)
            assert message.content.startswith('see\n{"type": "image", "mediaType": "image/png", "bytes": 3')
            assert state["messages"][0].content == [{"type": "text", "text": "see"}, image]

    go(play())


def test_a_prompt_in_blocks_keeps_what_a_provider_caches() -> None:
    async def ally_transform_system_prompt(self: Any, sections: Any) -> Any:
        return Replace((*sections, PromptSection("notes", "tests live in tests/")))

    async def play() -> None:
        async with live({"p": make_plugin(ally_transform_system_prompt=ally_transform_system_prompt)}) as bench:
            seen: list[Any] = []

            class Reader(AgentMiddleware[Any, Any, Any]):
                async def awrap_model_call(self, request: Any, handler: Any) -> Any:
                    seen.append(request.system_message.content)
                    return await handler(request)

            block = {"type": "text", "text": "You mend.", "cache_control": {"type": "ephemeral"}}
            plugins = AllyPlugins(bench.host)
            prompt = SystemMessage([block])
            agent = new_agent(model("done"), system_prompt=prompt, middleware=[plugins, Reader()])
            await agent.ainvoke(HELLO, ONE)
            assert seen == [[block, {"type": "text", "text": "tests live in tests/"}]]

    go(play())


def test_a_denied_call_does_not_run_under_the_id_of_one_that_may() -> None:
    ran: list[str] = []

    @tool
    async def work(text: str) -> str:
        """Work."""
        ran.append(text)
        return text

    async def play() -> None:
        async with live(
            {"guard": gate(lambda call: Deny("not b") if call.arguments["text"] == "b" else None)}
        ) as bench:
            agent = bench.agent(calls(("c1", "work", "a"), ("c1", "work", "b")), "done", tools=[work], is_kept=False)
            await agent.ainvoke(HELLO, ONE)
            assert ran in (["a"], [])

    go(play())


def test_other_middleware_that_ends_the_turn_is_left_to() -> None:
    async def play() -> None:
        async with live() as bench:
            limit = ModelCallLimitMiddleware(run_limit=1, exit_behavior="end")
            state = await bench.agent(CALL, tools=[work], before=[limit]).ainvoke(HELLO, ONE)
            assert "limit" in str(state["messages"][-1].text)
            assert results(state) == {"c1": "worked on a"}
            assert not bench.of(AgentEnd)[0].interrupted

    go(play())


class Ending(AgentMiddleware[Any, Any, Any]):
    """Middleware that ends a turn before the model is asked."""

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        return {"jump_to": "end"}


@pytest.mark.parametrize("messages", [[], [("user", "hello")]])
def test_a_turn_without_an_answer_may_end_and_is_asked_about_without_one(messages: Any) -> None:
    async def ally_gate_stop(self: Any, stop: Any) -> None:
        self.seen.append(stop.answer)

    async def play() -> None:
        async with live({"tester": make_plugin(ally_gate_stop=ally_gate_stop)}) as bench:
            state = await bench.agent(before=[Ending()]).ainvoke({"messages": messages}, ONE)
            assert len(state["messages"]) == len(messages)
            assert bench.seen("tester") == [""]
            assert bench.of(AgentEnd)[0].content is None

    go(play())


def test_a_sub_agent_joins_with_an_id_of_its_own() -> None:
    async def play() -> None:
        async with live() as bench:
            helper = new_agent(model(CALL, "helped"), [work], middleware=[AllyPlugins(bench.host)], name="helper")

            @tool
            async def ask(text: str) -> str:
                """Ask the helper."""
                return str((await helper.ainvoke({"messages": [("user", text)]}))["messages"][-1].text)

            await bench.agent(calls(("m1", "ask", "go")), "done", tools=[ask]).ainvoke(HELLO, ONE)
            main, sub = bench.of(AgentStart, "t1")
            assert (main.agent_id, sub.agent_name, sub.call_id, sub.task_prompt) == (None, "helper", "m1", "go")
            inner = next(each for each in bench.of(ToolCallStart, "t1") if each.call_id == "c1")
            assert (inner.agent_id, inner.parent_id) == (sub.agent_id, "m1")
            assert [each.agent_name for each in bench.of(AgentEnd, "t1")] == ["helper", main.agent_name]
            assert [each.content for each in bench.of(UserMessage)] == ["hello"]

    go(play())


def test_a_host_that_does_not_run_lives_as_long_as_the_run_that_fails() -> None:
    host = new_host()

    async def play() -> None:
        agent = new_agent(model(Answer(error=RuntimeError("no"))), middleware=[AllyPlugins(host)])
        with pytest.raises(RuntimeError):
            await agent.ainvoke(HELLO, ONE)
        assert host.loop is None

    go(play())


def test_a_history_with_a_message_of_a_plugin_is_known_when_it_comes_back() -> None:
    async def play() -> None:
        async with live({"helper": make_plugin()}) as bench:
            agent = bench.agent("one", "two", is_kept=False)
            await bench.host.plugins["helper"].instance.ally.add_message(
                "user", "a note", session_id=bench.host.session("t1").id
            )
            first = (await agent.ainvoke(HELLO, ONE))["messages"]
            note = next(each for each in first if "a note" in str(each.text))
            assert str(note.text) == "[plugin helper] a note"
            second = await agent.ainvoke({"messages": [*first, HumanMessage("go on")]}, ONE)
            assert [str(each.text) for each in second["messages"]].count("[plugin helper] a note") == 1
            kept = bench.host.session("t1").conversation.messages
            assert [each.source_plugin for each in kept if each.content == "a note"] == ["helper"]
            assert [each.content for each in bench.of(UserMessage)] == ["hello", "go on"]

    go(play())


def test_a_call_whose_arguments_are_no_json_is_answered_by_the_framework() -> None:
    async def play() -> None:
        async with live({"guard": gate(lambda _: None)}) as bench:
            broken: Any = {"name": "work", "args": "{", "id": "c1", "error": "no JSON", "type": "invalid_tool_call"}
            history = [HumanMessage("go"), AIMessage("", invalid_tool_calls=[broken]), HumanMessage("again")]
            state = await bench.agent("done", tools=[work], is_kept=False).ainvoke({"messages": history}, ONE)
            assert any(isinstance(each, ToolMessage) for each in state["messages"])
            assert bench.told == []
            assert bench.seen() == []

    go(play())
