"""`host.stream`: listeners hear each event of each session once, stamped, whoever emitted it."""

from __future__ import annotations

from typing import Any

import pytest

from ally_plugins import AgentStart, Event, ThoughtComplete, ToolCallStart
from ally_plugins.contract.values.errors import SessionError
from tests.kit.hosts import make_plugin, new_host
from tests.kit.waiting import go


def start() -> ToolCallStart:
    return ToolCallStart(tool_name="bash", call_id="c1")


async def note(self: Any, event: Event) -> None:
    self.seen.append((event.id, event.parent_id))


def test_listeners_hear_what_a_session_emits_once_and_stamped() -> None:
    async def main() -> None:
        async with new_host({"p": make_plugin(ally_tool_call_start=note)}) as host:
            by_type: list[Any] = []
            every: list[Any] = []
            host.stream.subscribe("TOOL_CALL_START", lambda event: by_type.append((event.id, event.timestamp > 0)))
            stop = host.stream.subscribe("*", lambda event: every.append(event.id))
            one, two = host.session("one"), host.session("two")
            one.emit(start())
            two.emit(start())
            stop()
            one.emit(ThoughtComplete(thinking="hm"))
            await one.drained()
            assert by_type == [("one:2", True), ("two:2", True)]
            assert every == ["one:1", "two:1", "one:2", "two:2"]

    go(main())


def test_what_the_host_author_emits_on_the_stream_goes_through_the_only_session_once() -> None:
    async def main() -> None:
        async with new_host({"p": make_plugin(ally_tool_call_start=note)}) as host:
            heard: list[Any] = []
            host.stream.subscribe("TOOL_CALL_START", lambda event: heard.append((event.id, event.session_id)))
            session = host.session("one")
            host.stream.emit(start())
            await session.drained()
            assert heard == [("one:2", "one")]
            assert host.plugins["p"].instance.seen == [("one:2", None)]

    go(main())


@pytest.mark.parametrize("count", [0, 2])
def test_an_event_on_the_stream_that_belongs_to_no_clear_session_is_an_error(count: int) -> None:
    async def main() -> None:
        async with new_host() as host:
            heard: list[Any] = []
            for number in range(count):
                host.session(f"s{number}")
            host.stream.subscribe("*", heard.append)
            with pytest.raises(SessionError, match=r"session\.emit\(event\)"):
                host.stream.emit(start())
            assert heard == []

    go(main())


def test_an_event_that_was_emitted_before_is_emitted_again_as_another() -> None:
    async def main() -> None:
        async with new_host({"p": make_plugin(ally_tool_call_start=note)}) as host:
            session, event = host.session("one"), start()
            session.emit(event)
            session.emit(event)
            host.stream.emit(event)
            await session.drained()
            assert event.id == "one:2"
            assert [name for name, _ in host.plugins["p"].instance.seen] == ["one:2", "one:3", "one:4"]

    go(main())


def test_a_scope_of_a_session_stamps_the_parent_and_its_listeners_hear_the_events_place() -> None:
    async def main() -> None:
        async with new_host({"p": make_plugin(ally_tool_call_start=note)}) as host:
            session, other = host.session("one"), host.session("two")
            scoped = session.scoped("c7")
            in_scope: list[Any] = []
            at_root: list[Any] = []
            scoped.subscribe("*", lambda event: in_scope.append((event.id, event.parent_id)))
            host.stream.subscribe("TOOL_CALL_START", lambda event: at_root.append((event.id, event.parent_id)))
            scoped.emit(start())
            scoped.create_scoped("inner").emit(start())
            other.emit(start())
            await session.drained()
            await other.drained()
            assert in_scope == [("one:2", "c7"), ("one:3", "inner")]
            assert at_root == [("one:2", "c7"), ("one:3", "inner"), ("two:2", None)]
            assert host.plugins["p"].instance.seen == at_root

    go(main())


def test_a_scope_of_the_hosts_stream_ends_in_the_only_session() -> None:
    async def main() -> None:
        async with new_host({"p": make_plugin(ally_agent_start=note)}) as host:
            session = host.session("one")
            scoped = host.stream.create_scoped("c7")
            heard: list[Any] = []
            scoped.subscribe("AGENT_START", lambda event: heard.append(event.id))
            scoped.emit(AgentStart(agent_name="helper"))
            await session.drained()
            assert heard == ["one:2"]
            assert host.plugins["p"].instance.seen == [("one:2", "c7")]

    go(main())


def test_a_scope_of_a_session_that_is_closed_says_so() -> None:
    async def main() -> None:
        async with new_host() as host:
            session = host.session("one")
            scoped = session.scoped("c7")
            await session.close()
            with pytest.raises(SessionError, match="'one' is closed"):
                scoped.emit(start())

    go(main())


def test_a_listener_that_fails_keeps_the_event_from_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Event) -> None:
        raise ValueError(f"cannot take {event.type}")

    async def main() -> None:
        async with new_host({"p": make_plugin(ally_tool_call_start=note)}) as host:
            heard: list[Event] = []
            host.stream.subscribe("TOOL_CALL_START", fail)
            host.stream.subscribe("*", fail)
            session = host.session("one")
            host.stream.subscribe("*", heard.append)
            session.emit(start())
            await session.drained()
            assert [event.type for event in heard] == ["TOOL_CALL_START"]
            assert len(host.plugins["p"].instance.seen) == 1

    go(main())
    assert "cannot take TOOL_CALL_START" in caplog.text


def test_a_listener_may_emit_in_its_turn() -> None:
    async def main() -> None:
        async with new_host({"p": make_plugin(ally_tool_call_start=note, ally_thought_complete=note)}) as host:
            session = host.session("one")
            host.stream.subscribe("TOOL_CALL_START", lambda _: session.emit(ThoughtComplete(thinking="hm")))
            session.emit(start())
            await session.drained()
            assert [name for name, _ in host.plugins["p"].instance.seen] == ["one:2", "one:3"]

    go(main())
