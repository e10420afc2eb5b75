"""Codex rollouts: what becomes of each record, in today's form and the one without envelopes."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.replay.rollout import read_rollout
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
    SessionEnded,
    SessionStarted,
    Thought,
    TodosChanged,
    ToolCalled,
    ToolReturned,
    Usage,
)
from ally_plugins.replay.tool_effects import derive_diff
from ally_plugins.replay.turns import with_safe_points
from tests.kit.steps import JSON, only, said, skipped

if TYPE_CHECKING:
    from ally_plugins.replay.steps import Step

PATCH = """*** Begin Patch
*** Update File: src/a.py
@@ def f():
-    return 1
+    return 2
*** Add File: b.txt
+hello
*** Delete File: c.txt
*** End Patch"""


def read(*records: dict[str, Any] | bytes) -> list[Step]:
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
    return list(with_safe_points(read_rollout(io.BytesIO(b"\n".join(lines)), 1000)))


def record(kind: str, /, second: int = 0, **payload: Any) -> dict[str, Any]:
    return {"timestamp": f"2026-03-10T09:00:{second:02d}.000Z", "type": kind, "payload": payload}


def item(kind: str, /, **more: Any) -> dict[str, Any]:
    return record("response_item", type=kind, **more)


def event(kind: str, /, **more: Any) -> dict[str, Any]:
    return record("event_msg", type=kind, **more)


def message(role: str, *texts: str, **more: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return item("message", role=role, content=[{"type": kind, "text": text} for text in texts], **more)


def call(call_id: str, name: str = "exec_command", **arguments: Any) -> dict[str, Any]:
    return item("function_call", name=name, arguments=json.dumps(arguments), call_id=call_id)


def output(call_id: str, text: Any) -> dict[str, Any]:
    return item("function_call_output", call_id=call_id, output=text)


# -- hostile first

KINDS = st.sampled_from([
    "message", "reasoning", "function_call", "custom_tool_call", "local_shell_call", "web_search_call",
    "function_call_output", "tool_search_output", "user_message", "token_count", "thread_rolled_back", "turn_aborted",
    "exec_command_end", "task_started",
])  # fmt: skip
PAYLOAD = st.dictionaries(
    st.sampled_from([
        "type", "role", "content", "call_id", "name", "arguments", "input", "output", "message", "info", "num_turns",
        "exit_code", "call_id", "id", "cwd", "source", "summary", "usage", "action",
        "internal_chat_message_metadata_passthrough",
    ]),
    JSON | KINDS | st.sampled_from(["user", "assistant", "apply_patch", "update_plan", "spawn_agent", PATCH]),
)  # fmt: skip
ENVELOPE = st.sampled_from(
    ["session_meta", "response_item", "event_msg", "turn_context", "compacted", "token_usage_record"]
)
RECORD = st.fixed_dictionaries({"type": ENVELOPE | JSON, "payload": PAYLOAD | JSON, "timestamp": JSON}) | PAYLOAD


@pytest.mark.slow
@given(st.lists(RECORD, max_size=8))
def test_no_record_raises_and_every_call_and_agent_ends(records: list[dict[str, Any]]) -> None:
    steps = read(*records)
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    assert len(only(steps, ToolCalled)) == len(only(steps, ToolReturned))
    assert len(only(steps, AgentStarted)) == len(only(steps, AgentEnded))
    assert len(only(steps, SessionStarted)) == len(only(steps, SessionEnded)) == 1


@pytest.mark.parametrize(
    "line", [b"{torn", b"[]", json.dumps(call("", "x")).encode(), json.dumps(item("function_call")).encode()]
)
def test_a_broken_record_is_named_by_its_line_and_the_rest_replays(line: bytes) -> None:
    steps = read(message("user", "before"), line, message("assistant", "after"))
    assert [broken.number for broken in only(steps, BrokenLine)] == [2]
    assert [one.text for one in only(steps, AssistantReplied)] == ["after"]


# -- the conversation


def test_a_turn_is_told_with_its_calls_counts_and_thoughts() -> None:
    usage = {"input_tokens": 300, "cached_input_tokens": 200, "output_tokens": 40, "total_tokens": 340}
    steps = read(
        record("session_meta", id="019a", cwd="/w", cli_version="0.171.0"),
        record("turn_context", model="gpt-x"),
        event("task_started", model_context_window=3400),
        message("user", "fix it"),
        item("reasoning", summary=[{"type": "summary_text", "text": "hm"}], encrypted_content="x"),
        message("assistant", "I look"),
        call("c1", cmd="ls"),
        call("c2", cmd="false"),
        record("token_usage_record", usage=usage),
        output("c1", "Chunk ID: 1\nWall time: 0.0 seconds\nProcess exited with code 0\nOutput:\na b"),
        output("c2", "Chunk ID: 2\nProcess exited with code 3\nOutput:\nbad"),
        event("token_count", info={"last_token_usage": usage}),
        message("assistant", "done"),
        event("token_count", info={"last_token_usage": usage | {"output_tokens": 7, "total_tokens": 350}}),
    )
    assert only(steps, SessionStarted)[0] == SessionStarted(steps[0].at, "019a", "/w")
    assert said(steps) == ["fix it"]
    assert [one.text for one in only(steps, Thought)] == ["hm"]
    assert [one.text for one in only(steps, AssistantReplied)] == ["I look", "done"]
    assert len(only(steps, ModelRequested)) == 2
    answered = [
        (one.model, one.input_tokens, one.cache_read_tokens, one.output_tokens) for one in only(steps, ModelResponded)
    ]
    assert answered == [("gpt-x", 100, 200, 40), ("gpt-x", 100, 200, 7)]
    assert [(one.call_id, one.arguments) for one in only(steps, ToolCalled)] == [
        ("c1", {"cmd": "ls"}), ("c2", {"cmd": "false"}),
    ]  # fmt: skip
    assert [one.success for one in only(steps, ToolReturned)] == [True, False]
    assert [one.percent for one in only(steps, Usage)] == [10.0, pytest.approx(10.29, abs=0.01)]


@pytest.mark.parametrize(
    ("text", "success", "shown"),
    [
        (json.dumps({"output": "bad", "metadata": {"exit_code": 2, "duration_seconds": 0.1}}), False, "bad"),
        (json.dumps({"output": "good", "metadata": {"exit_code": 0}}), True, "good"),
        ("Exit code: 1\nWall time: 1 seconds\nOutput:\nx", False, "Exit code: 1\nWall time: 1 seconds\nOutput:\nx"),
        ("a program says\nExit code 1", True, "a program says\nExit code 1"),
        ({"content": "refused", "success": False}, False, "refused"),
        ([{"type": "input_text", "text": "seen"}], True, "seen"),
        ('{"ok": true}', True, '{"ok": true}'),
    ],
)
def test_a_call_failed_where_its_output_says_so(text: Any, *, success: bool, shown: str) -> None:
    [returned] = only(read(call("c1"), output("c1", text)), ToolReturned)
    assert (returned.success, returned.output) == (success, shown)


def test_an_event_knows_the_exit_code_that_an_output_lacks() -> None:
    steps = read(call("c1"), event("exec_command_end", call_id="c1", exit_code=9), output("c1", "no word of it"))
    assert [one.success for one in only(steps, ToolReturned)] == [False]


def test_a_person_is_heard_once_and_what_the_program_put_in_is_not() -> None:
    own = {"content_item_metadata": [{"provenance": {"type": "harness"}}, {"provenance": {"type": "user"}}]}
    steps = read(
        message("developer", "be good"),
        message("user", "# AGENTS.md instructions for /w\nuse tabs", "<environment_context>\n</environment_context>"),
        message("user", "fix <b>it</b>"),
        event("user_message", message="fix <b>it</b>"),
        message("assistant", "ok"),
        event("user_message", message="and that"),
        message("user", "# Context from my IDE:\n...\nand that"),
        message("assistant", "ok"),
        event("user_message", message="only here"),
        message("assistant", "ok"),
        message("user", "a remark", "again", internal_chat_message_metadata_passthrough=own),
        message("assistant", "ok"),
        message("user", "again"),
        message("user", "<subagent_notification>\n{}\n</subagent_notification>"),
    )  # fmt: skip
    assert said(steps) == ["fix <b>it</b>", "and that", "only here", "again", "again"]
    assert skipped(steps) == {"message:developer": 1, "meta": 4}


def test_patches_and_plans_are_diffs_and_todos() -> None:
    steps = read(
        item("custom_tool_call", name="apply_patch", input=PATCH, call_id="c1"),
        item("custom_tool_call_output", call_id="c1", output="done"),
        call("c2", "update_plan", plan=[{"step": "a", "status": "completed"}, {"step": "b", "status": "pending"}]),
        output("c2", "Plan updated"),
    )
    diffs = [(one.diff.path, one.diff.old, one.diff.new, one.diff.operation) for one in only(steps, DiffMade)]
    assert diffs == [
        ("src/a.py", "    return 1", "    return 2", "edit"), ("b.txt", "", "hello", "write"),
        ("c.txt", "", "", "delete"),
    ]  # fmt: skip
    changed = derive_diff("apply_patch", {"input": PATCH.replace("hello", "[redacted]")}, "b.txt")
    assert changed is not None
    assert (changed.path, changed.new) == ("b.txt", "[redacted]")
    [todos] = [one.todos for one in only(steps, TodosChanged)]
    assert [(todo.task, todo.status) for todo in todos] == [("a", "completed"), ("b", "pending")]


def test_turns_that_were_rolled_back_did_not_happen() -> None:
    steps = read(
        message("user", "one"), event("user_message", message="one"), message("assistant", "1"),
        message("user", "two"), event("user_message", message="two"), call("c1", cmd="rm -rf ."), output("c1", ""),
        message("assistant", "2"), message("user", "three"), message("assistant", "3"),
        event("thread_rolled_back", num_turns=2),
        message("user", "instead"), message("assistant", "4"),
    )  # fmt: skip
    assert said(steps) == ["one", "instead"]
    assert not only(steps, ToolCalled)
    assert skipped(steps) == {"rewound": 7, "event:thread_rolled_back": 1}


def test_a_sub_agents_rollout_is_one_sub_agent_and_no_person() -> None:
    source = {"subagent": {"thread_spawn": {"parent_thread_id": "p"}}}
    steps = read(
        record("session_meta", id="s9", source=source, agent_role="explorer"), message("user", "look there"),
        call("c1", cmd="ls"), output("c1", "x"), message("assistant", "found"),
    )  # fmt: skip
    assert not said(steps)
    assert [(one.agent_id, one.agent_name, one.prompt) for one in only(steps, AgentStarted)] == [
        ("s9", "explorer", "look there")
    ]
    assert [one.agent_id for one in only(steps, ToolCalled)] == ["s9"]
    parent = read(message("user", "go"), call("c1", "spawn_agent", message="look"), output("c1", '{"agent_id": "s9"}'))
    assert skipped(parent) == {"subagent-rollout": 1}


def test_interruptions_compactions_and_calls_of_the_provider_are_told() -> None:
    steps = read(
        message("user", "go"), item("web_search_call", status="completed", action={"type": "search", "query": "q"}),
        record("compacted", message="short"), call("c1"), event("turn_aborted", reason="interrupted"),
    )  # fmt: skip
    assert [(one.tool_name, one.arguments.get("query")) for one in only(steps, ToolCalled)] == [
        ("web_search", "q"), ("exec_command", None),
    ]  # fmt: skip
    assert len(only(steps, CompactionStarted)) == len(only(steps, CompactionCompleted)) == 1
    assert len(only(steps, Interrupted)) == 1


def test_records_without_envelopes_are_read() -> None:
    steps = read(
        {"id": "old", "timestamp": "2025-06-01T10:00:00Z", "instructions": None},
        {"record_type": "state"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "local_shell_call", "call_id": "c1", "status": "completed", "action": {"command": ["ls"]}},
        {"type": "function_call_output", "call_id": "c1", "output": '{"output": "x", "metadata": {"exit_code": 0}}'},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "there"}]},
    )
    assert only(steps, SessionStarted)[0].session_id == "old"
    assert said(steps) == ["hi"]
    assert [(one.tool_name, one.arguments) for one in only(steps, ToolCalled)] == [("local_shell", {"command": ["ls"]})]
    assert [one.output for one in only(steps, ToolReturned)] == ["x"]
    assert skipped(steps) == {"state": 1}
