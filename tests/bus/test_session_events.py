"""Events of a session: who may emit, thresholds of the context's usage, the end of a session, threads."""

# ruff: noqa: ARG001 - hooks and fixtures name what they are given, used or not

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import (
    AgentEnd,
    AgentStart,
    CompactionComplete,
    ContextUsageUpdate,
    Event,
    HostError,
    SessionEnd,
    TodoUpdate,
    ToolCallEnd,
    ToolCallStart,
)
from ally_plugins.contract.manifest import Manifest
from ally_plugins.host.sessions.memory import Conversation
from ally_plugins.policy.thresholds import Thresholds
from ally_plugins.runtime.lanes.lane import Lane
from ally_plugins.runtime.lanes.observers import Observers
from tests.kit.hosts import make_plugin, make_record, new_host
from tests.kit.waiting import go, until

if TYPE_CHECKING:
    from collections.abc import Iterator


def passed(usages: list[float]) -> list[tuple[float, list[float]]]:
    thresholds = Thresholds()
    return [(usage, found) for usage in usages if (found := thresholds.update(usage))]


def test_each_threshold_is_told_once_on_the_way_up() -> None:
    assert passed([10, 49.9, 50, 51, 74, 75, 89.9, 90, 99, 100, 120]) == [(50, [50.0]), (75, [75.0]), (90, [90.0])]


def test_a_jump_passes_all_that_lie_between_lowest_first() -> None:
    assert passed([95]) == [(95, [50.0, 75.0, 90.0])]


def test_usage_that_wavers_around_a_threshold_is_told_once() -> None:
    assert passed([51, 49, 51, 46, 50, 45.1, 50]) == [(51, [50.0])]


def test_usage_that_fell_well_below_a_threshold_may_pass_it_again() -> None:
    assert passed([51, 45, 50]) == [(51, [50.0]), (50, [50.0])]


def test_a_compaction_forgets_what_it_brought_usage_below_however_little() -> None:
    thresholds = Thresholds()
    assert thresholds.update(91) == [50.0, 75.0, 90.0]
    thresholds.compacted(74)
    assert thresholds.update(74) == []
    assert thresholds.update(92) == [75.0, 90.0]
    thresholds.compacted(None)
    assert thresholds.update(51) == [50.0]


def test_thresholds_come_as_events_after_the_update_that_passed_them() -> None:
    told: list[Any] = []

    async def main() -> None:
        async with new_host() as host:
            session = host.session("s")
            host.stream.subscribe("*", told.append)
            for usage in (40, 80, 81):
                session.emit(ContextUsageUpdate(context_usage=usage))
            session.emit(CompactionComplete(old_context_usage=81, new_context_usage=30))
            session.emit(ContextUsageUpdate(context_usage=55))

    go(main())
    seen = [getattr(event, "threshold", None) or event.type for event in told if event.type != "SESSION_END"]
    assert seen == [
        "CONTEXT_USAGE_UPDATE", "CONTEXT_USAGE_UPDATE", 50.0, 75.0, "CONTEXT_USAGE_UPDATE", "COMPACTION_COMPLETE",
        "CONTEXT_USAGE_UPDATE", 50.0,
    ]  # fmt: skip
    assert [event.seq for event in told] == list(range(2, 2 + len(told)))


def test_a_level_of_a_plugins_own_comes_to_that_plugin_alone_once_and_again_after_a_compaction() -> None:
    async def main() -> None:
        seen: dict[str, list[float]] = {}

        def listener(name: str) -> type[Any]:
            found: list[float] = []
            seen[name] = found

            async def note(self: Any, event: Any) -> None:
                found.append(event.threshold)

            return make_plugin(ally_context_threshold=note)

        own = Manifest(thresholds=(60.0, 85.0))
        plugins = {
            "own": (listener("own"), make_record("own", own, grants=["events:CONTEXT_THRESHOLD"])),
            "not": (listener("not"), make_record("not", own, grants=["events:TOOL_CALL_END"])),
            "other": (listener("other"), make_record("other", grants=["events:*"])),
        }
        async with new_host(plugins=plugins) as host:
            session = host.session("s")
            told: list[Any] = []
            host.stream.subscribe("CONTEXT_THRESHOLD", told.append)
            for usage in (40, 61, 62, 88):
                session.emit(ContextUsageUpdate(context_usage=usage))
            session.emit(CompactionComplete(old_context_usage=88, new_context_usage=30))
            session.emit(ContextUsageUpdate(context_usage=61))
            await session.drained()
            assert [(each.threshold, each.plugin_name) for each in told] == [
                (50.0, None), (60.0, "own"), (75.0, None), (85.0, "own"), (50.0, None), (60.0, "own"),
            ]  # fmt: skip
        assert seen == {"own": [50.0, 60.0, 75.0, 85.0, 50.0, 60.0], "not": [], "other": [50.0, 75.0, 50.0]}

    go(main())


def test_the_context_says_whom_each_sub_agent_works_for() -> None:
    async def main() -> None:
        async with new_host() as host:
            session = host.session("s")
            session.emit(AgentStart(agent_name="main", instance_id="a"))
            session.emit(ToolCallStart(tool_name="delegate", call_id="c1"))
            session.emit(AgentStart(agent_name="sub", agent_id="b", parent_id="c1"))
            session.emit(ToolCallStart(tool_name="delegate", call_id="c2", agent_id="b"))
            session.emit(AgentStart(agent_name="sub", agent_id="c", parent_id="c2"))
            session.emit(AgentStart(agent_name="stray", agent_id="d", parent_id="c9"))
            session.emit(ToolCallEnd(tool_name="delegate", call_id="c1"))
            session.emit(AgentStart(agent_name="late", agent_id="e", parent_id="c1"))
            agents = session.conversation.agents
            assert {each.agent_id: each.path for each in agents} == {
                "a": (), "b": ("a",), "c": ("a", "b"), "d": (), "e": (),
            }  # fmt: skip

    go(main())


def test_how_full_a_sub_agents_window_is_says_nothing_of_the_session() -> None:
    told: list[Any] = []

    async def main() -> None:
        async with new_host() as host:
            session = host.session("s")
            host.stream.subscribe("CONTEXT_THRESHOLD", told.append)
            session.emit(ContextUsageUpdate(context_usage=20))
            session.emit(ContextUsageUpdate(context_usage=95, parent_call_id="c1"))
            assert session.conversation.token_usage == 20
            assert told == []
            session.emit(ContextUsageUpdate(context_usage=60))
            assert [event.threshold for event in told] == [50.0]

    go(main())


def test_many_threads_may_emit_at_once_and_every_event_has_a_number_of_its_own() -> None:
    heard: list[int] = []
    errors: list[BaseException] = []

    async def ally_event(self: Any, event: Any) -> None:
        heard.append(event.seq)

    async def main() -> None:
        async with new_host(plugins={"p": make_plugin(ally_event=ally_event)}) as host:
            session = host.session("s")

            def emit() -> None:
                try:
                    for i in range(300):
                        session.emit(ContextUsageUpdate(context_usage=float(i % 100)))
                        session.emit(TodoUpdate(todos=[{"id": str(i), "task": "x", "status": "pending"}]))
                except BaseException as error:
                    errors.append(error)
                    raise

            threads = [threading.Thread(target=emit) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                await asyncio.to_thread(thread.join)
            await session.drained()
            await host.journal.flush()
            assert host.journal.last_seq("s") == session.ring.head

    go(main())
    assert errors == []
    assert heard[:-1] == list(range(1, len(heard)))  # SESSION_END is the last
    assert len(heard) >= 8 * 600


@pytest.fixture
def nervous_threads() -> Iterator[None]:
    """Let threads take turns a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("nervous_threads")
def test_agents_may_begin_and_end_in_many_threads_at_once() -> None:
    async def main() -> None:
        async with new_host() as host:
            session = host.session("s")
            session.emit(ToolCallStart(tool_name="task", arguments={}, call_id="c"))
            # So many that one whose parent is looked for among them takes longer than a thread's turn.
            for i in range(1000):
                session.emit(AgentStart(agent_name="x", agent_id=f"first-{i}", parent_id="c", task_prompt=""))

            def emit(name: str, parent_id: str | None) -> None:
                for _ in range(2000):
                    session.emit(AgentStart(agent_name="x", agent_id=name, parent_id=parent_id, task_prompt=""))
                    session.emit(AgentEnd(agent_name="x", agent_id=name))

            parents = {"of the call": "c", "one": None, "another": None, "a third": None}
            await asyncio.gather(*(asyncio.to_thread(emit, *each) for each in parents.items()))
            assert len(session.conversation.agents) == 1000

    go(main())


def test_an_event_that_no_state_can_be_made_of_is_heard_by_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Any] = []
    listened: list[Any] = []

    async def hear(self: Any, event: TodoUpdate) -> None:
        heard.append(event.todos[0]["id"])

    def listen(event: Any) -> None:
        listened.append(event.todos[0]["id"])

    async def main() -> None:
        async with new_host({"p": make_plugin(ally_todo_update=hear)}) as host:
            session = host.session("s")
            host.stream.subscribe("TODO_UPDATE", listen)
            session.emit(TodoUpdate(todos=[{"id": "1", "task": 10**5000}]))  # Python makes no text of it
            session.emit(TodoUpdate(todos=[{"id": "2", "task": "b"}]))
            await session.drained()
            assert [todo.id for todo in session.conversation.todos] == ["2"]

    go(main())
    assert heard == listened == ["1", "2"]
    assert "session 's': its state does not follow TODO_UPDATE" in caplog.text


def test_of_two_threads_the_later_event_says_what_the_todos_are(monkeypatch: pytest.MonkeyPatch) -> None:
    overtaken = threading.Event()
    follow = Conversation.follow
    session: Any = None

    def slow(self: Conversation, event: Event) -> None:
        if isinstance(event, TodoUpdate) and event.todos[0]["id"] == "1":
            other.start()
            overtaken.wait(0.2)  # the other thread cannot get ahead; where it could, it would be done at once
        follow(self, event)

    def emit_another() -> None:
        session.emit(TodoUpdate(todos=[{"id": "2"}]))
        overtaken.set()

    async def main() -> None:
        nonlocal session
        async with new_host() as host:
            session = host.session("s")
            monkeypatch.setattr(Conversation, "follow", slow)
            await asyncio.to_thread(session.emit, TodoUpdate(todos=[{"id": "1"}]))
            await asyncio.to_thread(other.join)
            last = session.ring.items[-1]
            assert [todo.id for todo in session.conversation.todos] == [last.todos[0]["id"]] == ["2"]

    other = threading.Thread(target=emit_another)
    go(main())


def test_a_session_s_end_is_told_once_whoever_ends_it() -> None:
    heard: list[Any] = []

    async def ally_session_end(self: Any, event: Any) -> None:
        heard.append((event.session_id, event.reason))

    async def main() -> None:
        async with new_host(plugins={"p": make_plugin(ally_session_end=ally_session_end)}) as host:
            closed, ended = host.session("closed"), host.session("ended")
            host.session("left")
            await closed.close()
            ended.emit(SessionEnd(reason="exit"))
            await ended.close()

    go(main())
    assert heard == [("closed", "closed"), ("ended", "exit"), ("left", "the host stops")]


def test_what_was_emitted_before_the_host_stops_is_heard() -> None:
    heard: list[str] = []

    async def ally_tool_call_start(self: Any, event: Any) -> None:
        heard.append(event.tool_name)

    async def ally_stop(self: Any) -> None:
        heard.append("stop")

    async def main() -> None:
        plugin = make_plugin(ally_tool_call_start=ally_tool_call_start, ally_stop=ally_stop)
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            for i in range(3):
                session.emit(ToolCallStart(tool_name=f"t{i}"))

    go(main())
    assert heard == ["t0", "t1", "t2", "stop"]


@pytest.mark.parametrize("session_id", ["", 5, "line\n", b"x"])
def test_a_session_s_id_is_a_line_of_text(session_id: Any) -> None:
    async def main() -> None:
        async with new_host() as host:
            with pytest.raises(HostError, match="expected a line of text"):
                host.session(session_id)

    go(main())


def test_a_session_without_an_id_is_a_new_one() -> None:
    async def main() -> None:
        async with new_host() as host:
            assert host.session().id != host.session().id
            assert len(host.sessions) == 2

    go(main())


def test_the_root_stream_passes_a_host_s_event_to_the_only_session() -> None:
    async def main() -> None:
        async with new_host() as host:
            session = host.session("s")
            host.stream.emit(ToolCallStart(tool_name="bash"))
            assert session.ring.items[-1].type == "TOOL_CALL_START"
            session.scoped("parent").emit(ToolCallStart(tool_name="bash"))
            assert session.ring.items[-1].parent_id == "parent"

    go(main())


def test_a_lane_that_opens_while_the_journal_alone_waits_for_events_receives_those_that_follow() -> None:
    heard: list[int] = []

    async def receive(event: Event) -> None:
        heard.append(event.seq)

    async def main() -> None:
        async with new_host() as host:
            session, fan_out = host.session("s"), host.services.fan_out
            assert fan_out is not None
            lanes: list[Lane] = []
            fan_out._lanes = lambda: lanes
            session.emit(ToolCallStart(tool_name="bash"))
            await asyncio.sleep(0)  # from here on the journal's timer runs, and nobody is woken
            session.emit(ToolCallStart(tool_name="bash"))
            observers = Observers(single={ToolCallStart: receive}, types=frozenset({ToolCallStart}))
            lane = Lane("p", observers, on_crash=lambda _: None, deadline=lambda _: 30.0)
            before = session.ring.head
            lane.attach("s", session.ring)
            lane.start()
            lanes.append(lane)
            session.emit(ToolCallStart(tool_name="bash"))
            await until(lambda: heard)
            assert heard == [before + 1]
            await lane.close()

    go(main())
