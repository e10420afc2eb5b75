"""Claude Code transcripts: what becomes of each kind of record, and that none of them is fatal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.replay.steps import (
    AgentEnded,
    AgentStarted,
    AssistantReplied,
    BrokenLine,
    CompactionCompleted,
    CompactionStarted,
    DiffMade,
    Interrupted,
    ModelRequested,
    ModelResponded,
    PermissionRequested,
    PersonMessage,
    SafePoint,
    SessionEnded,
    SessionStarted,
    Thought,
    TodosChanged,
    ToolCalled,
    ToolReturned,
    Usage,
)
from ally_plugins.replay.transcript import read_transcript
from ally_plugins.replay.turns import with_safe_points
from tests.kit.steps import JSON, only, skipped

if TYPE_CHECKING:
    from ally_plugins.replay.steps import Step

RECORDED = Path(__file__).parents[3] / "shared" / "sessions"


def read(*records: dict[str, Any] | bytes) -> list[Step]:
    """Read records, or raw lines, as a transcript with safe points."""
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
    return list(with_safe_points(read_transcript(io.BytesIO(b"\n".join(lines)))))


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "user", "sessionId": "s1", "cwd": "/work", "message": {"role": "user", "content": content}, **more}


def assistant(*blocks: dict[str, Any], mid: str | None = "m1", usage: Any = None, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "model": "model-x", "content": list(blocks), "usage": usage}
    return {"type": "assistant", "message": message | ({"id": mid} if mid else {}), **more}


def use(call_id: str, name: str = "Bash", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def result(call_id: str, content: Any = "out", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


# -- hostile first


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"user","message":{"role":"user","content":"cut',
        b"\x00\x01\xff\xfe binary",
        b"[]",
        b"7",
        b"{}",
        b'{"type":7}',
        b'{"type":"user"}',
        b'{"type":"user","message":"text"}',
        b'{"type":"user","message":{"content":7}}',
        b'{"type":"user","message":{"content":[7]}}',
        b'{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":7}]}}',
        b'{"type":"assistant","message":{"content":[{"type":"tool_use","id":[],"name":{}}]}}',
        b'{"type":"assistant","message":{"content":[{"type":"tool_use","id":"a","name":"b","input":[]}]}}',
        b'{"type":"assistant","message":{"content":[{"type":"text"}]}}',
    ],
)
def test_a_broken_line_is_named_by_its_number_and_the_rest_replays(line: bytes) -> None:
    steps = read(user("before"), line, user("after"))
    assert [broken.number for broken in only(steps, BrokenLine)] == [2]
    assert only(steps, BrokenLine)[0].reason
    assert [said.text for said in only(steps, PersonMessage)] == ["before", "after"]


def test_the_whole_blocks_of_a_record_with_a_broken_one_still_count() -> None:
    steps = read(assistant(text("one"), {"type": "text", "text": 7}, text("two")))
    assert [said.text for said in only(steps, AssistantReplied)] == ["one", "two"]
    assert [broken.number for broken in only(steps, BrokenLine)] == [1]


def test_an_empty_file_is_a_session_that_starts_and_ends() -> None:
    assert read() == [SessionStarted(0), SessionEnded(0)]


BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "thinking", "tool_use", "tool_result", "image"]) | JSON},
    optional={
        "text": st.text() | JSON,
        "thinking": JSON,
        "id": st.sampled_from("ab") | JSON,
        "name": st.sampled_from(["Task", "Edit", "TodoWrite", "TaskCreate", "TaskUpdate", "str_replace_editor"]) | JSON,
        "input": st.dictionaries(st.sampled_from(["todos", "edits", "file_path", "prompt", "command"]), JSON) | JSON,
        "tool_use_id": st.sampled_from("ab") | JSON,
        "content": JSON,
        "is_error": JSON,
    },
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["m1", "m2"]) | JSON,
        "role": st.sampled_from(["user", "assistant"]) | JSON,
        "content": st.lists(BLOCK, max_size=3) | st.text(max_size=20) | JSON,
        "usage": st.dictionaries(st.sampled_from(["input_tokens", "output_tokens"]), JSON) | JSON,
        "model": JSON,
    },
)
RECORD = st.fixed_dictionaries(
    {"type": st.sampled_from(["user", "assistant", "system", "progress", "queue-operation", "attachment"]) | JSON},
    optional={
        "message": MESSAGE | JSON,
        "timestamp": st.datetimes().map(lambda moment: moment.isoformat()) | JSON,
        "isSidechain": st.booleans() | JSON,
        "isMeta": JSON,
        "agentId": st.sampled_from(["x", "y"]) | JSON,
        "uuid": st.text(max_size=2) | JSON,
        "parentUuid": st.text(max_size=2) | JSON,
        "subtype": st.just("compact_boundary") | JSON,
        "compactMetadata": st.dictionaries(st.sampled_from(["preTokens", "postTokens", "trigger"]), JSON) | JSON,
        "parentToolUseID": st.sampled_from("ab") | JSON,
        "data": st.fixed_dictionaries(
            {"type": st.just("agent_progress"), "message": st.fixed_dictionaries(
                {"type": st.sampled_from(["user", "assistant"]), "message": MESSAGE}
            )}
        ) | JSON,
        "toolUseResult": st.dictionaries(st.sampled_from(["agentId", "status", "task"]), JSON) | JSON,
        "origin": st.dictionaries(st.just("kind"), JSON) | JSON,
        "operation": st.sampled_from(["enqueue", "dequeue", "remove", "popAll"]) | JSON,
        "content": st.text(max_size=5) | JSON,
        "reason": JSON,
        "attachment": st.fixed_dictionaries({"type": st.just("queued_command"), "prompt": JSON, "origin": JSON}) | JSON,
    },
)  # fmt: skip


@pytest.mark.slow
@given(st.lists(RECORD, max_size=8))
def test_no_record_raises_and_time_never_runs_backward(records: list[dict[str, Any]]) -> None:
    data = b"\n".join(json.dumps(record).encode() for record in records)
    steps = list(with_safe_points(read_transcript(io.BytesIO(data))))
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    assert len(only(steps, ToolCalled)) == len(only(steps, ToolReturned))
    assert len(only(steps, AgentStarted)) == len(only(steps, AgentEnded))
    assert len(only(steps, CompactionStarted)) == len(only(steps, CompactionCompleted))
    assert len(only(steps, SessionStarted)) == len(only(steps, SessionEnded)) == 1


# -- the conversation


def test_an_answer_over_several_records_is_one_request_and_one_usage() -> None:
    usage = {
        "input_tokens": 1000, "cache_creation_input_tokens": 9000, "cache_read_input_tokens": 80_000,
        "output_tokens": 10_000,
    }  # fmt: skip
    steps = read(
        user("go", timestamp="2026-03-10T09:00:00Z"),
        assistant({"type": "thinking", "thinking": "hm"}, usage=usage, timestamp="2026-03-10T09:00:05Z"),
        assistant(text("yes"), usage=usage, timestamp="2026-03-10T09:00:06Z"),
        assistant(use("a"), usage=usage | {"output_tokens": 30_000}, timestamp="2026-03-10T09:00:07Z"),
    )
    [asked], [answered] = only(steps, ModelRequested), only(steps, ModelResponded)
    assert answered.at - asked.at == 5000
    assert (answered.input_tokens, answered.output_tokens, answered.cache_read_tokens) == (1000, 30_000, 80_000)
    assert [(usage.percent, usage.tokens) for usage in only(steps, Usage)] == [(50.0, 100_000), (60.0, 120_000)]
    assert [thought.text for thought in only(steps, Thought)] == ["hm"]


def test_a_full_window_is_a_hundred_percent() -> None:
    line = json.dumps(assistant(text("x"), usage={"input_tokens": 900})).encode()
    [usage] = only(list(read_transcript(io.BytesIO(line), context_window=300)), Usage)
    assert usage.percent == 100.0


def test_answers_without_an_id_are_told_apart_by_what_comes_between() -> None:
    steps = read(
        assistant(use("a"), mid=None), assistant(use("b"), mid=None),
        user([result("a")]), user([result("b")]), assistant(text("done"), mid=None),
    )  # fmt: skip
    assert len(only(steps, ModelRequested)) == 2
    assert all(step.success for step in only(steps, ToolReturned))


def test_empty_texts_and_thoughts_are_no_steps() -> None:
    steps = read(assistant(text("\n\n"), {"type": "thinking", "thinking": " "}))
    assert not only(steps, AssistantReplied)
    assert not only(steps, Thought)


def test_images_become_placeholders_and_are_counted() -> None:
    image = {"type": "image", "source": {}}
    steps = read(
        user([text("look"), image]), assistant(use("a")), user([result("a", [text("seen"), image])]),
        assistant({"type": "redacted_thinking", "data": "x"}, mid="m2"),
    )  # fmt: skip
    assert only(steps, PersonMessage)[0].text == "look\n[image]"
    assert only(steps, ToolReturned)[0].output == "seen\n[image]"
    assert skipped(steps) == {"block:image": 2, "block:redacted_thinking": 1}


def test_a_failed_and_a_rejected_call_differ() -> None:
    refusal = "The user doesn't want to proceed with this tool use. STOP."
    steps = read(
        assistant(use("a"), use("b")),
        user([result("a", "Exit code 1", is_error=True)]),
        user([result("b", refusal, is_error=True)]),
    )
    assert [(one.success, one.error, one.is_rejected) for one in only(steps, ToolReturned)] == [
        (False, "Exit code 1", False),
        (False, refusal, True),
    ]
    assert [asked.request_id for asked in only(steps, PermissionRequested)] == ["b"]


def test_edit_tools_show_diffs_and_the_todo_tool_its_list() -> None:
    edits = [{"old_string": "1", "new_string": "2"}, {"old_string": "3", "new_string": "4"}]
    steps = read(
        assistant(
            use("a", "Edit", file_path="f", old_string="x", new_string="y"),
            use("b", "Write", file_path="g", content="new"),
            use("c", "MultiEdit", file_path="h", edits=edits),
            use("d", "TodoWrite", todos=[{"content": "test", "status": "in_progress", "activeForm": "testing"}, 7]),
        )
    )
    diffs = [made.diff for made in only(steps, DiffMade)]
    assert [(diff.path, diff.old, diff.new, diff.operation, diff.edits_count) for diff in diffs] == [
        ("f", "x", "y", "edit", 1),
        ("g", "", "new", "write", 1),
        ("h", "1\n3", "2\n4", "edit", 2),
    ]
    [[todo]] = [changed.todos for changed in only(steps, TodosChanged)]
    assert (todo.id, todo.task, todo.status, todo.active_form) == ("1", "test", "in_progress", "testing")


# -- what the program itself writes


def test_local_commands_are_skipped_and_commands_for_the_model_are_the_persons_words() -> None:
    command = (
        "<command-name>/{0}</command-name>\n<command-message>{0}</command-message>\n<command-args>x</command-args>"
    )
    steps = read(
        user("<local-command-caveat>Caveat: ...", isMeta=True),
        user(command.format("model")),
        user("<local-command-stdout>Kept</local-command-stdout>"),
        user(command.format("review")),
        user([text("Review the changes ...")], isMeta=True),
        assistant(text("I review")),
        user(command.format("clear")),
    )
    assert [said.text for said in only(steps, PersonMessage)] == ["/review x"]
    assert skipped(steps) == {"local-command": 3, "meta": 2}


def test_an_interruption_is_no_message_of_the_person() -> None:
    steps = read(user("go"), assistant(use("a")), user([text("[Request interrupted by user for tool use]")]))
    assert len(only(steps, PersonMessage)) == 1
    assert len(only(steps, Interrupted)) == 1
    assert only(steps, ToolReturned)[0].error == "interrupted by the person"


def test_words_beside_a_result_do_not_end_the_turn() -> None:
    steps = read(
        user("go"),
        assistant(use("a")),
        user([result("a"), text("use the other file")]),
        assistant(text("ok"), mid="m2"),
    )
    assert [(said.text, said.is_interjection) for said in only(steps, PersonMessage)][1:] == [
        ("use the other file", True)
    ]
    assert [str(point.kind) for point in only(steps, SafePoint)] == ["turn_start", "step", "turn_end"]


def test_unknown_records_are_counted_by_type_and_long_types_cut() -> None:
    steps = read(
        {"type": "summary", "summary": "x"}, {"type": "brand-new", "uuid": "u"}, {"type": "x" * 500},
        {"type": "progress", "data": {"type": "hook_progress"}}, {"type": "system", "subtype": "api_error"},
    )  # fmt: skip
    assert skipped(steps) == {"summary": 1, "brand-new": 1, "x" * 64: 1, "progress": 1, "system": 1}


def test_a_record_that_a_resumed_session_repeats_counts_once() -> None:
    steps = read(user("hi", uuid="u1"), user("hi", uuid="u1"))
    assert len(only(steps, PersonMessage)) == 1
    assert skipped(steps) == {"duplicate": 1}


def test_a_compaction_ends_with_the_usage_of_the_next_answer() -> None:
    boundary = {
        "type": "system",
        "subtype": "compact_boundary",
        "compactMetadata": {"trigger": "auto", "preTokens": 180_000},
    }
    steps = read(
        boundary, user("This session is being continued ...", isCompactSummary=True),
        assistant(text("on"), usage={"input_tokens": 20_000}),
    )  # fmt: skip
    [done] = only(steps, CompactionCompleted)
    assert (done.old_percent, done.new_percent, done.strategy) == (90.0, 10.0, "auto")
    assert skipped(steps) == {"compact-summary": 1}
    [unknown] = only(read(boundary, user("next")), CompactionCompleted)
    assert (unknown.old_percent, unknown.new_percent) == (90.0, None)
    [told] = only(
        read({**boundary, "compactMetadata": {"preTokens": 100_000, "postTokens": 4000}}),
        CompactionCompleted,
    )
    assert (told.old_percent, told.new_percent) == (50.0, 2.0)


# -- sub-agents


def test_interleaved_sub_agents_are_told_apart_by_their_prompts() -> None:
    side: dict[str, Any] = {"isSidechain": True}
    steps = read(
        assistant(use("t1", "Task", prompt="find", subagent_type="Explore"), use("t2", "Task", prompt="count")),
        user("count", uuid="b0", **side), user("find", uuid="a0", **side),
        assistant(use("a"), mid="sa", uuid="a1", parentUuid="a0", **side),
        assistant(use("b"), mid="sb", uuid="b1", parentUuid="b0", **side),
        user([result("b")], uuid="b2", parentUuid="b1", **side),
        user([result("a")], uuid="a2", parentUuid="a1", **side),
        user([result("t2", "two")]), user([result("t1", [text("there")])]),
    )  # fmt: skip
    assert [(one.agent_id, one.call_id, one.agent_name) for one in only(steps, AgentStarted)] == [
        ("t1", "t1", "Explore"),
        ("t2", "t2", ""),
    ]
    assert {one.call_id: one.agent_id for one in only(steps, ToolCalled)} == {
        "t1": None,
        "t2": None,
        "a": "t1",
        "b": "t2",
    }
    assert [(one.agent_id, one.result, one.tool_use_count) for one in only(steps, AgentEnded)] == [
        ("t2", "two", 1),
        ("t1", "there", 1),
    ]
    assert not only(steps, PersonMessage)


def test_a_sub_agent_inside_progress_records_belongs_to_the_call_that_they_name() -> None:
    def progress(inner: dict[str, Any]) -> dict[str, Any]:
        data = {"type": "agent_progress", "agentId": "x1", "message": inner}
        return {"type": "progress", "data": data, "parentToolUseID": "t2"}

    steps = read(
        assistant(use("t1", "Task", prompt="p"), use("t2", "Agent", prompt="p")),
        progress(user("p")), progress(assistant(use("a"), mid="s1", usage={"input_tokens": 5})),
        progress(user([result("a")])), user([result("t2")]), user([result("t1")]),
    )  # fmt: skip
    assert [one.agent_id for one in only(steps, ToolCalled)] == [None, None, "t2"]
    assert not only(steps, Usage)
    assert "progress" not in skipped(steps)


def test_a_file_of_a_sub_agent_alone_replays_as_one() -> None:
    side: dict[str, Any] = {"isSidechain": True, "agentId": "x1"}
    steps = read(user("look", **side), assistant(use("a"), **side), user([result("a")], **side))
    assert only(steps, AgentStarted)[0] == AgentStarted(0, "x1", None, prompt="look")
    assert len(only(steps, AgentEnded)) == 1
    assert only(steps, ToolReturned)[0].agent_id == "x1"


# -- real recordings, where they are at hand


@pytest.mark.parametrize(
    ("name", "calls", "thoughts", "agents"), [("tool_heavy", 6, 1, 0), ("short", 2, 1, 0), ("subagent", 25, 4, 1)]
)
def test_a_real_transcript_replays(name: str, calls: int, thoughts: int, agents: int) -> None:
    path = RECORDED / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no recorded session {path.name} beside the checkout")
    with path.open("rb") as file:
        steps = list(with_safe_points(read_transcript(file)))
    assert len(only(steps, ToolCalled)) == len(only(steps, ToolReturned)) == calls
    assert len(only(steps, Thought)) == thoughts
    assert len(only(steps, AgentStarted)) == len(only(steps, AgentEnded)) == agents
    assert not only(steps, BrokenLine)
