"""The todo list as calls of todo tools leave it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.tools.todo_tools import TASK_TOOLS, todo_data, todos_of, todos_of_call, todos_with_task
from ally_plugins.contract.values.conversation import TodoItem

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["todos", "plan", "subject", "taskId", "status", "activeForm"]),
    JSON | st.sampled_from(["1", "deleted"]),
)
TOOLS = st.sampled_from(["TodoWrite", "write_todos", "update_plan", *sorted(TASK_TOOLS), "Bash"])


def shown(todos: tuple[TodoItem, ...] | None) -> list[tuple[str, str, str]]:
    assert todos is not None
    return [(todo.id, todo.task, todo.status) for todo in todos]


def after(*calls: tuple[str, dict[str, Any], str, Any]) -> tuple[TodoItem, ...]:
    todos: tuple[TodoItem, ...] = ()
    for tool_name, arguments, output, details in calls:
        changed = todos_with_task(todos, tool_name, arguments, output, details)
        todos = todos if changed is None else changed
    return todos


@pytest.mark.slow
@given(st.lists(st.tuples(TOOLS, ARGUMENTS, st.text(max_size=20), JSON), max_size=6))
def test_no_call_raises_and_every_entry_has_an_id_a_text_and_a_known_status(calls: list[Any]) -> None:
    todos = after(*calls)
    for tool_name, arguments, _, _ in calls:
        todos = todos_of_call(tool_name, arguments) or todos
    for todo in todos:
        assert todo.id
        assert todo.task
        assert todo.status in {"pending", "in_progress", "completed"}


@pytest.mark.parametrize(
    ("tool_name", "arguments"),
    [
        ("TaskCreate", {}),
        ("TaskCreate", {"subject": ["x"]}),
        ("TaskUpdate", {"status": "completed"}),
        ("TaskUpdate", {"taskId": True}),
        ("TaskUpdate", {"taskId": {"id": 1}}),
        ("Bash", {"subject": "x", "taskId": "1"}),
    ],
)
def test_a_call_that_names_no_task_changes_nothing(tool_name: str, arguments: dict[str, Any]) -> None:
    assert todos_with_task((TodoItem("1", "a"),), tool_name, arguments, "Task #1 created") is None


def test_tasks_are_created_changed_and_deleted_by_the_ids_that_the_tool_gives_out() -> None:
    create, update = "TaskCreate", "TaskUpdate"
    todos = after(
        (create, {"subject": "Read", "activeForm": "Reading"}, "Task #7 created successfully: Read", None),
        (create, {"subject": "Write"}, "made", {"task": {"id": "9"}}),
        (create, {"subject": "Check"}, "made", None),
        (update, {"taskId": "7", "status": "in_progress"}, "Updated task #7 status", None),
        (update, {"taskId": 9, "subject": "Write it", "status": "blocked"}, "Updated task #9", None),
        (update, {"taskId": "10", "status": "deleted"}, "Updated task #10", None),
    )
    assert shown(todos) == [("7", "Read", "in_progress"), ("9", "Write it", "pending")]
    assert todo_data(todos[0]) == {"id": "7", "task": "Read", "status": "in_progress", "activeForm": "Reading"}


def test_a_task_from_before_the_recording_is_listed_without_its_text() -> None:
    assert shown(after(("TaskUpdate", {"taskId": "4", "status": "completed"}, "", None))) == [
        ("4", "task 4", "completed")
    ]


@pytest.mark.parametrize(
    ("tool_name", "arguments"),
    [
        ("TodoWrite", {"todos": [{"content": "a", "status": "in_progress"}, {"content": ""}, 3]}),
        ("write_todos", {"todos": ({"content": "a", "status": "in_progress"},)}),
        ("update_plan", {"plan": [{"step": "a", "status": "in_progress"}]}),
    ],
)
def test_a_tool_that_writes_the_whole_list_sets_it(tool_name: str, arguments: dict[str, Any]) -> None:
    assert shown(todos_of_call(tool_name, arguments)) == [("1", "a", "in_progress")]


def test_other_tools_and_texts_set_no_list() -> None:
    assert todos_of_call("Bash", {"todos": []}) is None
    assert todos_of_call("TodoWrite", {"todos": "abc"}) is None
    assert todos_of(b"abc") is None
