"""SWE-agent trajectories of both kinds, in any order of keys, whole and damaged."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.replay.steps import (
    AssistantReplied,
    BrokenLine,
    DiffMade,
    ModelRequested,
    PersonMessage,
    SessionEnded,
    SessionStarted,
    Skipped,
    Step,
    Thought,
    ToolCalled,
    ToolReturned,
    Usage,
)
from ally_plugins.replay.trajectory import START_MS, read_trajectory
from ally_plugins.replay.turns import with_safe_points
from tests.kit.steps import only

RECORDED = Path(__file__).parents[3] / "shared" / "sessions"


def read(data: dict[str, Any] | bytes) -> list[Step]:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return list(with_safe_points(read_trajectory(io.BytesIO(raw))))


def element(action: str, observation: str = "done", **more: Any) -> dict[str, Any]:
    thought = f"I {action.split(maxsplit=1)[0] if action else 'wait'}"
    return {"action": action, "observation": observation, "thought": thought, "response": thought + "\n```", **more}


def function_call(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "id": call_id, "function": {"name": name, "arguments": arguments}}


TEXT = {
    "environment": "main",
    "trajectory": [
        element("create a.py\n", state='{"open_file": "/repo/a.py", "working_dir": "/repo"}\n'),
        element("edit 1:1\nprint(1)\nend_of_edit\n", state={"open_file": "/repo/a.py"}),
        element("python a.py | head\n", "1"),
        element("submit\n", "diff"),
    ],
    "history": [
        {"role": "system", "content": "You are"},
        {"role": "user", "content": "A demonstration", "is_demo": True},
        {"role": "assistant", "content": "shown", "is_demo": True},
        {"role": "user", "content": "Fix the bug"},
        {"role": "assistant", "content": "I create", "action": "create a.py\n"},
    ],
    "info": {"exit_status": "submitted", "submission": "diff", "model_stats": {"tokens_sent": 9}},
}

FUNCTIONS = {
    "info": {"exit_status": "exit_cost"},
    "trajectory": [element("ls")],
    "history": [
        {"role": "system", "content": "You are"},
        {"role": "user", "content": [{"type": "text", "text": "Fix the bug"}]},
        {
            "role": "assistant", "content": "Two at once", "thought": "Two at once", "action": "ls",
            "tool_calls": [
                function_call("c1", "bash", '{"command": "ls"}'),
                function_call("c2", "edit", '{"replacement_text": "x", "start_line": 1, "end_line": 1}'),
            ],
        },
        {
            "role": "tool", "content": "a.py\n(Open file: /repo/a.py)\n(Current directory: /repo)\nbash-$",
            "tool_call_ids": ["c1"],
        },
        {"role": "tool", "content": "Your proposed edit has introduced new syntax error(s).", "tool_call_ids": ["c2"]},
        {
            "role": "assistant", "content": "Now", "thinking_blocks": [{"type": "thinking", "thinking": "deep"}],
            "tool_calls": [
                function_call(
                    "c3", "str_replace_editor",
                    '{"command": "str_replace", "path": "/repo/a.py", "old_str": "a", "new_str": "b"}',
                ),
            ],
        },
        {"role": "tool", "content": "ok", "tool_call_ids": ["c3"]},
    ],
}  # fmt: skip


def test_text_actions_become_calls_of_the_tool_that_their_first_word_names() -> None:
    steps = read(TEXT)
    assert [(call.tool_name, call.arguments["command"].split("\n")[0]) for call in only(steps, ToolCalled)] == [
        ("create", "create a.py"),
        ("edit", "edit 1:1"),
        ("bash", "python a.py | head"),
        ("submit", "submit"),
    ]
    assert [one.text for one in only(steps, PersonMessage)] == ["Fix the bug"]
    assert [one.text for one in only(steps, Thought)] == ["I create", "I edit", "I python", "I submit"]
    assert len(only(steps, AssistantReplied)) == len(only(steps, ModelRequested)) == 4
    assert only(steps, SessionEnded)[0].reason == "submitted"
    assert not only(steps, Usage)


def test_an_edit_shows_its_diff_on_the_file_that_was_open_before_it() -> None:
    [made] = only(read(TEXT), DiffMade)
    assert (made.diff.path, made.diff.new, made.diff.operation) == ("/repo/a.py", "print(1)", "edit")


def test_the_steady_clock_starts_at_a_documented_moment_and_moves_on() -> None:
    steps = read(TEXT)
    assert steps[0] == SessionStarted(START_MS)
    assert steps[-1].at - steps[0].at == 8000
    assert [step.at for step in steps] == sorted(step.at for step in steps)


def test_function_calls_keep_their_names_ids_and_arguments() -> None:
    steps = read(FUNCTIONS)
    assert [(call.call_id, call.tool_name) for call in only(steps, ToolCalled)] == [
        ("c1", "bash"),
        ("c2", "edit"),
        ("c3", "str_replace_editor"),
    ]
    assert only(steps, ToolCalled)[0].arguments == {"command": "ls"}
    assert [one.success for one in only(steps, ToolReturned)] == [True, False, True]
    assert [one.text for one in only(steps, Thought)] == ["Two at once", "deep"]
    assert [one.record_type for one in only(steps, Skipped)] == ["system"]
    assert only(steps, SessionEnded)[0].reason == "exit_cost"
    assert [made.diff.old for made in only(steps, DiffMade)] == ["a"]


@pytest.mark.parametrize("data", [TEXT, FUNCTIONS])
def test_the_order_of_the_keys_does_not_matter(data: dict[str, Any]) -> None:
    assert read(dict(reversed(data.items()))) == read(data) == read(json.dumps(data, indent=4).encode())


def test_a_history_alone_replays_its_actions_and_observations() -> None:
    history = [
        {"role": "user", "content": "Fix"}, {"role": "assistant", "content": "I list", "action": "ls\n"},
        {"role": "user", "content": "a.py"}, {"role": "assistant", "content": "done"},
        {"role": "user", "content": "thanks"},
    ]  # fmt: skip
    steps = read({"history": history})
    assert [(one.tool_name, one.output) for one in only(steps, ToolReturned)] == [("bash", "a.py")]
    assert [one.text for one in only(steps, PersonMessage)] == ["Fix", "thanks"]


def test_a_text_command_of_the_string_editor_shows_its_diff() -> None:
    action = "str_replace_editor str_replace /repo/a.py --old_str 'a b' --new_str 'c'"
    [made] = only(read({"trajectory": [element(action), element("str_replace_editor create '")]}), DiffMade)
    assert (made.diff.path, made.diff.old, made.diff.new) == ("/repo/a.py", "a b", "c")


# -- damaged


def test_a_cut_file_replays_up_to_the_cut_and_names_the_element() -> None:
    raw = json.dumps({"trajectory": [element("ls"), element("cat a.py")]}).encode()
    steps = read(raw[: raw.index(b"cat a.py") + 4])
    assert len(only(steps, ToolCalled)) == 1
    [broken] = only(steps, BrokenLine)
    assert broken.number == 2
    assert "ends inside" in broken.reason


@pytest.mark.parametrize(
    "bad", [7, "text", None, [], {"action": 7}, {"thought": []}, {"action": "ls", "observation": 7}]
)
def test_a_broken_element_is_named_by_its_number_and_the_rest_replays(bad: Any) -> None:
    steps = read({"trajectory": [element("ls"), bad, element("pwd")]})
    assert [one.number for one in only(steps, BrokenLine)] == [2]
    assert {"ls", "pwd"} <= {call.arguments["command"] for call in only(steps, ToolCalled)}


def test_arguments_that_are_no_json_are_kept_as_they_are_and_named() -> None:
    calls = [function_call("c1", "bash", "{broken"), function_call("c2", "bash", ""), {"function": 7}, 7]
    steps = read({"history": [{"role": "assistant", "content": "x", "tool_calls": calls}]})
    assert [call.arguments for call in only(steps, ToolCalled)] == [{"raw": "{broken"}, {}]
    assert len(only(steps, BrokenLine)) == 1


def test_bytes_that_are_no_trajectory_are_an_empty_session() -> None:
    for raw in (b"", b"\x00\xff", b"[]", b"{", b'{"trajectory": 7}'):
        steps = read(raw)
        assert [type(step) for step in steps if type(step) is not BrokenLine] == [SessionStarted, SessionEnded]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
CALL = st.fixed_dictionaries(
    {"id": st.sampled_from("ab") | JSON, "function": st.fixed_dictionaries({"name": JSON, "arguments": JSON}) | JSON}
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["assistant", "tool", "user"]) | JSON, "content": JSON, "action": st.text() | JSON,
        "thought": JSON, "response": JSON, "observation": JSON, "state": JSON, "is_demo": JSON,
        "tool_calls": st.lists(CALL | JSON, max_size=3) | JSON, "thinking_blocks": JSON,
        "tool_call_ids": st.lists(st.sampled_from("ab") | JSON, max_size=2) | JSON,
    },
)  # fmt: skip


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "trajectory": st.lists(ENTRY | JSON, max_size=4) | JSON,
            "history": st.lists(ENTRY | JSON, max_size=4) | JSON,
            "info": JSON,
        },
    )
)
def test_no_object_raises_and_every_call_returns(data: dict[str, Any]) -> None:
    steps = read(data)
    assert len(only(steps, ToolCalled)) == len(only(steps, ToolReturned))
    assert type(steps[0]) is SessionStarted
    assert type(steps[-1]) is SessionEnded


@pytest.mark.parametrize(("name", "calls", "diffs"), [("marshmallow-1867", 11, 3), ("pydicom-1458", 12, 4)])
def test_a_real_trajectory_replays(name: str, calls: int, diffs: int) -> None:
    path = RECORDED / f"{name}.traj"
    if not path.exists():
        pytest.skip(f"no recorded session {path.name} beside the checkout")
    with path.open("rb") as file:
        steps = list(with_safe_points(read_trajectory(file)))
    assert len(only(steps, ToolCalled)) == len(only(steps, ToolReturned)) == len(only(steps, Thought)) == calls
    assert len(only(steps, DiffMade)) >= diffs
    assert len(only(steps, PersonMessage)) == 1
    assert only(steps, SessionEnded)[0].reason == "submitted"
    assert not only(steps, BrokenLine)
