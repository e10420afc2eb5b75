"""Runs that one hook of a framework opens and another closes, in other contexts, tasks and threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from ally_plugins import AgentEnd, AgentKit, AgentStart, HostError, ToolCall, ToolCallEnd, ToolResult
from ally_plugins.adapters.kit.kit import current_work
from tests.kit.hosts import make_plugin, new_host
from tests.kit.waiting import go, until

from .bench import KitBench

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from ally_plugins import AgentWork

T = TypeVar("T")


async def in_own_context(call: Coroutine[Any, Any, T]) -> T:
    """Run a hook as langgraph does: in a task and a context of its own."""
    return await asyncio.get_running_loop().create_task(call, context=contextvars.Context())


def in_thread(call: Coroutine[Any, Any, T]) -> T:
    """Run a hook on a loop of its own in another thread, and return what it returns."""
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(go(call)))
    thread.start()
    thread.join(60)
    return found[0]


async def begun(work: Awaitable[AgentWork], prompt: str | None = "hello") -> AgentWork:
    found = await work
    await found.begin(prompt)
    return found


# --- in other contexts, tasks and threads ---


def test_a_run_is_opened_in_one_context_found_in_another_and_closed_in_a_third() -> None:
    bench = KitBench()

    async def find() -> AgentWork | None:
        return bench.kit.find("s", "r")

    async def main() -> None:
        opened = await in_own_context(begun(bench.kit.open("s", "r", "agent", model="m")))
        assert await in_own_context(find()) is opened is bench.kit.find("s")
        assert current_work(bench.kit) is None
        assert bench.is_running
        await in_own_context(opened.close("done"))
        assert bench.kit.find("s", "r") is bench.kit.find("s") is None
        assert not bench.is_running

    go(main())
    (start,) = bench.of(AgentStart)
    assert (start.agent_name, start.model, start.message) == ("agent", "m", "hello")
    assert (bench.end.content, bench.end.interrupted, bench.end.interruption_cause) == ("done", False, None)


def test_a_run_of_a_hundred_conversations_each_is_opened_and_closed_at_once_on_one_host() -> None:
    bench = KitBench()

    async def one(number: int) -> None:
        opened = await in_own_context(begun(bench.kit.open(f"s{number}", "r", "agent")))
        assert bench.kit.find(f"s{number}") is opened
        await in_own_context(opened.close(str(number)))

    async def main() -> None:
        await asyncio.gather(*map(one, range(100)))

    go(main())
    assert sorted((end.session_id, end.content) for end in bench.of(AgentEnd)) == sorted(
        (f"s{number}", str(number)) for number in range(100)
    )
    assert not bench.is_running


def test_a_run_is_closed_in_another_thread_and_the_host_stops_on_its_own_loop() -> None:
    bench = KitBench()

    async def main() -> None:
        opened = await begun(bench.kit.open("s", "r", "agent"))
        await asyncio.to_thread(in_thread, opened.close("done"))
        assert not bench.is_running

    go(main())
    assert bench.end.content == "done"


def test_a_run_is_opened_in_a_thread_whose_loop_ends_and_closed_in_another() -> None:
    bench = KitBench()

    async def open_it() -> AgentWork:
        return await begun(bench.kit.open("s", "r", "agent"))

    opened = in_thread(open_it())
    assert bench.is_running
    assert bench.kit.find("s") is opened
    in_thread(opened.close("done"))
    assert not bench.is_running
    assert bench.end.content == "done"


def test_a_second_close_does_nothing_even_at_the_same_time() -> None:
    bench = KitBench()

    async def main() -> None:
        opened = await begun(bench.kit.open("s", "r", "agent"))
        other = await begun(bench.kit.open("t", "r", "agent"))
        await asyncio.gather(opened.close("one"), opened.close("two"), asyncio.to_thread(in_thread, opened.close()))
        await opened.close(error=ValueError("late"))
        assert bench.is_running  # the other run still counts, once
        await other.close("other")
        assert not bench.is_running

    go(main())
    assert [end.content for end in bench.of(AgentEnd)] == ["one", "other"]


def test_two_runs_of_one_conversation_with_one_id_are_refused_and_the_first_goes_on() -> None:
    bench = KitBench()

    async def main() -> None:
        opened = await begun(bench.kit.open("s", "r", "agent"))
        with pytest.raises(HostError, match="'r' is under way"):
            await bench.kit.open("s", "r", "agent")
        assert bench.kit.find("s", "r") is opened
        await opened.close()
        again = await begun(bench.kit.open("s", "r", "agent"))  # the id is free again
        await again.close()

    go(main())
    assert len(bench.of(AgentEnd)) == 2


# --- sub-agents ---


def test_a_sub_agent_joins_the_session_of_its_parent_by_name_whatever_its_own_conversation() -> None:
    bench = KitBench()

    async def main() -> None:
        parent = await in_own_context(begun(bench.kit.open("s", "r", "main")))
        child = await in_own_context(begun(bench.kit.open("t", "q", "helper", parent=parent, call_id="c1"), "a task"))
        assert bench.kit.find("t", "q") is child
        assert bench.kit.find("s") is parent
        await in_own_context(child.close("helped"))
        await in_own_context(parent.close("done"))

    go(main())
    starts = [(start.session_id, start.agent_id, start.parent_id) for start in bench.of(AgentStart)]
    assert starts == [("s", None, None), ("s", "q", "c1")]


def test_a_sub_agent_that_is_opened_inside_a_tool_finds_its_parent_where_the_context_carries() -> None:
    bench = KitBench()

    async def main() -> None:
        parent = await in_own_context(begun(bench.kit.open("s", "r", "main")))
        call = ToolCall("delegate", {}, "c1")

        async def delegate(_: ToolCall) -> ToolResult:
            child = await asyncio.create_task(begun(bench.kit.open("t", "q", "helper"), "a task"))
            assert (child.parent, child.call_id) == (parent, "c1")
            await child.close("helped")
            return ToolResult(success=True, output="helped")

        assert (await parent.authorize(call)).is_allowed
        await parent.carry_out(call, delegate)
        await parent.close("done")

    go(main())


def test_a_run_that_is_only_open_is_nobodys_parent() -> None:
    bench = KitBench()

    async def main() -> None:
        one = await begun(bench.kit.open("s", "r", "agent"))
        other = await begun(bench.kit.open("t", "q", "agent"))  # in the same context, and another conversation
        assert other.parent is None
        assert other.live is not one.live
        await other.close()
        await one.close()

    go(main())


def test_sub_agents_that_nobody_closes_end_before_their_parent() -> None:
    bench = KitBench()

    async def main() -> None:
        parent = await begun(bench.kit.open("s", "r", "main"))
        child = await begun(bench.kit.open("s", "q", "helper", parent=parent, call_id="c1"), "a task")
        await begun(bench.kit.open("s", "p", "helper's", parent=child, call_id="c2"), "a part of it")
        await parent.close("done")
        assert not bench.is_running

    go(main())
    ends = [(end.agent_name, end.interruption_cause) for end in bench.of(AgentEnd)]
    cause = "the run that it works for has ended"
    assert ends == [("helper's", cause), ("helper", cause), ("main", None)]


def test_an_exclusive_sub_agent_of_the_same_conversation_leaves_its_parent_alone() -> None:
    bench = KitBench()

    async def main() -> None:
        parent = await begun(bench.kit.open("s", "r", "main"))
        child = await begun(
            bench.kit.open("s", "q", "helper", parent=parent, call_id="c1", is_exclusive=True), "a task"
        )
        assert not parent.is_ended
        await child.close()
        await parent.close()

    go(main())


def test_a_parent_that_has_ended_or_is_of_another_host_is_refused() -> None:
    bench, elsewhere = KitBench(), KitBench()

    async def main() -> None:
        ended = await begun(bench.kit.open("s", "r", "main"))
        await ended.close()
        with pytest.raises(HostError, match="'r' has ended"):
            await bench.kit.open("s", "q", "helper", parent=ended)
        foreign = await begun(elsewhere.kit.open("s", "r", "main"))
        with pytest.raises(HostError, match="one of another host"):
            await bench.kit.open("s", "q", "helper", parent=foreign)
        await foreign.close()
        assert not bench.is_running

    go(main())


# --- ends that the framework never tells of ---


def _ended_by(how: Coroutine[Any, Any, None] | None = None, *, is_cancelled: bool = False) -> asyncio.Task[None]:
    """Return a task that is to end a run."""

    async def wait() -> None:
        await asyncio.Event().wait()

    task = asyncio.ensure_future(how if how is not None else wait())
    if is_cancelled:
        asyncio.get_running_loop().call_soon(task.cancel)
    return task


async def _raises() -> None:
    raise ValueError("it broke")


async def _returns() -> None:
    pass


@pytest.mark.parametrize(
    ("how", "interrupted", "cause"),
    [
        pytest.param(_raises, True, "ValueError: it broke", id="raises"),
        pytest.param(_returns, False, "its task has ended", id="returns"),
        pytest.param(None, True, "its task was cancelled", id="is cancelled"),
    ],
)
def test_a_run_ends_with_a_task_that_returns_raises_or_is_cancelled(how: Any, *, interrupted: bool, cause: str) -> None:
    bench = KitBench()

    async def main() -> None:
        task = _ended_by(how() if how else None, is_cancelled=how is None)
        opened = await begun(bench.kit.open("s", "r", "agent", ends_with=task))
        call = ToolCall("work", {}, "c1")
        if not opened.is_ended:
            await opened.authorize(call)
        await asyncio.wait([task])
        await until(lambda: not bench.is_running)

    go(main())
    assert (bench.end.interrupted, bench.end.interruption_cause) == (interrupted, cause)
    assert all(end.success is False for end in bench.of(ToolCallEnd))
    assert bench.types[-2:] == ["AGENT_END", "SESSION_END"]


def test_the_end_of_the_loop_ends_a_run_and_stops_its_host() -> None:
    bench = KitBench()

    async def main() -> None:
        task = _ended_by()
        await begun(bench.kit.open("s", "r", "agent", ends_with=task))

    go(main())
    assert not bench.is_running
    assert bench.end.interrupted
    assert bench.end.interruption_cause


def test_the_main_task_of_a_program_ends_a_run_and_the_host_stops_in_order() -> None:
    bench = KitBench()

    async def main() -> None:
        await begun(bench.kit.open("s", "r", "agent", ends_with=asyncio.current_task()))

    asyncio.run(main())
    assert not bench.is_running
    assert (bench.end.interrupted, bench.end.interruption_cause) == (False, "its task has ended")


def test_a_run_ends_with_a_task_of_another_loop_and_is_refused_where_that_loop_has_ended() -> None:
    bench = KitBench()

    async def task() -> asyncio.Task[None]:
        return asyncio.ensure_future(asyncio.sleep(0))

    lost = go(task())

    async def main() -> None:
        with pytest.raises(HostError, match="cannot end with a task of another loop"):
            await bench.kit.open("s", "r", "agent", ends_with=lost)
        assert bench.kit.find("s") is None
        assert not bench.is_running

        async def elsewhere() -> None:
            own = asyncio.current_task()
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(opened(own), loop))

        async def opened(own: asyncio.Task[None] | None) -> None:
            await begun(bench.kit.open("s", "r", "agent", ends_with=own))

        loop = asyncio.get_running_loop()
        await asyncio.to_thread(in_thread, elsewhere())
        await until(lambda: not bench.is_running)

    go(main())
    assert bench.end.interruption_cause == "its task has ended"


def test_a_run_that_is_closed_is_not_ended_again_by_its_task() -> None:
    bench = KitBench()

    async def main() -> None:
        task = _ended_by()
        opened = await begun(bench.kit.open("s", "r", "agent", ends_with=task))
        await opened.close("done")
        task.cancel()
        await asyncio.wait([task])

    go(main())
    assert (bench.end.content, bench.end.interrupted) == ("done", False)


def test_the_next_exclusive_run_closes_what_is_open_in_its_conversation_and_nothing_else() -> None:
    bench = KitBench()

    async def main() -> None:
        left = await begun(bench.kit.open("s", "r1", "agent"))
        call = ToolCall("work", {}, "c1")
        assert (await left.authorize(call)).is_allowed
        elsewhere = await begun(bench.kit.open("t", "r1", "agent"))
        following = await begun(bench.kit.open("s", "r2", "agent", is_exclusive=True))
        assert bench.kit.find("s") is following
        assert left.is_ended
        result = await left.carry_out(call, _never)  # what was allowed does not outlive its run
        assert result.error == "not run: the run that makes the call has ended"
        await following.close("done")
        assert not elsewhere.is_ended
        await elsewhere.close("done")
        assert not bench.is_running

    go(main())
    first = bench.of(AgentEnd)[0]
    assert (first.instance_id, first.interruption_cause) == ("r1", "another run of the conversation has begun")
    (end,) = bench.of(ToolCallEnd)
    assert (end.success, end.call_id) == (False, "c1")
    assert bench.types.index("TOOL_CALL_END") < bench.types.index("AGENT_END")


async def _never(_: ToolCall) -> ToolResult:
    raise AssertionError("a call runs that nobody has allowed")


def test_a_call_of_a_run_that_has_ended_is_refused() -> None:
    asked: list[str] = []

    async def gate(_: Any, call: ToolCall) -> None:
        asked.append(call.tool_name)

    bench = KitBench({"guard": make_plugin(ally_gate_tool_call=gate)})

    async def main() -> None:
        other = await begun(bench.kit.open("t", "r", "agent"))
        opened = await begun(bench.kit.open("s", "r", "agent"))
        await opened.close(cause="it is over")
        outcome = await opened.authorize(ToolCall("work", {}, "c1"))
        assert not outcome.is_allowed
        assert "has ended" in outcome.reason
        await other.close()

    go(main())
    assert asked == []
    assert [(end.call_id, end.denied) for end in bench.of(ToolCallEnd)] == [("c1", True)]


def test_the_hosts_stop_ends_each_run_before_its_session() -> None:
    bench = KitBench()

    async def main() -> None:
        async with bench.host:
            parent = await begun(bench.kit.open("s", "r", "main"))
            child = await begun(bench.kit.open("s", "q", "helper", parent=parent, call_id="c1"), "a task")
            assert (await child.authorize(ToolCall("work", {}, "c2"))).is_allowed
        assert bench.kit.find("s") is bench.kit.find("s", "q") is None
        await parent.close("late")  # its framework says so now, and nothing is left to do
        assert not bench.is_running

    go(main())
    wanted = {"TOOL_CALL_END", "AGENT_END", "SESSION_END"}
    assert [kind for kind in bench.types if kind in wanted] == [
        "TOOL_CALL_END",
        "AGENT_END",
        "AGENT_END",
        "SESSION_END",
    ]
    assert {end.interruption_cause for end in bench.of(AgentEnd)} == {"the host has stopped"}


def test_a_host_that_was_stopped_amid_a_run_is_started_by_the_next_and_stops_after_it() -> None:
    bench = KitBench()

    async def main() -> None:
        left = await begun(bench.kit.open("s", "r", "agent"))
        await bench.host.stop()
        following = await begun(bench.kit.open("s2", "r", "agent"))
        assert bench.is_running
        await left.close()  # it used the host of before
        assert bench.is_running
        await following.close("done")
        assert not bench.is_running
        async with bench.host:  # its author's own now
            last = await begun(bench.kit.open("s3", "r", "agent"))
            await last.close()
            assert bench.is_running

    go(main())
    assert len(bench.of(AgentEnd)) == 3


def test_a_run_that_ends_while_it_begins_does_not_begin() -> None:
    asked = threading.Event()
    hold = threading.Event()

    def hold_it(_: Any, message: Any) -> None:  # noqa: ARG001 - the hook's own argument
        asked.set()
        hold.wait(60)

    bench = KitBench({"slow": make_plugin(ally_transform_user_message=hold_it)})

    async def main() -> None:
        opened = await bench.kit.open("s", "r", "agent")
        beginning = asyncio.ensure_future(opened.begin("hello"))
        await asyncio.to_thread(asked.wait, 60)
        opened.end(cause="it is over")
        hold.set()
        with pytest.raises(HostError, match="was ended before it had begun"):
            await beginning
        await opened.close()

    go(main())
    assert bench.of(AgentStart, AgentEnd) == []


def test_a_listener_may_end_a_run_as_it_begins() -> None:
    bench = KitBench()

    async def main() -> None:
        opened = await bench.kit.open("s", "r", "agent")
        bench.host.stream.subscribe("AGENT_START", lambda _: opened.end(cause="it may not"))
        await opened.begin("hello")
        assert opened.is_ended
        await opened.close()

    go(main())
    (start,) = bench.of(AgentStart)
    assert start.seq < bench.end.seq
    assert bench.end.interruption_cause == "it may not"


# --- cancellation ---


@pytest.mark.slow
def test_a_run_that_is_cancelled_at_any_of_its_awaits_while_it_opens_leaves_nothing_open() -> None:
    cancelled = 0
    for steps in range(60):
        bench = KitBench()

        async def main(bench: KitBench = bench, steps: int = steps) -> bool:
            opening = asyncio.ensure_future(bench.kit.open("s", "r", "agent"))
            for _ in range(steps):
                await asyncio.sleep(0)  # one step of the loop
            opening.cancel()
            await asyncio.wait([opening])
            if not opening.cancelled():
                await opening.result().close()
            assert not bench.is_running
            assert bench.kit.find("s", "r") is None
            return opening.cancelled()

        cancelled += go(main())
    assert cancelled


def test_a_cancelled_close_has_ended_the_run_and_stopped_the_host() -> None:
    bench = KitBench()

    async def main() -> None:
        opened = await begun(bench.kit.open("s", "r", "agent"))
        closing = asyncio.ensure_future(opened.close("done"))
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert not bench.is_running

    go(main())
    assert bench.end.content == "done"


def test_two_kits_of_one_host_find_their_own_runs_only() -> None:
    host = new_host()
    one, other = AgentKit(host=host), AgentKit(host=host)

    async def main() -> None:
        opened = await one.open("s", "r", "agent")
        assert one.find("s") is opened
        assert other.find("s") is other.find("s", "r") is None
        await opened.close()

    go(main())
