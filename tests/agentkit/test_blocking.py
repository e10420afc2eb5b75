"""The agent kit as plain functions: from any thread, with a host that runs elsewhere, is started, or blocks itself."""

# ruff: noqa: ARG001 - hooks and fixtures name what they are given, used or not

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import (
    AgentEnd,
    AgentKit,
    AgentStart,
    AgentWork,
    BlockingHost,
    BlockingKit,
    Deny,
    HostError,
    Message,
    Postponed,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    ToolResult,
)
from ally_plugins.adapters.kit.blocking import BlockingWork
from ally_plugins.runtime.lanes.call_thread import run_around, run_blocking
from tests.kit.forks import in_fork
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go

from .bench import KitBench

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CALL = ToolCall("bash", {"command": "ls"}, "c1")
DONE = ToolResult(success=True, output="done")


def never(call: ToolCall) -> ToolResult:
    raise AssertionError(f"{call} runs, which nobody has allowed")


def turn(kit: BlockingKit, conversation: str, run: Callable[[ToolCall], ToolResult] = lambda _: DONE) -> ToolResult:
    """Run one turn with one call in this thread."""
    work = kit.open(conversation, "r", "agent")
    assert work.begin("go") == "go"
    result = work.run_tool_call(CALL, run)
    work.close(result.output)
    return result


def test_a_run_from_a_plain_thread_starts_the_host_and_its_tool_runs_in_that_thread() -> None:
    bench = KitBench()
    kit, threads = BlockingKit(bench.kit), []

    def run(_: ToolCall) -> ToolResult:
        threads.append(threading.current_thread())
        assert bench.is_running
        return DONE

    assert turn(kit, "s", run) == DONE
    assert threads == [threading.current_thread()]
    assert not bench.is_running
    assert (bench.end.content, bench.end.tool_use_count) == ("done", 1)


def test_many_threads_at_once_have_their_own_conversations_on_one_host() -> None:
    bench = KitBench()
    kit = BlockingKit(bench.kit)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda number: turn(kit, f"s{number}"), range(64)))
    assert found == [DONE] * 64
    assert not bench.is_running
    assert {end.session_id for end in bench.of(AgentEnd)} == {f"s{number}" for number in range(64)}


def test_beside_a_blocking_host_the_calls_run_on_its_loop(no_leaks: None) -> None:
    async def deny(_: Any, call: ToolCall) -> Any:
        return Deny(threading.current_thread().name)

    plugins = {"p": make_plugin(ally_gate_tool_call=deny)}
    with BlockingHost("test", home=None, discover=False, plugins=plugins) as host:
        result = turn(BlockingKit(AgentKit(host=host.host), host), "s", never)
        assert result.error == "not run: p: ally-host"
        assert host.session("s").wants("tool_call")  # it runs on


def test_a_host_on_another_loop_is_asked_from_a_thread_beside_it() -> None:
    bench = KitBench()

    async def main() -> None:
        async with bench.host:
            assert await asyncio.to_thread(turn, BlockingKit(bench.kit), "s") == DONE
            assert bench.is_running

    go(main())


def test_halves_meet_though_other_threads_call_them() -> None:
    bench = KitBench()
    kit = BlockingKit(bench.kit)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        work = one.submit(kit.open, "s", "r", "agent").result()
        one.submit(work.begin, "go").result()
        found = kit.find("s")
        assert found is not None
        assert other.submit(found.begin_call, CALL).result() == CALL
        assert one.submit(found.end_call, "c1", DONE).result() == DONE
        other.submit(found.close, "done").result()
    assert kit.find("s") is None
    assert not bench.is_running
    assert [len(bench.of(kind)) for kind in (AgentStart, ToolCallStart, ToolCallEnd, AgentEnd)] == [1, 1, 1, 1]


@pytest.mark.parametrize("is_halved", [False, True])
def test_a_sub_agent_in_a_tool_is_known_as_one(is_halved: bool) -> None:  # noqa: FBT001 - the case
    bench = KitBench()
    kit = BlockingKit(bench.kit)
    work = kit.open("s", "r", "main")
    work.begin("go")

    def delegate(_: ToolCall | None = None) -> ToolResult:
        child = kit.open("t", "q", "helper")
        child.begin("a task")
        child.close("helped")
        return DONE

    if is_halved:
        work.begin_call(CALL, runs_here=True)
        work.end_call("c1", delegate())
    else:
        work.run_tool_call(CALL, delegate)
    work.close("done")
    start = bench.of(AgentStart)[1]
    assert (start.agent_id, start.parent_id, start.session_id) == ("q", "c1", "s")


def test_what_a_tool_raises_is_its_result_and_what_interrupts_it_ends_its_call() -> None:
    bench = KitBench()
    work = BlockingKit(bench.kit).open("s", "r", "agent")
    work.begin("go")

    def broken(_: ToolCall) -> ToolResult:
        raise ValueError("it broke")

    def interrupted(_: ToolCall) -> ToolResult:
        raise KeyboardInterrupt

    def postponed(_: ToolCall) -> ToolResult:
        raise Postponed

    assert work.run_tool_call(CALL, broken).error == "ValueError: it broke"
    with pytest.raises(KeyboardInterrupt):
        work.run_tool_call(CALL, interrupted)
    with pytest.raises(Postponed):
        work.run_tool_call(CALL, postponed)
    assert work.run_tool_call(CALL, lambda _: DONE) == DONE
    work.close()
    assert [end.error for end in bench.of(ToolCallEnd)] == ["ValueError: it broke", "KeyboardInterrupt", None]
    assert len(bench.of(ToolCallStart)) == 3


def test_a_gate_that_takes_longer_than_a_call_may_is_an_error_and_nothing_runs() -> None:
    async def stuck(_: Any, call: ToolCall) -> None:
        await asyncio.Event().wait()

    bench = KitBench({"p": make_plugin(ally_gate_tool_call=stuck)})
    patient, hasty = BlockingKit(bench.kit), BlockingKit(bench.kit, wait=0.05)
    work = patient.open("s", "r", "agent")
    work.begin("go")
    found = hasty.find("s")
    assert found is not None
    with pytest.raises(TimeoutError):
        found.run_tool_call(CALL, never)
    work.close()
    (end,) = bench.of(ToolCallEnd)
    assert (end.success, end.error) == (False, "interrupted")


def test_messages_of_plugins_enter_at_a_safe_point() -> None:
    async def speak(self: Any, event: Any) -> None:
        await self.ally.add_message("user", "try another way")

    bench = KitBench({"p": make_plugin(ally_agent_start=speak)})
    work = BlockingKit(bench.kit).open("s", "r", "agent")
    work.begin("go")

    async def drained() -> None:
        await work.work.live.session.drained()

    go(work.work.live.session.own_loop.run(drained()))
    (message,) = work.safe_point("step")
    assert isinstance(message, Message)
    assert message.content == "try another way"
    work.close()


def test_a_blocking_run_has_the_arguments_and_the_words_of_the_one_behind_it() -> None:
    by_hand = {"begin_call", "run_tool_call"}
    same = {name for name in vars(BlockingWork) if hasattr(AgentWork, name) and not name.startswith("_")}
    assert len(same) > 15
    for name in same - by_hand:
        assert not inspect.iscoroutinefunction(getattr(BlockingWork, name))
        assert inspect.signature(getattr(BlockingWork, name)) == inspect.signature(getattr(AgentWork, name))
        assert inspect.getdoc(getattr(BlockingWork, name)) == inspect.getdoc(getattr(AgentWork, name))
    for name in by_hand:
        ours, behind = (inspect.signature(getattr(each, name)) for each in (BlockingWork, AgentWork))
        assert ours.parameters.keys() == behind.parameters.keys()


def test_a_fork_has_a_kit_of_its_own_and_cannot_use_its_parents_run() -> None:
    bench = KitBench()
    kit = BlockingKit(bench.kit)
    work = kit.open("s", "r", "agent")
    work.begin("go")

    def in_child() -> list[str]:
        with pytest.raises(HostError):
            work.run_tool_call(CALL, never)
        return [turn(BlockingKit(KitBench().kit), "s").output]

    assert in_fork(in_child) == ["done"]
    work.close()


def test_a_hook_stands_around_a_function_that_runs_in_the_callers_thread_and_in_the_hooks_context() -> None:
    place: ContextVar[str] = ContextVar("place", default="nowhere")
    tried: list[tuple[str, bool]] = []

    def function(value: int) -> int:
        tried.append((place.get(), threading.current_thread() is threading.main_thread()))
        if len(tried) == 1:
            raise ConnectionError("no connection")
        return asyncio.run(_twice(value))  # no loop runs here

    async def retry(value: int, call: Callable[[int], Awaitable[int]]) -> str:
        place.set("inside")
        try:
            return str(await call(value))
        except ConnectionError:
            return f"{await call(value + 1)} at last"

    assert run_around(retry, 1, function) == "4 at last"
    assert tried == [("inside", True)] * 2
    assert place.get() == "nowhere"


async def _twice(value: int) -> int:
    return 2 * value


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_cancels_the_hook_and_is_raised_in_the_callers_thread(error: type[BaseException]) -> None:
    ended: list[str] = []

    def function(value: int) -> int:
        raise error

    async def hook(value: int, call: Callable[[int], Awaitable[int]]) -> int:
        try:
            return await call(value)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with pytest.raises(error):
        run_around(hook, 1, function)
    assert ended == ["cancelled"]
    assert run_blocking(_twice(1)) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="sends no signal to a thread")
def test_ctrl_c_while_the_hook_works_before_its_call_cancels_the_hook() -> None:
    ended: list[str] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    async def hook(value: int, call: Callable[[int], Awaitable[int]]) -> int:
        try:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            return await call(await asyncio.Event().wait())
        finally:
            ended.append("cancelled")

    try:
        with pytest.raises(KeyboardInterrupt):
            run_around(hook, 1, lambda value: value)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == ["cancelled"]
