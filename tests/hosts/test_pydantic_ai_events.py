"""What a run of a pydantic-ai agent tells the plugins, however it is driven and however it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_ai.messages import ModelResponse, TextPart, ThinkingPart, ToolCallPart

from ally_plugins import (
    AgentEnd,
    AgentStart,
    AssistantMessage,
    ContextThreshold,
    ContextUsageUpdate,
    ThoughtComplete,
    TodoUpdate,
    ToolCallEnd,
    ToolCallStart,
    UserMessage,
)
from ally_plugins import ModelResponse as Responded
from tests.hosts.scripted import Script, answer, live
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import Iterator


TURN = ["USER_MESSAGE", "AGENT_START", "MODEL_REQUEST", "MODEL_RESPONSE", "ASSISTANT_MESSAGE", "AGENT_END"]
WITH_TOOL = [
    *TURN[:4],
    "TOOL_CALL_START",
    "TOOL_CALL_END",
    "MODEL_REQUEST",
    "MODEL_RESPONSE",
    "ASSISTANT_MESSAGE",
    "AGENT_END",
]


def _look() -> str:
    return "a tree"


async def _run(agent: Any) -> str:
    result = await agent.run("hello")
    return str(result.output)


async def _run_stream(agent: Any) -> str:
    async with agent.run_stream("hello") as result:
        return str(await result.get_output())


async def _run_stream_events(agent: Any) -> str:
    async with agent.run_stream_events("hello") as events:
        seen = [event async for event in events]
    return str(seen[-1].result.output)


async def _iter(agent: Any) -> str:
    async with agent.iter("hello") as run:
        async for _ in run:
            pass
    return str(run.result.output)


@pytest.mark.parametrize("drive", [_run, _run_stream, _run_stream_events, _iter])
def test_every_way_to_run_tells_the_same_story(drive: Any) -> None:
    async def main() -> None:
        async with live() as bench:

            def add(a: int, b: int) -> int:
                return a + b

            agent = bench.agent(
                Script(answer(ToolCallPart("add", {"a": 1, "b": 2}, "c1")), "it is 3"),
                tools=[add],
            )

            assert (await drive(agent)).strip() == "it is 3"
            assert bench.types() == WITH_TOOL
            (start,), (end,) = bench.of(ToolCallStart), bench.of(ToolCallEnd)
            assert (start.tool_name, start.arguments, start.call_id) == ("add", {"a": 1, "b": 2}, "c1")
            assert (end.success, end.output, end.call_id) == (True, "3", "c1")
            assert end.duration_ms is not None
            (began,), (ended,) = bench.of(AgentStart), bench.of(AgentEnd)
            assert (began.message, began.agent_name, began.instance_id) == ("hello", "main-agent", ended.instance_id)
            assert (ended.interrupted, ended.tool_use_count) == (False, 1)
            assert len({event.turn_id for event in bench.events if event.type in WITH_TOOL}) == 1

    go(main())


@pytest.fixture
def own_loop() -> Iterator[None]:
    """Give `run_sync` a loop that somebody closes; it takes the thread's."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.mark.usefixtures("own_loop")
def test_run_sync_starts_and_stops_the_host_each_time() -> None:
    from pydantic_ai import Agent

    from ally_plugins import Host
    from ally_plugins.adapters.pydantic_ai import AllyPlugins

    host = Host(home=None, discover=False)
    seen: list[str] = []
    host.stream.subscribe("*", lambda event: seen.append(event.type))
    agent = Agent(Script("one", "two").model, capabilities=[AllyPlugins(host)])
    first = agent.run_sync("hello")
    assert host.loop is None
    assert agent.run_sync("again", message_history=first.all_messages()).output == "two"
    assert host.loop is None
    assert [kind for kind in seen if kind.startswith("SESSION")] == ["SESSION_START", "SESSION_END"] * 2
    assert [kind for kind in seen if not kind.startswith("SESSION")] == TURN * 2


def test_the_model_s_thoughts_counts_and_window_are_told() -> None:
    async def main() -> None:
        async with live() as bench:
            thinking = ModelResponse(parts=[ThinkingPart("hm"), TextPart("yes")], finish_reason="stop")
            agent = bench.agent(Script(thinking), context_window=100)
            await agent.run("hello")
            assert [event.thinking for event in bench.of(ThoughtComplete)] == ["hm"]
            assert [event.content for event in bench.of(AssistantMessage)] == ["yes"]
            (told,) = bench.of(Responded)
            assert told.input_tokens
            assert told.output_tokens
            assert (told.stop_reason, told.duration_ms is None) == ("stop", False)
            (usage,) = bench.of(ContextUsageUpdate)
            assert usage.context_usage == told.input_tokens + told.output_tokens
            assert [event.threshold for event in bench.of(ContextThreshold)] == [50.0]

    go(main())


def test_messages_are_mirrored_once_with_the_ids_that_events_name() -> None:
    async def main() -> None:
        async with live() as bench:
            steps = Script(answer("I look", ToolCallPart("_look", {}, "c1")), "done", "and done")
            agent = bench.agent(steps, tools=[_look])

            result = await agent.run("hello")
            result = await agent.run("again", message_history=result.all_messages())
            (session,) = bench.host.sessions.values()
            said = [(message.role, message.content) for message in session.conversation.messages]
            assert said == [
                ("user", "hello"),
                ("assistant", "I look"),
                ("tool", "a tree"),
                ("assistant", "done"),
                ("user", "again"),
                ("assistant", "and done"),
            ]
            ids = {message.id: message.content for message in session.conversation.messages}
            assert len(ids) == len(said)
            said_by_both: list[UserMessage | AssistantMessage] = [*bench.of(UserMessage), *bench.of(AssistantMessage)]
            for event in said_by_both:
                assert ids[str(event.message_id)] == event.content

    go(main())


def test_an_error_of_a_tool_ends_the_call_and_the_agent() -> None:
    async def main() -> None:
        async with live() as bench:

            def boom() -> str:
                raise ZeroDivisionError("by nothing")

            agent = bench.agent(Script(answer(ToolCallPart("boom", {}, "c1"))), tools=[boom])

            with pytest.raises(ZeroDivisionError):
                await agent.run("hello")
            (end,), (ended,) = bench.of(ToolCallEnd), bench.of(AgentEnd)
            assert (end.success, end.error) == (False, "ZeroDivisionError: by nothing")
            assert (ended.interrupted, ended.interruption_cause) == (True, "ZeroDivisionError: by nothing")

    go(main())


def test_an_error_of_the_model_is_a_response_without_counts() -> None:
    async def main() -> None:
        async with live() as bench:
            agent = bench.agent(Script(OSError("no route")))
            with pytest.raises(OSError, match="no route"):
                await agent.run("hello")
            (told,), (ended,) = bench.of(Responded), bench.of(AgentEnd)
            assert (told.stop_reason, told.input_tokens) == ("OSError", None)
            assert ended.interruption_cause == "OSError: no route"

    go(main())


def test_a_cancelled_run_ends_its_tools_and_its_agent() -> None:
    async def main() -> None:
        async with live() as bench:
            waiting = asyncio.Semaphore(0)

            async def wait() -> str:
                waiting.release()
                await asyncio.Event().wait()
                return "never"

            agent = bench.agent(
                Script(answer(ToolCallPart("wait", {}, "c1"), ToolCallPart("wait", {}, "c2"))), tools=[wait]
            )

            run = asyncio.ensure_future(agent.run("hello"))
            await waiting.acquire()
            await waiting.acquire()
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert {end.call_id: end.error for end in bench.of(ToolCallEnd)} == dict.fromkeys(
                ("c1", "c2"), "interrupted"
            )
            assert bench.of(AgentEnd)[0].interrupted

    go(main())


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_leaving_an_iteration_early_ends_the_agent(steps: int) -> None:
    async def main() -> None:
        async with live() as bench:
            agent = bench.agent(Script(answer(ToolCallPart("_look", {}, "c1")), "done"), tools=[_look])

            async with agent.iter("hello") as run:
                seen = 0
                async for _ in run:
                    seen += 1
                    if seen > steps:
                        break
            assert bench.of(AgentEnd)[0].interrupted
            assert bench.types()[-1] == "AGENT_END"

    go(main())


def test_leaving_a_stream_early_tells_that_the_answer_was_cut() -> None:
    async def main() -> None:
        async with live() as bench:
            agent = bench.agent(Script("one two three four"))
            async with agent.run_stream("hello") as result:
                async for _ in result.stream_text(delta=True, debounce_by=None):
                    break
            assert bench.types()[-1] == "AGENT_END"
            assert len(bench.of(Responded)) == 1

    go(main())


def test_a_sub_agent_works_in_the_session_of_the_agent_that_called_it() -> None:
    async def main() -> None:
        async with live() as bench:

            def read() -> str:
                return "text"

            async def delegate(task: str) -> str:
                return str((await inner.run(task)).output)

            inner = bench.agent(Script(answer(ToolCallPart("read", {}, "i1")), "found it"), name="finder", tools=[read])
            outer = bench.agent(
                Script(answer(ToolCallPart("delegate", {"task": "find"}, "c1")), "done"), tools=[delegate]
            )
            result = await outer.run("hello")
            assert result.output == "done"
            assert len(bench.host.sessions) == 1
            main_start, sub_start = bench.of(AgentStart)
            assert (main_start.agent_id, main_start.is_specialized_agent, main_start.task_prompt) == (None, False, None)
            assert (sub_start.agent_name, sub_start.task_prompt, sub_start.parent_id) == ("finder", "find", "c1")
            assert sub_start.agent_id == sub_start.instance_id
            (sub_end, main_end) = bench.of(AgentEnd)
            assert (sub_end.agent_id, sub_end.result, main_end.agent_id) == (sub_start.agent_id, "found it", None)
            (read_start,) = [event for event in bench.of(ToolCallStart) if event.tool_name == "read"]
            assert (read_start.agent_id, read_start.parent_id) == (sub_start.agent_id, "c1")
            assert [event.content for event in bench.of(UserMessage)] == ["hello"]
            (session,) = bench.host.sessions.values()
            assert "text" not in [message.content for message in session.conversation.messages]
            assert not session.conversation.is_processing

    go(main())


def test_an_agents_own_task_tools_are_told_as_todos() -> None:
    def TaskCreate(subject: str) -> str:  # noqa: N802 - the name that agents know
        if subject == "no":
            raise RuntimeError(subject)
        return f"Task #5 created successfully: {subject}"

    def TaskUpdate(taskId: str, status: str) -> str:  # noqa: N802, N803 - likewise
        return f"Updated task #{taskId}: {status}"

    async def main() -> None:
        async with live() as bench:
            agent = bench.agent(
                Script(
                    answer(ToolCallPart("TaskCreate", {"subject": "look"}, "c1")),
                    answer(ToolCallPart("TaskUpdate", {"taskId": "5", "status": "completed"}, "c2")),
                    "done",
                ),
                tools=[TaskCreate, TaskUpdate],
            )
            await agent.run("hello")
            lists = [[(todo["task"], todo["status"]) for todo in event.todos] for event in bench.of(TodoUpdate)]
            assert lists == [[("look", "pending")], [("look", "completed")]]
            assert [todo.id for todo in next(iter(bench.host.sessions.values())).conversation.todos] == ["5"]
            failing = bench.agent(
                Script(answer(ToolCallPart("TaskCreate", {"subject": "no"}, "c3")), "never"), tools=[TaskCreate]
            )
            with pytest.raises(RuntimeError):
                await failing.run("again")
            assert len(bench.of(TodoUpdate)) == 2

    go(main())
