"""The host's own listeners: nobody stops anybody, and scopes stamp their parent."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.events import AgentStart, Event, PluginEvent, ToolCallEnd, ToolCallStart
from ally_plugins.host.sessions.stream import ActivityStream

if TYPE_CHECKING:
    from collections.abc import Callable

START = ToolCallStart(tool_name="bash", call_id="c1")
END = ToolCallEnd(tool_name="bash", call_id="c1")


def exit_now(_: Event) -> NoReturn:
    sys.exit(3)


def fail(_: Event) -> NoReturn:
    raise ValueError("broken listener")


def interrupt(_: Event) -> NoReturn:
    raise KeyboardInterrupt


def test_listeners_of_the_type_are_called_before_those_of_all_types_each_in_order() -> None:
    stream, calls = ActivityStream(), list[str]()
    stream.subscribe("*", lambda _: calls.append("any"))
    stream.subscribe("TOOL_CALL_START", lambda _: calls.append("first"))
    stream.subscribe("TOOL_CALL_START", lambda _: calls.append("second"))
    stream.subscribe("TOOL_CALL_END", lambda _: calls.append("other"))
    stream.emit(START)
    assert calls == ["first", "second", "any"]


@pytest.mark.parametrize("broken", [fail, exit_now])
def test_a_listener_that_raises_is_logged_and_stops_neither_the_others_nor_the_plugins(
    broken: Callable[[Event], object], caplog: pytest.LogCaptureFixture
) -> None:
    forwarded, heard = list[Event](), list[Event]()
    stream = ActivityStream(forwarded.append)
    stream.subscribe("TOOL_CALL_START", broken)
    stream.subscribe("*", heard.append)
    stream.emit(START)
    assert heard == forwarded == [START]
    assert [(record.name, record.levelname) for record in caplog.records] == [(ActivityStream.__module__, "ERROR")]
    assert "TOOL_CALL_START" in caplog.text
    assert broken.__name__ in caplog.text


def test_a_forward_that_raises_is_logged_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    ActivityStream(fail).emit(START)
    assert "broken listener" in caplog.text


def test_a_person_who_interrupts_is_heard() -> None:
    stream = ActivityStream()
    stream.subscribe("*", interrupt)
    with pytest.raises(KeyboardInterrupt):
        stream.emit(START)


def test_unsubscribing_ends_it_and_may_be_done_twice() -> None:
    stream, heard = ActivityStream(), list[Event]()
    unsubscribe = stream.subscribe("*", heard.append)
    stream.subscribe("*", heard.append)
    unsubscribe()
    unsubscribe()
    stream.emit(START)
    assert heard == [START]


def test_the_same_listener_subscribed_twice_is_called_twice() -> None:
    stream, heard = ActivityStream(), list[Event]()
    for event_type in ("TOOL_CALL_START", "*", "*"):
        stream.subscribe(event_type, heard.append)
    stream.emit(START)
    assert len(heard) == 3


def test_a_listener_may_unsubscribe_itself_and_others_while_it_is_called() -> None:
    stream, calls = ActivityStream(), list[str]()

    def once(_: Event) -> None:
        calls.append("once")
        end_once()
        end_other()

    end_once = stream.subscribe("*", once)
    end_other = stream.subscribe("*", lambda _: calls.append("other"))
    stream.emit(START)
    stream.emit(START)
    assert calls == ["once", "other"]


def test_a_listener_subscribed_during_an_emit_hears_from_the_next_event_on() -> None:
    stream, late = ActivityStream(), list[Event]()
    end = stream.subscribe("*", lambda _: (stream.subscribe("*", late.append), end()))
    stream.emit(START)
    assert late == []
    stream.emit(END)
    assert late == [END]


def test_a_listener_may_emit() -> None:
    stream, heard = ActivityStream(), list[str]()
    stream.subscribe("TOOL_CALL_START", lambda _: stream.emit(END))
    stream.subscribe("*", lambda event: heard.append(event.type))
    stream.emit(START)
    assert heard == ["TOOL_CALL_END", "TOOL_CALL_START"]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("TOOL_CAL_END", "TOOL_CALL_END"), ("tool_call_end", "TOOL_CALL_END"), ("AGENTSTART", "AGENT_START")],
)
def test_a_type_that_does_not_exist_is_an_error_that_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(EventError, match=f"no event type '{name}'; did you mean '{nearest}'"):
        ActivityStream().subscribe(name, print)


@pytest.mark.parametrize("name", ["", "zzz", None, 3, ":x", "a:"])
def test_what_resembles_no_type_is_an_error_that_lists_them(name: Any) -> None:
    with pytest.raises(EventError, match="there are TOOL_CALL_START, "):
        ActivityStream().subscribe(name, print)


def test_a_listener_that_nobody_would_await_is_an_error() -> None:
    async def listener(_: Event) -> None: ...

    with pytest.raises(EventError, match="coroutine function"):
        ActivityStream().subscribe("*", listener)


def test_events_of_plugins_are_heard_under_their_own_type() -> None:
    stream, heard = ActivityStream(), list[Event]()
    stream.subscribe("loop-guard:loop_found", heard.append)
    event = PluginEvent(event_type="loop-guard:loop_found", data={"times": 3})
    stream.emit(event)
    assert heard == [event]


def test_a_scope_stamps_its_parent_and_everything_comes_through_the_root_once() -> None:
    forwarded, at_root, in_scope = list[Event](), list[Event](), list[Event]()
    root = ActivityStream(forwarded.append)
    root.subscribe("*", at_root.append)
    scoped = root.create_scoped("call-7")
    scoped.subscribe("*", in_scope.append)
    scoped.emit(START)
    assert [event.parent_id for event in forwarded] == ["call-7"]
    assert forwarded == at_root == in_scope
    assert START.parent_id is None


def test_a_scope_does_not_hear_what_the_root_emits() -> None:
    root, heard = ActivityStream(), list[Event]()
    root.create_scoped("x").subscribe("*", heard.append)
    root.emit(START)
    assert heard == []


def test_the_nearest_scope_names_the_parent_and_a_parent_that_is_given_stays() -> None:
    forwarded = list[Event]()
    inner = ActivityStream(forwarded.append).create_scoped("outer").create_scoped("inner")
    inner.emit(START)
    inner.emit(AgentStart(agent_name="a", parent_id="own"))
    assert [event.parent_id for event in forwarded] == ["inner", "own"]


def test_a_listener_that_fails_in_a_scope_does_not_keep_the_event_from_the_plugins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    forwarded = list[Event]()
    scoped = ActivityStream(forwarded.append).create_scoped("x")
    scoped.subscribe("*", fail)
    scoped.emit(START)
    assert len(forwarded) == 1
    assert "broken listener" in caplog.text


def test_subscribers_in_many_threads_never_lose_one_another() -> None:
    stream, heard, gate = ActivityStream(), list[Event](), threading.Barrier(8)

    def subscribe_and_leave() -> None:
        gate.wait()
        for _ in range(100):
            stream.subscribe("*", heard.append)
            stream.subscribe("*", heard.append)()

    threads = [threading.Thread(target=subscribe_and_leave) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stream.emit(START)
    assert len(heard) == 800
