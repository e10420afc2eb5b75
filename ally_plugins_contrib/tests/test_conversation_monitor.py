"""conversation-monitor counts each session apart, and warns once when the context fills up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import (
    AgentEnd,
    AgentStart,
    CompactionComplete,
    ContextUsageUpdate,
    PluginActionRequested,
    TodoUpdate,
    ToolCallEnd,
    ToolCallStart,
)
from ally_plugins_contrib.conversation_monitor import ConversationMonitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.testing import BlockingHarness

    Start = Callable[..., BlockingHarness]


def usage(percent: float, **about: Any) -> ContextUsageUpdate:
    return ContextUsageUpdate(context_usage=percent, **about)


def stats(harness: BlockingHarness) -> Any:
    return harness.call_tool("get_conversation_stats").data


def test_a_quiet_session_has_zeros_and_no_rate(ally_harness: Start) -> None:
    found = stats(ally_harness(ConversationMonitor))
    assert found["tool_calls"] == {
        "total": 0, "success": 0, "failed": 0, "denied": 0, "success_rate": None, "by_tool": {},
    }  # fmt: skip
    assert found["context_usage"] is None
    assert found["uptime_s"] == 0


def test_tool_calls_are_counted_by_tool_and_outcome(ally_harness: Start) -> None:
    harness = ally_harness(ConversationMonitor)
    for i, (name, success) in enumerate([("bash", True), ("bash", False), ("read", True), ("read", True)]):
        harness.emit(ToolCallStart(tool_name=name, call_id=f"c{i}"))
        harness.emit(ToolCallEnd(tool_name=name, call_id=f"c{i}", success=success))
    harness.emit(ToolCallStart(tool_name="bash", call_id="no"))
    harness.emit(ToolCallEnd(tool_name="bash", call_id="no", success=False, denied=True))
    harness.emit(ToolCallStart(tool_name="bash", call_id="running"))
    assert stats(harness)["tool_calls"] == {
        "total": 6,
        "success": 3,
        "failed": 1,
        "denied": 1,
        "success_rate": 75.0,
        "by_tool": {
            "bash": {"total": 4, "success": 1, "failed": 1, "denied": 1},
            "read": {"total": 2, "success": 2, "failed": 0, "denied": 0},
        },
    }


def test_the_announcement_of_a_group_is_no_call(ally_harness: Start) -> None:
    harness = ally_harness(ConversationMonitor)
    harness.emit(ToolCallStart(tool_name="group", call_id="g", group_execution=True, tool_count=1))
    harness.emit(ToolCallStart(tool_name="read", call_id="c1"), ToolCallEnd(tool_name="read", call_id="c1"))
    harness.emit(ToolCallEnd(tool_name="group", call_id="g"))
    assert stats(harness)["tool_calls"]["by_tool"] == {"read": {"total": 1, "success": 1, "failed": 0, "denied": 0}}


def test_agents_sub_agents_and_todos_are_counted(ally_harness: Start) -> None:
    harness = ally_harness(ConversationMonitor)
    harness.emit(AgentStart(agent_name="main", message="fix it"))
    harness.emit(AgentStart(agent_name="explore", task_prompt="find it"), AgentEnd(agent_name="explore"))
    harness.emit(AgentStart(agent_name="explore", is_specialized_agent=True), AgentEnd(agent_name="explore"))
    harness.emit(TodoUpdate(), TodoUpdate())
    found = stats(harness)
    assert (found["agent_runs"], found["sub_agent_runs"], found["agents_ended"], found["todo_updates"]) == (1, 2, 2, 2)


def test_uptime_is_the_time_between_the_first_and_the_latest_event(ally_harness: Start) -> None:
    harness = ally_harness(ConversationMonitor)
    harness.advance(90.5)
    harness.emit(TodoUpdate())
    harness.advance(1000)
    assert stats(harness)["uptime_s"] == 90.5


def test_a_full_context_is_told_once_as_a_message_and_an_event(ally_harness: Start) -> None:
    harness = ally_harness(ConversationMonitor)
    harness.emit(usage(52), usage(76), usage(80), usage(92))
    assert [message.role for message in harness.safe_point()] == ["user"]
    assert "76 %" in harness.messages[0].content
    assert [(event.event_type, event.data) for event in harness.emitted] == [
        ("conversation-monitor:context-warning", {"context_usage": 76, "warn_at": 75})
    ]


def test_a_little_less_and_a_little_more_is_not_worth_a_second_word(ally_harness: Start) -> None:
    harness = ally_harness(ConversationMonitor)
    harness.emit(usage(76), usage(74), usage(76))
    assert len(harness.pending) == 1


@pytest.mark.parametrize(
    "between", [usage(60), CompactionComplete(new_context_usage=72.0), CompactionComplete(), usage(69.9)]
)
def test_it_warns_again_once_there_was_room(ally_harness: Start, between: Any) -> None:
    harness = ally_harness(ConversationMonitor)
    harness.emit(usage(76), between, usage(77))
    assert len(harness.pending) == 2


@pytest.mark.parametrize(
    "between", [CompactionComplete(error=True, error_message="no"), CompactionComplete(new_context_usage=76.0)]
)
def test_a_compaction_that_made_no_room_is_no_reason_to_warn_again(ally_harness: Start, between: Any) -> None:
    harness = ally_harness(ConversationMonitor)
    harness.emit(usage(76), between, usage(77))
    assert len(harness.pending) == 1


def test_the_context_of_a_sub_agent_is_not_the_sessions(ally_harness: Start) -> None:
    harness = ally_harness(ConversationMonitor)
    harness.emit(usage(40), usage(95, parent_call_id="c1"))
    assert harness.pending == ()
    assert stats(harness)["context_usage"] == 40


@pytest.mark.parametrize(("warn_at", "warnings"), [(90, 1), (0, 0), (100, 0), (50.5, 1)])
def test_the_operator_says_when_to_warn(ally_harness: Start, warn_at: float, warnings: int) -> None:
    harness = ally_harness(ConversationMonitor, settings={"warn_at": warn_at})
    harness.emit(usage(52), usage(76), usage(92))
    assert len(harness.pending) == warnings


def test_report_returns_the_statistics_and_tells_other_plugins(ally_harness: Start) -> None:
    harness = ally_harness(ConversationMonitor)
    harness.emit(ToolCallStart(tool_name="bash", call_id="c1"))
    report = harness.request_action("report")
    assert report["tool_calls"]["total"] == 1
    (event,) = harness.emitted
    assert event.event_type == "conversation-monitor:report"
    assert event.data["tool_calls"]["total"] == 1
    (asked,) = harness.events_of(PluginActionRequested)
    assert (asked.plugin_name, asked.requested_by) == ("conversation-monitor", "person")


def test_the_model_reads_one_line(ally_harness: Start) -> None:
    harness = ally_harness(ConversationMonitor)
    harness.emit(ToolCallStart(tool_name="bash", call_id="c"), ToolCallEnd(tool_name="bash", call_id="c"), usage(40))
    output = harness.call_tool("get_conversation_stats").output
    assert output == (
        "1 tool calls, 100 % succeeded; 0 agent and 0 sub-agent runs; 0 todo updates; context 40 % used; 0 s"
    )


def test_sessions_are_counted_apart(ally_harness: Start) -> None:
    harness = ally_harness(ConversationMonitor)
    harness.emit(ToolCallStart(tool_name="bash", call_id="c1"))

    async def other_session() -> Any:
        session = harness.harness.host.session("another")
        session.emit(ToolCallStart(tool_name="read", call_id="c1"))
        await session.drained()
        return await session.request_action("conversation-monitor:report")

    assert list(harness.run(other_session())["tool_calls"]["by_tool"]) == ["read"]
    assert list(stats(harness)["tool_calls"]["by_tool"]) == ["bash"]


def test_outside_of_a_session_there_is_nothing_to_tell(ally_harness: Start) -> None:
    harness = ally_harness(ConversationMonitor)
    harness.emit(ToolCallStart(tool_name="bash", call_id="c1"))
    result = harness.run(harness.harness.host.call_tool("get_conversation_stats"))
    assert result.data["session"] is None
    assert result.data["tool_calls"]["total"] == 0


def test_thousands_of_tool_names_do_not_fill_the_memory(ally_harness: Start) -> None:
    harness = ally_harness(ConversationMonitor)
    harness.emit(*(ToolCallStart(tool_name=f"tool{i}", call_id=f"c{i}") for i in range(1_000)))
    found = stats(harness)["tool_calls"]
    assert found["total"] == 1_000
    assert len(found["by_tool"]) == 201
    assert found["by_tool"]["other"]["total"] == 800


def test_without_any_grant_it_still_counts(ally_harness: Start) -> None:
    harness = ally_harness(ConversationMonitor, grants=["events:CONTEXT_USAGE_UPDATE", "tools"])
    harness.emit(usage(80))
    assert stats(harness)["context_usage"] == 80
    assert harness.pending == ()
    assert [refusal.call for refusal in harness.refusals if refusal.call != "register_action"] == [
        "emit_event",
        "add_message",
    ]
    assert harness.crashes == ()
