"""pi's sessions: what becomes of each entry, and which way of the tree happened."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.replay.pi_session import read_pi_session
from ally_plugins.replay.steps import (
    AssistantReplied,
    BrokenLine,
    CompactionCompleted,
    DiffMade,
    Interrupted,
    ModelResponded,
    PersonMessage,
    SessionEnded,
    SessionStarted,
    Thought,
    ToolCalled,
    ToolReturned,
    Usage,
)
from ally_plugins.replay.turns import with_safe_points
from tests.kit.steps import JSON, only, skipped

if TYPE_CHECKING:
    from ally_plugins.replay.steps import Step

HEADER = {"type": "session", "version": 3, "id": "s1", "timestamp": "2026-03-10T09:00:00Z", "cwd": "/w"}


def read(*records: dict[str, Any] | bytes) -> list[Step]:
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
    return list(with_safe_points(read_pi_session(io.BytesIO(b"\n".join(lines)), 1000)))


def entry(name: str, parent: str | None, kind: str = "message", **more: Any) -> dict[str, Any]:
    return {"type": kind, "id": name, "parentId": parent, "timestamp": "2026-03-10T09:00:01Z", **more}


def user(name: str, parent: str | None, words: str) -> dict[str, Any]:
    return entry(name, parent, message={"role": "user", "content": [{"type": "text", "text": words}]})


def answer(name: str, parent: str, *blocks: dict[str, Any], stop: str = "stop", **more: Any) -> dict[str, Any]:
    usage = {"input": 10, "output": 20, "cacheRead": 60, "cacheWrite": 10, "totalTokens": 100}
    message = {"role": "assistant", "model": "m", "content": list(blocks), "usage": usage, "stopReason": stop, **more}
    return entry(name, parent, message=message)


def call(call_id: str, tool: str = "bash", **arguments: Any) -> dict[str, Any]:
    return {"type": "toolCall", "id": call_id, "name": tool, "arguments": arguments}


def result(name: str, parent: str, call_id: str, output: str, *, is_error: bool = False) -> dict[str, Any]:
    content = [{"type": "text", "text": output}]
    return entry(
        name, parent, message={"role": "toolResult", "toolCallId": call_id, "content": content, "isError": is_error}
    )


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def thought(words: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": words}


BLOCK = st.dictionaries(
    st.sampled_from(["type", "id", "name", "arguments", "text", "thinking"]), JSON | st.just("toolCall")
)
MESSAGE = st.dictionaries(
    st.sampled_from(["role", "content", "usage", "stopReason", "toolCallId", "isError", "model"]),
    JSON | st.sampled_from(["user", "assistant", "toolResult", "aborted"])
    | st.lists(BLOCK),
)  # fmt: skip
RECORD = st.dictionaries(
    st.sampled_from(["type", "id", "parentId", "timestamp", "message", "tokensBefore", "cwd"]),
    JSON | MESSAGE | st.sampled_from(["session", "message", "compaction", "a", "b"]),
)


@pytest.mark.slow
@given(st.lists(RECORD, max_size=8))
def test_no_entry_raises_and_every_call_ends(records: list[dict[str, Any]]) -> None:
    steps = read(*records)
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    assert len(only(steps, ToolCalled)) == len(only(steps, ToolReturned))
    assert len(only(steps, SessionStarted)) == len(only(steps, SessionEnded)) == 1


def test_a_session_is_told_with_its_calls_counts_and_diffs() -> None:
    steps = read(
        HEADER,
        user("a", None, "fix it"),
        answer("b", "a", thought("hm"), text("I look"), call("c1", command="ls"), stop="toolUse"),
        result("c", "b", "c1", "bad", is_error=True),
        answer(
            "d", "c", call("c2", "edit", path="f", edits=[{"oldText": "1", "newText": "2"}]),
            call("c3", "write", path="g", content="new"),
        ),
        result("e", "d", "c2", "ok"), result("f", "e", "c3", "ok"),
        entry("g", "f", "compaction", summary="short", tokensBefore=500),
        answer("h", "g", text("done"), stop="aborted"),
        b"{torn",
    )  # fmt: skip
    assert (only(steps, SessionStarted)[0].session_id, only(steps, SessionStarted)[0].cwd) == ("s1", "/w")
    assert [one.text for one in only(steps, PersonMessage)] == ["fix it"]
    assert [one.text for one in only(steps, Thought)] == ["hm"]
    assert [one.text for one in only(steps, AssistantReplied)] == ["I look", "done"]
    first = only(steps, ModelResponded)[0]
    assert (first.stop_reason, first.input_tokens, first.output_tokens) == ("toolUse", 10, 20)
    assert (first.cache_read_tokens, first.cache_creation_tokens) == (60, 10)
    assert [(one.call_id, one.success) for one in only(steps, ToolReturned)] == [
        ("c1", False),
        ("c2", True),
        ("c3", True),
    ]
    diffs = [(one.diff.path, one.diff.old, one.diff.new, one.diff.operation) for one in only(steps, DiffMade)]
    assert diffs == [("f", "1", "2", "edit"), ("g", "", "new", "write")]
    assert {one.percent for one in only(steps, Usage)} == {10.0}
    assert [one.old_percent for one in only(steps, CompactionCompleted)] == [50.0]
    assert len(only(steps, Interrupted)) == 1
    assert [one.number for one in only(steps, BrokenLine)] == [10]


def test_the_way_to_the_last_entry_happened_and_no_other() -> None:
    steps = read(
        HEADER, user("a", None, "one"), answer("b", "a", text("1")), user("c", "b", "delete all"),
        answer("d", "c", call("c1", command="rm -rf .")), result("e", "d", "c1", ""),
        entry("f", "b", "branch_summary", summary="went wrong"), user("g", "f", "two"), answer("h", "g", text("2")),
    )  # fmt: skip
    assert [one.text for one in only(steps, PersonMessage)] == ["one", "two"]
    assert not only(steps, ToolCalled)
    assert skipped(steps) == {"rewound": 3, "branch_summary": 1}


def test_what_is_neither_said_nor_answered_is_counted_by_its_role() -> None:
    steps = read(
        HEADER, entry("a", None, "model_change"), entry("b", "a", message={"role": "bashExecution", "command": "ls"}),
        entry("c", "b", "custom_message", content="from an extension"),
    )  # fmt: skip
    assert skipped(steps) == {"model_change": 1, "message:bashExecution": 1, "custom_message": 1}
