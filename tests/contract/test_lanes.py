"""A plugin's hooks never overlap, come in order, and one that misbehaves costs nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from typing import Any

import pytest

from ally_plugins import Allow, Event, Replace, ThoughtComplete, ToolCall, ToolCallStart, tool
from ally_plugins.runtime.lanes.requests import HookCancelled
from ally_plugins.runtime.lanes.runner import Runner
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go

CALL = ToolCall("bash", {"command": "ls"}, "c1")


def start(number: int = 0) -> ToolCallStart:
    return ToolCallStart(tool_name="bash", arguments={"n": number})


async def note(self: Any, event: Event) -> None:
    self.seen.append(event.seq)


async def hang(self: Any, event: Event) -> None:  # noqa: ARG001
    await asyncio.sleep(3600)


async def hang_in_gate(self: Any, call: ToolCall) -> None:  # noqa: ARG001
    await asyncio.sleep(3600)


async def swallow_once(self: Any, event: Event) -> None:
    if not self.seen:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
    self.seen.append(event.seq)


async def swallow_forever(self: Any, event: Event) -> None:  # noqa: ARG001
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


async def ignore_everything(self: Any, event: Event) -> None:  # noqa: ARG001
    while True:
        try:
            await asyncio.sleep(3600)
        except BaseException:  # noqa: BLE001, S112 - the most stubborn hook there can be
            continue


# --- order, and no overlap ---


class Overlap:
    """Counts how many hooks of one plugin are under way at once."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


@pytest.mark.parametrize("kinds", ["async", "sync", "mixed"])
def test_hooks_of_one_plugin_never_overlap_and_come_in_order_of_seq(kinds: str) -> None:
    overlap = Overlap()

    async def slowly(self: Any, event: Event) -> None:
        with overlap:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.seen.append((event.session_id, event.seq))

    def in_thread(self: Any, event: Event) -> None:
        with overlap:
            time.sleep(0.0001)
            self.seen.append((event.session_id, event.seq))

    async def gate(self: Any, call: ToolCall) -> None:  # noqa: ARG001
        with overlap:
            await asyncio.sleep(0)

    first = in_thread if kinds == "sync" else slowly
    second = slowly if kinds == "async" else in_thread
    hooks = {"ally_tool_call_start": first, "ally_thought_complete": second, "ally_gate_tool_call": gate}

    async def main() -> None:
        async with new_host({"p": make_plugin(**hooks)}) as host:
            sessions = [host.session(name) for name in ("one", "two", "three")]
            asked = []
            for number in range(60):
                session = sessions[number % 3]
                session.emit(start(number) if number % 2 else ThoughtComplete(thinking="hm"))
                if number % 7 == 0:
                    asked.append(asyncio.ensure_future(session.gate_tool_call(CALL)))
                    await asyncio.sleep(0)
            await asyncio.gather(*asked, *(session.drained() for session in sessions))
            seen = host.plugins["p"].instance.seen
            assert overlap.most == 1
            assert len(seen) == 60
            for session in sessions:
                own = [seq for name, seq in seen if name == session.id]
                assert own == sorted(own)
                assert len(own) == 20

    go(main())


def test_a_gate_and_a_transform_come_after_the_events_that_were_emitted_before_them() -> None:
    async def observe(self: Any, event: Event) -> None:
        await asyncio.sleep(0.001)
        self.seen.append(event.seq)

    async def gate(self: Any, call: ToolCall) -> Allow:  # noqa: ARG001
        self.seen.append("gate")
        return Allow()

    def transform(self: Any, call: ToolCall) -> None:  # noqa: ARG001
        self.seen.append("transform")

    puppet = make_plugin(ally_tool_call_start=observe, ally_gate_tool_call=gate, ally_transform_tool_input=transform)

    async def main() -> list[Any]:
        async with new_host({"p": puppet}) as host:
            session = host.session()
            for number in range(3):
                session.emit(start(number))
            asking = asyncio.ensure_future(session.gate_tool_call(CALL))
            await asyncio.sleep(0)
            session.emit(start(3))
            assert (await asking).is_allowed
            session.emit(start(4))
            await session.transform_tool_input(CALL)
            return list(host.plugins["p"].instance.seen)

    seen = go(main())
    assert [seen.index(number) < seen.index("gate") for number in (2, 3, 4)] == [True, True, True]
    assert [n for n in seen if isinstance(n, int)] == sorted(n for n in seen if isinstance(n, int))
    assert seen[-1] == "transform"
    assert len([n for n in seen if isinstance(n, int)]) >= 5


def test_different_plugins_run_at_the_same_time() -> None:
    met = threading.Barrier(2)

    def meet(self: Any, event: Event) -> None:  # noqa: ARG001
        met.wait(10)  # only passes when the other plugin's hook runs meanwhile

    async def main() -> None:
        hooks = {"ally_tool_call_start": meet}
        async with new_host({"a": make_plugin(**hooks), "b": make_plugin(**hooks)}) as host:
            session = host.session()
            session.emit(start())
            await session.drained()
            assert [p.counts.crashes for p in host.plugins.values()] == [0, 0]

    go(main())


def test_a_tool_and_a_task_run_while_a_hook_of_their_plugin_runs() -> None:
    async def main() -> None:
        entered, leave, in_task = asyncio.Event(), asyncio.Event(), asyncio.Event()

        @tool
        async def answer(self: Any) -> str:  # noqa: ARG001
            """Answer."""
            return "42"

        async def background() -> None:
            in_task.set()

        async def hook(self: Any, event: Event) -> None:  # noqa: ARG001
            await self.ally.start_task("background", background())
            entered.set()
            await leave.wait()

        async with new_host({"p": make_plugin(answer=answer, ally_tool_call_start=hook)}) as host:
            session = host.session()
            session.emit(start())
            await entered.wait()
            assert (await host.call_tool("answer")).output == "42"
            await in_task.wait()
            assert not leave.is_set()
            leave.set()
            await session.drained()

    go(main())


# --- deadlines ---


def test_an_observer_past_its_deadline_is_interrupted_and_the_next_events_go_on() -> None:
    async def hang_first(self: Any, event: Event) -> None:
        self.seen.append(event.seq)
        if len(self.seen) == 1:
            await asyncio.sleep(3600)

    async def main() -> None:
        slow = setup(make_plugin(ally_tool_call_start=hang_first), deadlines={"observe": 0.05})
        async with new_host({"slow": slow, "other": make_plugin(ally_tool_call_start=note)}) as host:
            session = host.session()
            for number in range(5):
                session.emit(start(number))
            await session.drained()
            assert host.plugins["slow"].instance.seen == host.plugins["other"].instance.seen == [2, 3, 4, 5, 6]
            assert host.plugins["slow"].counts.crashes == 1
            assert host.plugins["slow"].is_running

    go(main())


def test_a_deadline_may_be_set_for_one_hook_and_leaves_the_others_theirs() -> None:
    async def a_while(self: Any, event: Event) -> None:
        await asyncio.sleep(0.15)
        self.seen.append(event.type)

    async def main() -> None:
        hooks = {"ally_tool_call_start": a_while, "ally_thought_complete": a_while}
        one = setup(make_plugin(**hooks), deadlines={"ally_tool_call_start": 0.02})
        async with new_host({"p": one}) as host:
            session = host.session()
            session.emit(start())
            session.emit(ThoughtComplete(thinking="hm"))
            await session.drained()
            assert host.plugins["p"].instance.seen == ["THOUGHT_COMPLETE"]

    go(main())


@pytest.mark.usefixtures("short_grace")
def test_what_swallows_its_interruption_and_ends_in_time_goes_on_and_is_one_crash() -> None:
    async def main() -> None:
        one = setup(make_plugin(ally_tool_call_start=swallow_once), deadlines={"observe": 0.02})
        async with new_host({"p": one}) as host:
            session = host.session()
            for number in range(3):
                session.emit(start(number))
            await session.drained()
            await asyncio.sleep(0.15)  # past the grace: it must not be given up now
            session.emit(start(3))
            await session.drained()
            assert host.plugins["p"].instance.seen == [2, 3, 4, 5]
            assert (host.plugins["p"].counts.crashes, host.plugins["p"].state) == (1, "running")

    go(main())


def test_an_interruption_that_is_turned_into_another_error_is_one_crash_and_not_two() -> None:
    async def complain(self: Any, event: Event) -> None:
        self.seen.append(event.seq)
        if len(self.seen) == 1:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                raise ValueError("not now") from None

    async def main() -> None:
        one = setup(make_plugin(ally_tool_call_start=complain), deadlines={"observe": 0.02})
        async with new_host({"p": one}) as host:
            session = host.session()
            session.emit(start())
            session.emit(start())
            await session.drained()
            assert (host.plugins["p"].counts.crashes, host.plugins["p"].instance.seen) == (1, [2, 3])

    go(main())


@pytest.mark.usefixtures("short_grace")
def test_a_second_slow_hook_after_one_that_swallowed_its_interruption_gets_its_own_grace() -> None:
    async def swallow_then_obey(self: Any, event: Event) -> None:
        self.seen.append(event.seq)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if len(self.seen) > 1:
                raise

    async def main() -> None:
        one = setup(make_plugin(ally_tool_call_start=swallow_then_obey), deadlines={"observe": 0.02})
        async with new_host({"p": one}) as host:
            session = host.session()
            session.emit(start())
            session.emit(start())
            session.emit(ThoughtComplete(thinking="hm"))
            await session.drained()
            assert (host.plugins["p"].state, host.plugins["p"].instance.seen) == ("running", [2, 3])

    go(main())


def test_timeouts_of_a_hooks_own_work_after_an_interruption() -> None:
    async def hook(self: Any, event: Event) -> None:
        if event.seq == 2:
            await asyncio.sleep(3600)
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(3600)
        except TimeoutError:
            self.seen.append(event.seq)

    async def main() -> None:
        one = setup(make_plugin(ally_tool_call_start=hook), deadlines={"observe": 0.1})
        async with new_host({"p": one}) as host:
            session = host.session()
            session.emit(start())
            session.emit(start())
            await session.drained()
            assert host.plugins["p"].instance.seen == [3]

    go(main())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # "coroutine ignored GeneratorExit"
@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("stubborn", [swallow_forever, ignore_everything])
def test_what_ignores_its_interruption_is_abandoned_and_quarantined_and_the_program_still_ends(stubborn: Any) -> None:
    async def main() -> tuple[Any, ...]:
        one = setup(make_plugin(ally_tool_call_start=stubborn), deadlines={"observe": 0.05})
        watcher = make_plugin(ally_plugin_state=lambda self, event: self.seen.append(event))
        async with new_host({"p": one, "watcher": watcher, "other": make_plugin(ally_tool_call_start=note)}) as host:
            session = host.session()
            for number in range(3):
                session.emit(start(number))
            await session.drained()
            await session.drained()  # the second time for PLUGIN_STATE
            bad, other = host.plugins["p"], host.plugins["other"]
            states = [(e.plugin_name, e.state, e.reason) for e in host.plugins["watcher"].instance.seen]
            return bad.state, bad.reason, bad.counts.crashes, other.instance.seen, states

    before = time.monotonic()
    state, reason, crashes, seen, states = go(main())
    assert time.monotonic() - before < 10  # else it ends with the test
    gc.collect()  # here, so that no other test is told of what this one leaves
    assert (state, crashes, seen) == ("quarantined", 1, [2, 3, 4])
    assert "ally_tool_call_start" in reason
    assert "ally-plugins release p" in reason
    assert ("p", "quarantined", reason) in states


def test_a_plugin_that_blocks_its_thread_is_given_up_and_delays_nobody() -> None:
    release = threading.Event()

    async def main() -> None:
        blocked = setup(
            make_plugin(ally_tool_call_start=lambda self, event: release.wait(10)),  # noqa: ARG005
            deadlines={"observe": 0.05},
        )
        async with new_host({"p": blocked, "other": make_plugin(ally_tool_call_start=note)}) as host:
            session = host.session()
            before = time.monotonic()
            for number in range(3):
                session.emit(start(number))
            await session.drained()
            assert time.monotonic() - before < 5  # the thread is blocked for ten
            assert host.plugins["p"].state == "quarantined"
            assert host.plugins["other"].instance.seen == [2, 3, 4]

    try:
        go(main())
    finally:
        release.set()


def test_a_question_that_is_taken_back_interrupts_the_hook_and_the_lane_goes_on() -> None:
    async def main() -> None:
        entered, ended = asyncio.Event(), asyncio.Event()

        async def gate(self: Any, call: ToolCall) -> None:  # noqa: ARG001
            entered.set()
            try:
                await asyncio.sleep(3600)
            finally:
                ended.set()

        async with new_host({"p": make_plugin(ally_gate_tool_call=gate, ally_tool_call_start=note)}) as host:
            session = host.session()
            asking = asyncio.ensure_future(session.gate_tool_call(CALL))
            await entered.wait()
            asking.cancel()
            await ended.wait()
            session.emit(start())
            await session.drained()
            assert host.plugins["p"].instance.seen == [2]
            assert host.plugins["p"].counts.crashes == 0

    go(main())


@pytest.mark.slow
def test_nobody_is_told_of_an_answer_that_nobody_waits_for_any_more(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        one = setup(make_plugin(ally_tool_call_start=hang), deadlines={"stop": 0.05})
        async with new_host({"p": one}) as host:
            session = host.session()
            session.emit(start())
            draining = asyncio.ensure_future(session.drained())
            asking = asyncio.ensure_future(session.gate_tool_call(CALL))
            await asyncio.sleep(0.01)
            draining.cancel()
            asking.cancel()
        gc.collect()

    go(main())
    gc.collect()
    assert "never retrieved" not in caplog.text


# --- what hooks raise ---

RAISED: list[BaseException] = [
    ValueError("broken"),
    SystemExit(3),
    StopIteration("stop"),
    StopAsyncIteration(),
    GeneratorExit(),
    asyncio.CancelledError(),
    TimeoutError(),
    MemoryError(),
    RecursionError(),
    BaseExceptionGroup("several", [SystemExit(1), KeyError("k")]),
]


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("raised", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_a_hook_raises_is_its_crash_and_the_next_event_comes(
    raised: BaseException,
    is_async: bool,  # noqa: FBT001
) -> None:
    def fail(self: Any, event: Event) -> None:
        self.seen.append(event.seq)
        if event.seq == 2:
            raise raised

    async def fail_async(self: Any, event: Event) -> None:
        fail(self, event)

    async def main() -> None:
        hook = fail_async if is_async else fail
        async with new_host({"p": make_plugin(ally_tool_call_start=hook)}) as host:
            session = host.session()
            session.emit(start())
            session.emit(start())
            await session.drained()
            await asyncio.sleep(0)
            assert host.plugins["p"].instance.seen == [2, 3]
            assert host.plugins["p"].counts.crashes == 1
            assert host.plugins["p"].is_running

    go(main())


def test_keyboard_interrupt_is_the_persons_and_ends_the_program() -> None:
    async def interrupt(self: Any, event: Event) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    async def main() -> None:
        async with new_host({"p": make_plugin(ally_tool_call_start=interrupt)}) as host:
            session = host.session()
            session.emit(start())
            await session.drained()
            await asyncio.sleep(3600)

    with pytest.raises(KeyboardInterrupt):
        go(main())


def test_keyboard_interrupt_in_a_plugins_thread_is_the_plugins_and_a_crash() -> None:
    def interrupt(self: Any, event: Event) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    async def main() -> None:
        async with new_host({"p": make_plugin(ally_tool_call_start=interrupt)}) as host:
            session = host.session()
            session.emit(start())
            await session.drained()
            await asyncio.sleep(0)
            assert host.plugins["p"].counts.crashes == 1

    go(main())


def test_a_hook_that_cancels_the_task_it_runs_in_ends_only_its_own_plugin() -> None:
    async def cancel(self: Any, event: Event) -> None:  # noqa: ARG001
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async def main() -> None:
        async with new_host(
            {"p": make_plugin(ally_tool_call_start=cancel), "other": make_plugin(ally_tool_call_start=note)}
        ) as host:
            session = host.session()
            session.emit(start())
            await session.drained()
            session.emit(start())
            await session.drained()
            assert len(host.plugins["other"].instance.seen) == 2
            assert host.plugins["p"].state == "quarantined"
            assert HookCancelled.__name__ in host.plugins["p"].reason

    go(main())


def test_a_program_that_forgets_to_stop_its_host_ends_all_the_same_and_nobody_is_blamed() -> None:
    hosts = []

    async def main() -> None:
        host = new_host(
            {"p": make_plugin(ally_tool_call_start=hang), "q": make_plugin(ally_gate_tool_call=hang_in_gate)}
        )
        hosts.append(host)
        await host.start()
        session = host.session()
        session.emit(start())
        asking = asyncio.ensure_future(session.gate_tool_call(CALL))
        await asyncio.sleep(0.01)
        assert not asking.done()

    go(main())
    assert [p.state for p in hosts[0].plugins.values()] == ["running", "running"]
    assert [p.counts.crashes for p in hosts[0].plugins.values()] == [0, 0]
    hosts[0].journal.close_blocking()  # the end of a program does it


def test_a_program_ends_while_an_interrupted_hook_still_cleans_up() -> None:
    hosts = []

    async def main() -> None:
        cleans_up = asyncio.Event()

        async def hook(self: Any, event: Event) -> None:  # noqa: ARG001
            try:
                await asyncio.sleep(3600)
            finally:
                cleans_up.set()
                await asyncio.sleep(3600)

        host = new_host({"p": setup(make_plugin(ally_tool_call_start=hook), deadlines={"observe": 0.05})})
        hosts.append(host)
        await host.start()
        host.session().emit(start())
        await cleans_up.wait()

    before = time.monotonic()
    go(main())
    assert time.monotonic() - before < 10  # else its lane waits for ever
    hosts[0].journal.close_blocking()  # the end of a program does it


def test_a_def_hook_that_returns_a_coroutine_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    async def later() -> None: ...

    async def main() -> None:
        hooks = {"ally_tool_call_start": lambda self, event: later()}  # noqa: ARG005
        async with new_host({"p": make_plugin(**hooks)}) as host:
            session = host.session()
            session.emit(start())
            await session.drained()
            await asyncio.sleep(0)
            assert host.plugins["p"].counts.crashes == 1

    go(main())
    assert "write `async def ally_tool_call_start`" in caplog.text


# --- quarantine ---


@pytest.mark.parametrize("is_async", [True, False])
def test_the_fifth_crash_in_a_minute_is_quarantine_and_hooks_are_called_no_more(
    is_async: bool,  # noqa: FBT001
) -> None:
    def fail(self: Any, event: Event) -> None:
        self.seen.append(event.seq)
        raise ValueError("broken")

    async def fail_async(self: Any, event: Event) -> None:
        fail(self, event)

    async def main() -> None:
        hooks = {"ally_tool_call_start": fail_async if is_async else fail}
        watcher = make_plugin(ally_plugin_state=lambda self, event: self.seen.append((event.plugin_name, event.state)))
        async with new_host({"p": make_plugin(**hooks), "watcher": watcher}) as host:
            session = host.session()
            for number in range(9):
                session.emit(start(number))
                await session.drained()
                await asyncio.sleep(0)
            bad = host.plugins["p"]
            assert (bad.state, bad.counts.crashes, len(bad.instance.seen)) == ("quarantined", 5, 5)
            assert "5 crashes in 60 s, last: ValueError: broken" in bad.reason
            assert ("p", "quarantined") in host.plugins["watcher"].instance.seen

    go(main())


def test_a_refusal_that_is_not_caught_is_no_crash() -> None:
    async def ask_too_much(self: Any, event: Event) -> None:
        self.seen.append(event.seq)
        await self.ally.add_message("system", "obey")

    def ask_too_much_in_thread(self: Any, event: Event) -> None:
        self.seen.append(event.seq)
        self.ally.blocking.add_message("system", "obey")

    async def main() -> None:
        granted = ["events:*"]
        given = {
            "p": setup(make_plugin(ally_tool_call_start=ask_too_much), granted),
            "q": setup(make_plugin(ally_tool_call_start=ask_too_much_in_thread), granted),
        }
        async with new_host(given) as host:
            session = host.session()
            for number in range(9):
                session.emit(start(number))
            await session.drained()
            await asyncio.sleep(0)
            for known in host.plugins.values():
                assert (known.state, known.counts.crashes, len(known.instance.seen)) == ("running", 0, 9)
                assert known.counts.refused == {"permission": 9}

    go(main())


def test_a_plugin_that_crashes_into_quarantine_while_it_starts_does_not_come_out_as_running() -> None:
    async def main() -> None:
        opened = asyncio.Event()

        async def starting(self: Any) -> None:  # noqa: ARG001
            await opened.wait()

        async def fail(self: Any, event: Event) -> None:  # noqa: ARG001
            raise ValueError("broken")

        host = new_host({"p": make_plugin(ally_start=starting, ally_tool_call_start=fail)})
        starts = asyncio.ensure_future(host.start())
        while not host.plugins or host.plugins["p"].state != "starting":  # noqa: ASYNC110 - that is no event
            await asyncio.sleep(0)
        session = host.session()
        for number in range(9):
            session.emit(start(number))
        opened.set()
        await starts
        await session.drained()
        assert host.plugins["p"].state == "quarantined"
        await host.stop()

    go(main())


def test_a_replacement_is_given_even_when_events_never_stop() -> None:
    async def transform(self: Any, call: ToolCall) -> Replace[ToolCall]:  # noqa: ARG001
        return Replace(ToolCall(call.tool_name, {"command": "pwd"}))

    async def main() -> None:
        async with new_host({"p": make_plugin(ally_tool_call_start=note, ally_transform_tool_input=transform)}) as host:
            session = host.session()
            flooding = True

            async def flood() -> None:
                while flooding:
                    session.emit(start())
                    await asyncio.sleep(0)

            task = asyncio.ensure_future(flood())
            for _ in range(20):
                assert (await session.transform_tool_input(CALL)).arguments == {"command": "pwd"}
            flooding = False
            await task

    go(main())


def test_a_lane_that_was_woken_counts_as_busy_before_its_next_turn() -> None:
    # A watchdog that looked in between would stop watching, and what the lane is about to run would have no deadline.

    async def main() -> None:
        ran = asyncio.Event()

        async def work() -> None:
            ran.set()

        def drop() -> None: ...

        runner = Runner("p", work, drop, on_crash=lambda _: None, deadline=lambda _: 1.0, passes_on=())
        runner.start()
        await ran.wait()
        await asyncio.sleep(0)
        assert not runner.is_busy
        runner.wake()
        assert runner.is_busy
        await runner.close()

    go(main())
