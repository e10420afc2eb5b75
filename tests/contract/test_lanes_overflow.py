"""Events that nobody could keep up with are lost in order, counted, and named to who lost them; nobody else loses."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ally_plugins import Event, EventsDropped, ThoughtComplete, ToolCall, ToolCallStart
from ally_plugins.journal.reader import JournalReader
from ally_plugins.runtime.lanes.ring import Ring
from tests.kit.hosts import make_plugin, new_host
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def start(number: int = 0) -> ToolCallStart:
    return ToolCallStart(tool_name="bash", arguments={"n": number})


async def note(self: Any, event: Event) -> None:
    self.seen.append(event.seq)


async def note_lost(self: Any, event: EventsDropped) -> None:
    self.seen.append(event)


def received(seen: Iterable[Any]) -> list[int]:
    return [each for each in seen if isinstance(each, int)]


def lost(seen: Iterable[Any]) -> list[int]:
    found: list[int] = []
    for each in seen:
        if isinstance(each, EventsDropped):
            numbers = [n for first, last in each.ranges for n in range(first, last + 1)]
            assert each.count == len(numbers)
            found += numbers
    return found


def test_who_falls_behind_is_told_exactly_what_it_lost_and_others_lose_nothing() -> None:
    async def main() -> None:
        release, stuck = asyncio.Event(), asyncio.Event()

        async def slow(self: Any, event: Event) -> None:
            self.seen.append(event.seq)
            stuck.set()
            await release.wait()

        given = {
            "slow": make_plugin(ally_tool_call_start=slow, ally_events_dropped=note_lost),
            "fast": make_plugin(ally_tool_call_start=note, ally_events_dropped=note_lost),
        }
        async with new_host(given) as host:
            session = host.session()
            session.ring.capacity = 16
            session.emit(start())
            await stuck.wait()
            fast, slow_one = host.plugins["fast"].instance, host.plugins["slow"].instance
            for number in range(200):
                session.emit(start(number))
                while len(fast.seen) < number + 2:  # noqa: ASYNC110 - the loop is to turn
                    await asyncio.sleep(0)
            release.set()
            await session.drained()
            assert fast.seen == list(range(2, 203))
            assert sorted(received(slow_one.seen) + lost(slow_one.seen)) == list(range(2, 203))
            assert received(slow_one.seen) == sorted(received(slow_one.seen))
            assert len(lost(slow_one.seen)) > 150
            lane = host.plugins["slow"].lane
            assert lane is not None
            assert lane.dropped == len(lost(slow_one.seen))
            notice = next(each for each in slow_one.seen if isinstance(each, EventsDropped))
            assert notice.session_id == session.id
            assert abs(notice.timestamp - time.time() * 1000) < 60_000

    go(main())


def test_a_plugin_that_loses_events_while_it_is_told_of_a_loss_is_told_of_that_too() -> None:
    async def main() -> None:
        host = new_host({})
        sessions: list[Any] = []

        async def lose_more(self: Any, event: EventsDropped) -> None:
            self.seen.append(event)
            if len(sessions) < 3:
                sessions.append(None)
                for number in range(100):
                    sessions[0].emit(start(number))

        host = new_host({"p": make_plugin(ally_tool_call_start=note, ally_events_dropped=lose_more)})
        async with host:
            sessions.append(host.session())
            sessions[0].ring.capacity = 8
            for number in range(100):
                sessions[0].emit(start(number))
            await sessions[0].drained()
            await sessions[0].drained()
            seen = host.plugins["p"].instance.seen
            everything = sorted(received(seen) + lost(seen))
            assert everything == sorted(set(everything))  # nothing twice, nothing both lost and received
            assert everything[-1] == sessions[0].ring.head
            assert set(range(2, sessions[0].ring.head + 1)) <= set(everything)

    go(main())


@pytest.fixture
def nervous_threads() -> Iterator[None]:
    """Let threads take turns a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("nervous_threads")
def test_threads_that_emit_while_events_are_lost_confuse_nobody() -> None:
    each, threads = 3000, 4

    async def main() -> None:
        hooks = {"ally_tool_call_start": note, "ally_events_dropped": note_lost}
        async with new_host({"p": make_plugin(**hooks), "q": make_plugin(**hooks)}) as host:
            session = host.session()
            session.ring.capacity = 64

            def emit() -> None:
                for number in range(each):
                    session.emit(start(number))

            await asyncio.gather(*(asyncio.to_thread(emit) for _ in range(threads)))
            await session.drained()
            for known in host.plugins.values():
                seen = known.instance.seen
                assert received(seen) == sorted(received(seen))
                numbers = sorted(received(seen) + lost(seen))
                assert [n for n in numbers if n > 1] == list(range(2, each * threads + 2))

    go(main())


@pytest.mark.usefixtures("nervous_threads")
def test_nothing_that_threads_emit_is_missing_from_the_journal(tmp_path: Path) -> None:
    async def main() -> None:
        async with new_host({"p": make_plugin(ally_tool_call_start=note)}, home=tmp_path) as host:
            session = host.session("s")

            def emit() -> None:
                for number in range(500):
                    session.emit(start(number))

            await asyncio.gather(*(asyncio.to_thread(emit) for _ in range(4)))
            await session.drained()
            assert host.plugins["p"].instance.seen == list(range(2, 2002))

    go(main())
    with JournalReader(tmp_path / "journal.db") as journal:
        assert [event.seq for event in journal.events("s")][:2001] == list(range(1, 2002))


def test_emit_never_waits_for_a_stuck_plugin() -> None:
    begun, release = threading.Event(), threading.Event()
    left: list[Event] = []

    def wait(_: Any, event: Event) -> None:
        begun.set()
        release.wait(20)
        left.append(event)

    async def main() -> None:
        async with new_host({"stuck": make_plugin(ally_tool_call_start=wait)}) as host:
            session = host.session()
            session.emit(start())
            while not begun.is_set():  # noqa: ASYNC110 - the loop is to turn
                await asyncio.sleep(0)
            for number in range(20_000):
                session.emit(start(number))
            assert left == []  # it is stuck still, in the first of them
            release.set()

    try:
        go(main())
    finally:
        release.set()


def test_a_ring_never_gives_what_is_before_its_base_or_after_what_is_wanted() -> None:
    ring = Ring(8)
    for number in range(1, 101):
        ring.head = number
        ring.items.append(start(number))
        if len(ring.items) > ring.capacity:
            ring.trim()
    assert ring.read(0, 10) is None
    assert ring.read(ring.base - 1, 10) is None
    run = ring.read(ring.base, 512, until=ring.base - 5)
    assert run is not None
    assert run.events == []
    run = ring.read(ring.base, 512)
    assert run is not None
    assert [getattr(event, "arguments", {})["n"] for event in run.events] == list(range(ring.base + 1, 101))


OPERATIONS = st.lists(
    st.sampled_from(["emit", "emit many", "emit other", "gate", "transform", "yield", "drain", "stall"]), max_size=40
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OPERATIONS, st.booleans(), st.sampled_from([8, 64, 8192]))
def test_whatever_happens_in_whatever_order_hooks_are_in_order_and_alone(  # noqa: C901, PLR0915 - one scene
    operations: list[str],
    is_mixed: bool,  # noqa: FBT001 - Hypothesis gives it
    capacity: int,
) -> None:
    async def main() -> None:  # noqa: C901, PLR0915
        active, stall = [0], asyncio.Event()
        stall.set()

        async def hook(self: Any, event: Event) -> None:
            active[0] += 1
            assert active[0] == 1
            await asyncio.sleep(0)
            await stall.wait()
            self.seen.append((event.session_id, event.seq))
            active[0] -= 1

        def in_thread(self: Any, event: Event) -> None:
            active[0] += 1
            assert active[0] == 1
            self.seen.append((event.session_id, event.seq))
            active[0] -= 1

        async def answer(self: Any, call: ToolCall) -> None:
            active[0] += 1
            assert active[0] == 1
            self.seen.append(("asked", call.call_id, int(call.agent_id or 0)))
            await asyncio.sleep(0)
            active[0] -= 1

        second = in_thread if is_mixed else hook
        hooks: dict[str, Any] = {"ally_tool_call_start": hook, "ally_thought_complete": second}
        hooks["ally_events_dropped"] = note_lost
        hooks |= {"ally_gate_tool_call": answer, "ally_transform_tool_input": answer}
        async with new_host({"p": make_plugin(**hooks)}) as host:
            sessions = [host.session("a"), host.session("b")]
            for session in sessions:
                session.ring.capacity = capacity
            asked: list[Any] = []
            for number, operation in enumerate(operations):
                session = sessions[number % 2]
                about = ToolCall("bash", {}, session.id, str(session.ring.head))
                if operation == "emit":
                    session.emit(start(number))
                elif operation == "emit many":
                    for _ in range(30):
                        session.emit(start(number))
                elif operation == "emit other":
                    session.emit(ThoughtComplete(thinking="hm"))
                elif operation == "gate":
                    asked.append(asyncio.ensure_future(session.gate_tool_call(about)))
                elif operation == "transform":
                    asked.append(asyncio.ensure_future(session.transform_tool_input(about)))
                elif operation == "yield":
                    await asyncio.sleep(0)
                elif operation == "stall":
                    stall.clear()
                    asyncio.get_running_loop().call_later(0.001, stall.set)
                else:
                    stall.set()
                    await session.drained()
            stall.set()
            await asyncio.gather(*asked)
            for session in sessions:
                await session.drained()
            known = host.plugins["p"]
            assert known.counts.crashes == 0
            _check_order(known.instance.seen, sessions)

    go(main())


def _check_order(seen: list[Any], sessions: list[Any]) -> None:
    """Events grow in number, lost ones included; who is asked has had all observed events from before the question."""
    for session in sessions:
        newest, passed, asked = 0, set(), []
        for each in seen:
            if isinstance(each, EventsDropped):
                if each.session_id == session.id:
                    assert each.ranges[0][0] > newest
                    newest = each.ranges[-1][1]
                    passed |= set(lost([each]))
            elif each[:2] == ("asked", session.id):
                asked.append((each[2], frozenset(passed)))
            elif each[0] == session.id:
                assert each[1] > newest
                newest = each[1]
                passed.add(newest)
        for head, before in asked:
            assert {number for number in passed if number <= head} <= before


@pytest.mark.parametrize("count", [1, 511, 512, 513, 1500])
def test_runs_of_any_length_arrive_whole(count: int) -> None:
    async def main() -> None:
        hooks = {"ally_tool_call_start": note}
        async with new_host({"p": make_plugin(**hooks)}) as host:
            session = host.session()
            for number in range(count):
                session.emit(start(number))
            await session.drained()
            assert host.plugins["p"].instance.seen == list(range(2, count + 2))

    go(main())


def test_a_burst_that_the_ring_cannot_hold_is_in_the_journal_all_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        async with new_host({"p": make_plugin(ally_tool_call_start=note)}, home=tmp_path) as host:
            session = host.session("s")
            session.ring.capacity = 32
            for number in range(1000):
                session.emit(start(number))
            await session.drained()

    go(main())
    with JournalReader(tmp_path / "journal.db") as journal:
        assert [event.seq for event in journal.events("s")][:1001] == list(range(1, 1002))
