"""Exports of our own journal."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.values.codec import decode, encoded
from ally_plugins.contract.values.events import ToolCallStart, stamp
from ally_plugins.replay.export import read_export
from ally_plugins.replay.steps import (
    AgentEnded,
    AgentStarted,
    BrokenLine,
    CompactionCompleted,
    DiffMade,
    PermissionRequested,
    PersonMessage,
    SafePoint,
    SessionEnded,
    SessionStarted,
    Skipped,
    Step,
    TodosChanged,
    ToolCalled,
    ToolReturned,
    Usage,
)
from ally_plugins.replay.turns import with_safe_points
from tests.kit.steps import JSON, only

HEADER = {"format": "ally-journal", "version": 2}


def event(event_type: str, at: int = 0, session_id: str = "s1", envelope: Any = None, **data: Any) -> dict[str, Any]:
    about = {"session_id": session_id, "timestamp": at, **(envelope or {})}
    return {"kind": "event", "event_type": event_type, "event_data": data, **about}


def in_version_1(record: Any, *, whole: bool) -> Any:
    """Return a line as version 1 has it, with the event as the journal then had it (`whole`) or its data alone."""
    if not isinstance(record, dict) or "event_type" not in record:
        return record
    kind, data, at = record["event_type"], record["event_data"], record["timestamp"]
    line = {"kind": "event", "session_id": record["session_id"], "at": at, "type": kind, "origin": None}
    ids = {name: record[name] for name in ("call_id", "agent_id") if name in record}
    if not whole:
        return {**line, **ids, "data": data}
    ids = {{"call_id": "callId", "agent_id": "agentId"}[name]: value for name, value in ids.items()}
    return {**line, "data": {"type": kind, "timestamp": at, "sessionId": "s1", **ids, "origin": [], "data": data}}


def read(*records: dict[str, Any] | bytes, session_id: str | None = None) -> list[Step]:
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
    return list(with_safe_points(read_export(io.BytesIO(b"\n".join(lines)), session_id)))


def test_broken_lines_are_named_and_the_rest_replays() -> None:
    steps = read(
        HEADER, b"{cut", {"kind": 7}, event("USER_MESSAGE", content=7), {"kind": "event", "session_id": "s1"},
        {"kind": "event", "session_id": "s1", "event_type": "USER_MESSAGE", "event_data": []},
        {"kind": "event", "session_id": "s1", "type": "USER_MESSAGE", "data": []}, event("USER_MESSAGE", content="hi"),
    )  # fmt: skip
    assert [broken.number for broken in only(steps, BrokenLine)] == [2, 3, 4, 5, 6, 7]
    assert only(steps, PersonMessage)[-1].text == "hi"


@pytest.mark.parametrize(
    ("event_type", "data", "problem"),
    [
        ("USER_MESSAGE", {"content": 7}, "content is the number 7; expected a string"),
        ("USER_MESSAGE", {}, "content is missing; expected a string"),
        ("USER_MESSAGE", {"content": ["hunter2"]}, "content is a list; expected a string"),
        ("TOOL_CALL_START", {"arguments": {}}, "toolName is missing; expected a string"),
        (
            "TOOL_CALL_START",
            {"toolName": "x", "arguments": "hunter2"},
            "arguments is a string of 7 characters; expected",
        ),
        ("TOOL_CALL_END", {"toolName": "x", "success": "no"}, "success is a string of 2 characters; expected true or"),
        ("TOOL_CALL_END", {"toolName": "x", "success": 0}, "success is the number 0; expected true or false"),
        ("TOOL_CALL_END", {"toolName": "x", "result": []}, "result is a list; expected an object"),
        ("AGENT_END", {"toolUseCount": True}, "toolUseCount is true; expected an integer or null"),
        ("AGENT_END", {"toolUseCount": 1.0}, "toolUseCount is the number 1.0; expected an integer or null"),
        ("AGENT_END", {"duration": "5"}, "duration is a string of 1 characters; expected a number or null"),
        ("CONTEXT_USAGE_UPDATE", {"contextUsage": False}, "contextUsage is false; expected a number"),
        ("PERMISSION_REQUEST", {"requestId": "r", "toolName": "x", "options": "yes"}, "options is a string of 3 char"),
        ("TODO_UPDATE", {"todos": {}}, "todos is an object; expected a list"),
        ("DIFF_PREVIEW", {"toolName": "x"}, "filePath is missing; expected a string"),
        ("MODEL_RESPONSE", {"inputTokens": -1.5}, "inputTokens is the number -1.5; expected an integer or null"),
    ],
)
def test_what_is_wrong_in_an_event_is_named_with_what_was_expected_and_not_quoted(
    event_type: str, data: dict[str, Any], problem: str
) -> None:
    steps = read(HEADER, event(event_type, **data, oddField=1))
    (broken,) = only(steps, BrokenLine)
    assert (broken.number, broken.reason[: len(problem)]) == (2, problem)


def some_of_every_kind() -> list[dict[str, Any]]:
    child = {"call_id": "c1", "agent_id": "c1"}
    return [
        HEADER,
        event("SESSION_START", 1, focus="/work"),
        event("USER_MESSAGE", 2, content="go"),
        event("MODEL_REQUEST", 2, model="m"), event("MODEL_RESPONSE", 3, model="m", inputTokens=5),
        event("THOUGHT_COMPLETE", 3, thinking="hm"), event("ASSISTANT_MESSAGE", 3, content="yes"),
        event("CONTEXT_USAGE_UPDATE", 3, contextUsage=120),
        event("TOOL_CALL_START", 4, envelope={"call_id": "c1"}, toolName="Task", arguments={"prompt": "p"}),
        event("AGENT_START", 4, envelope=child, agentName="Explore", taskPrompt="p", instanceId="c1"),
        event(
            "AGENT_END", 5, envelope=child, agentName="Explore", instanceId="c1", result="r", duration=1.5,
            toolUseCount=2,
        ),
        event("TOOL_CALL_END", 5, envelope={"call_id": "c1"}, toolName="Task", success=True, result={"success": True}),
        event("PERMISSION_REQUEST", 6, requestId="r1", toolName="bash", arguments={}, options=["yes", "no"]),
        event("PERMISSION_RESPONSE", 6, requestId="r1", choice="yes"),
        event("DIFF_PREVIEW", 6, toolName="Edit", filePath="f", oldContent="a", newContent="b", operationType="edit"),
        event("TODO_UPDATE", 7, todos=[{"id": "9", "task": "t", "status": "completed"}]),
        event("COMPACTION_START", 8), event("COMPACTION_COMPLETE", 9, oldContextUsage=91.5, newContextUsage=10),
        event("SESSION_END", 10, reason="closed"),
    ]  # fmt: skip


@pytest.mark.parametrize("whole", [True, False])
def test_version_1_says_the_same(*, whole: bool) -> None:
    records = [HEADER | {"version": 1}, *(in_version_1(record, whole=whole) for record in some_of_every_kind()[1:])]
    assert all("event_type" not in record for record in records)
    assert read(*records) == read(*some_of_every_kind())


def test_the_twelve_and_the_added_events_become_steps_again() -> None:
    steps = read(*some_of_every_kind())
    assert only(steps, SessionStarted) == [SessionStarted(1, "s1", "/work")]
    assert only(steps, SessionEnded) == [SessionEnded(10, "closed")]
    assert only(steps, Usage)[0].percent == 100.0
    assert only(steps, AgentStarted)[0].prompt == "p"
    assert only(steps, AgentEnded) == [AgentEnded(5, "c1", "c1", "Explore", "r", duration_ms=1500, tool_use_count=2)]
    assert only(steps, ToolReturned)[0].output == '{"success":true}'
    assert only(steps, PermissionRequested)[0].options == ("yes", "no")
    assert only(steps, DiffMade)[0].diff.new == "b"
    assert only(steps, TodosChanged)[0].todos[0].task == "t"
    assert only(steps, CompactionCompleted)[0].old_percent == 91.5
    assert not only(steps, Skipped)
    assert [str(point.kind) for point in only(steps, SafePoint)] == ["turn_start", "turn_end"]


def test_what_plugins_did_then_is_skipped_and_counted() -> None:
    steps = read(
        HEADER, event("PLUGIN_MESSAGE_RECEIVED", pluginName="x", message={}), event("loop-guard:spoke", n=1),
        event("DECISION"), {"kind": "message", "session_id": "s1", "role": "user", "content": "x"},
    )  # fmt: skip
    assert [one.record_type for one in only(steps, Skipped)] == [
        "PLUGIN_MESSAGE_RECEIVED", "loop-guard:spoke", "DECISION", "message",
    ]  # fmt: skip


def test_one_session_of_several_is_replayed() -> None:
    lines = [HEADER, event("USER_MESSAGE", content="one"), event("USER_MESSAGE", session_id="s2", content="two")]
    assert [said.text for said in only(read(*lines), PersonMessage)] == ["one"]
    assert [said.text for said in only(read(*lines, session_id="s2"), PersonMessage)] == ["two"]
    assert [one.record_type for one in only(read(*lines), Skipped)] == ["other session"]


def test_calls_without_ids_are_told_apart_by_the_tools_name() -> None:
    steps = read(
        event("TOOL_CALL_START", toolName="bash"), event("TOOL_CALL_END", 5, toolName="bash", success=False, error="e")
    )
    assert [(one.success, one.error, one.duration_ms) for one in only(steps, ToolReturned)] == [(False, "e", 5)]


def test_an_event_as_the_journal_keeps_it_is_the_same_call_again() -> None:
    call = ToolCallStart(tool_name="bash", arguments={"command": "ls"}, call_id="c9", agent_id="x")
    stamp(call, 4, 3, "s1", (), None)
    steps = read(HEADER | {"session_id": "s1"}, {"kind": "event", **decode(encoded(call))})
    assert only(steps, ToolCalled) == [ToolCalled(3, "c9", "bash", {"command": "ls"}, agent_id="x")]


KEYS = [
    "toolName", "arguments", "success", "result", "error", "content", "contextUsage", "todos", "requestId", "options",
    "duration", "instanceId", "filePath", "editsCount", "inputTokens",
]  # fmt: skip
TYPES = [
    "TOOL_CALL_START", "TOOL_CALL_END", "AGENT_START", "AGENT_END", "PERMISSION_REQUEST", "DIFF_PREVIEW", "TODO_UPDATE",
    "CONTEXT_USAGE_UPDATE", "COMPACTION_COMPLETE", "MODEL_RESPONSE", "USER_MESSAGE",
]  # fmt: skip


@pytest.mark.slow
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "kind": st.just("event") | JSON,
                "session_id": st.just("s1") | JSON,
                "event_type": st.sampled_from(TYPES) | JSON,
            },
            optional={
                "event_data": st.dictionaries(st.sampled_from(KEYS), JSON) | JSON,
                "timestamp": JSON,
                "call_id": JSON,
            },
        ),
        max_size=6,
    )
)
def test_no_export_raises_and_every_call_returns(records: list[dict[str, Any]]) -> None:
    check(read(*records))
    old = {"event_type": "type", "event_data": "data", "timestamp": "at"}
    check(read(*({old.get(name, name): value for name, value in record.items()} for record in records)))


def check(steps: list[Step]) -> None:
    assert len(only(steps, ToolCalled)) == len(only(steps, ToolReturned))
    assert len(only(steps, AgentStarted)) == len(only(steps, AgentEnded))
    assert type(steps[-1]) is SessionEnded


def test_events_on_a_broken_line_are_replayed_and_the_line_is_counted() -> None:
    one, two = (json.dumps(event("USER_MESSAGE", at, content=text)).encode() for at, text in ((1, "one"), (2, "two")))
    data = json.dumps(HEADER).encode() + b"\n" + one + two + b"\n" + one[:60] + two + b"\n"
    steps = list(read_export(io.BytesIO(data)))
    assert [step.text for step in steps if isinstance(step, PersonMessage)] == ["one", "two", "two"]
    assert [step.number for step in steps if isinstance(step, BrokenLine)] == [2, 3]
