"""What a burst of events wakes, and when the journal is given it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from ally_plugins import Event, ThoughtComplete, ToolCall, ToolCallStart, UserMessage
from ally_plugins.contract.values.verdicts import Allow
from ally_plugins.host.sessions.fanout import WRITE_AFTER, WRITE_AT
from ally_plugins.journal.values import Record
from tests.kit.hosts import make_plugin, new_host
from tests.kit.waiting import go


async def note(self: Any, event: Event) -> None:
    self.seen.append(event.seq)


async def allow(self: Any, call: ToolCall) -> Allow:  # noqa: ARG001 - a gate
    return Allow()


def thoughts(session: Any, count: int) -> None:
    for number in range(count):
        session.emit(ThoughtComplete(thinking=f"{number}"))


def test_a_lane_sleeps_on_while_nothing_is_emitted_that_its_plugin_hears() -> None:
    async def main() -> None:
        async with new_host({"p": make_plugin(ally_user_message=note)}) as host:
            session, lane = host.session("s"), host.plugins["p"].lane
            assert lane is not None
            await session.drained()
            for _ in range(3):
                thoughts(session, 5)
                await asyncio.sleep(0)
                assert lane.position("s") == session.ring.head
                assert not lane.is_busy
            session.emit(UserMessage(content="hello"))
            await session.drained()
            assert host.plugins["p"].instance.seen == [session.ring.head]

    go(main())


def test_what_a_plugin_does_not_hear_is_never_told_as_lost() -> None:
    async def main() -> None:
        async with new_host({"p": make_plugin(ally_user_message=note, ally_events_dropped=note)}) as host:
            session = host.session("s")
            session.ring.capacity = 16
            for _ in range(100):
                thoughts(session, 10)
                await asyncio.sleep(0)
            session.emit(UserMessage(content="hello"))
            await session.drained()
            assert host.plugins["p"].instance.seen == [session.ring.head]

    go(main())


def test_of_many_sessions_each_event_reaches_its_plugin_in_order() -> None:
    async def main() -> None:
        heard: list[tuple[str, int]] = []

        async def note_session(self: Any, event: Event) -> None:  # noqa: ARG001 - a hook
            heard.append((event.session_id, event.seq))

        async with new_host({"p": make_plugin(ally_thought_complete=note_session)}) as host:
            sessions = [host.session(f"s{number}") for number in range(50)]
            for number in range(10):
                for session in sessions[number::3]:
                    thoughts(session, 2)
                if number % 2:
                    await asyncio.sleep(0)
            for session in sessions:
                await session.drained()
                numbers = [seq for name, seq in heard if name == session.id]
                assert numbers == list(range(2, session.ring.head + 1))

    go(main())


def test_what_was_emitted_before_something_durable_is_on_disk_with_it() -> None:
    async def main() -> None:
        async with new_host({"p": make_plugin(ally_gate_tool_call=allow)}) as host:
            session = host.session("s")
            thoughts(session, 3)
            await host.journal.append(Record("note", 1, None, "s", None, {}))
            assert host.journal.last_seq("s") == session.ring.head
            thoughts(session, 3)
            before = session.ring.head
            assert (await session.gate_tool_call(ToolCall("bash", {}, "c1"))).is_allowed
            assert host.journal.last_seq("s") >= before
            thoughts(session, 3)
            first = host.journal.append(Record("note", 1, None, "s", None, {}))
            thoughts(session, 3)  # of the same burst
            await host.journal.flush()
            assert first.done()
            assert host.journal.last_seq("s") == session.ring.head

    go(main())


def test_a_large_burst_waits_for_nothing_and_a_small_one_for_a_moment() -> None:
    async def main() -> None:
        async with new_host() as host:
            session = host.session("s")
            thoughts(session, 3)
            await asyncio.sleep(0)
            assert session.recording.unwritten == session.ring.head
            while session.recording.unwritten:  # noqa: ASYNC110 - until the timer of the fan-out has struck
                await asyncio.sleep(0.001)
            thoughts(session, WRITE_AT)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert session.recording.unwritten == 0

    go(main())


def test_a_fan_out_that_is_woken_as_its_host_stops_calls_nothing_afterwards() -> None:
    async def main() -> None:
        wrong: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        async with new_host() as host:
            session, fan_out = host.session("s"), host.services.fan_out
            thoughts(session, 3)
        assert fan_out is not None
        fan_out.wake(session)
        await asyncio.sleep(2 * WRITE_AFTER)
        assert wrong == []

    go(main())


def test_events_of_other_threads_come_to_plugins_and_journal() -> None:
    async def main() -> None:
        async with new_host({"p": make_plugin(ally_tool_call_start=note)}) as host:
            session = host.session("s")

            def emit_many() -> None:
                for _ in range(500):
                    session.emit(ToolCallStart(tool_name="t"))

            emitters = [threading.Thread(target=emit_many) for _ in range(4)]
            for emitter in emitters:
                emitter.start()
            while any(emitter.is_alive() for emitter in emitters):  # noqa: ASYNC110 - the loop is to turn
                await asyncio.sleep(0)
            await session.drained()
            await host.journal.flush()
            assert host.plugins["p"].instance.seen == list(range(2, 2002))
            assert host.journal.last_seq("s") == session.ring.head

    go(main())
