"""What an agent's todo list is after a call of a tool that keeps it, by the tools that agents have for it.

Some write the whole list with each call (`TodoWrite`, `write_todos`, Codex's `update_plan`), others one entry at a time
(`TaskCreate`, `TaskUpdate`), whose ids the tool gives out. Pure functions; what a call of such a name has wrong is left
out, since a tool of that name may be somebody's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import evolve

from ally_plugins.contract.values.conversation import TodoItem

__all__ = ["TASK_TOOLS", "todo_data", "todos_of", "todos_of_call", "todos_with_task"]

TASK_TOOLS: Final = frozenset({"TaskCreate", "TaskUpdate"})
"""Tools that change one entry; what they change is known once they have returned."""

_WHOLE: Final = {"TodoWrite": "todos", "todo_write": "todos", "write_todos": "todos", "update_plan": "plan"}
_STATUSES: Final = frozenset({"pending", "in_progress", "completed"})
_CREATED: Final = re.compile(r"\btask #([\w.-]{1,64})", re.IGNORECASE)
_MAX_TASKS: Final = 4096  # entries of a list; who adds more loses the oldest
_MAX_DIGITS: Final = 9  # of an id that is counted on from


def todos_of_call(tool_name: str, arguments: Mapping[str, Any]) -> tuple[TodoItem, ...] | None:
    """Return the list that a call sets, None for a tool that sets none. Entries without a text are left out."""
    key = _WHOLE.get(tool_name)
    return None if key is None else todos_of(arguments.get(key))


def todos_of(entries: Any) -> tuple[TodoItem, ...] | None:
    """Return a todo list as those tools and `TODO_UPDATE` write it; None for what is no list."""
    if not isinstance(entries, Sequence) or isinstance(entries, (str, bytes)):
        return None
    return tuple(todo for number, entry in enumerate(entries, 1) if (todo := _todo(number, entry)) is not None)


def todos_with_task(
    todos: Sequence[TodoItem], tool_name: str, arguments: Mapping[str, Any], output: str, details: Any = None
) -> tuple[TodoItem, ...] | None:
    """Return a list as a call of `TASK_TOOLS` has left it; None for other tools, and for a call that names no task.

    `output` is what the tool returned, in which `TaskCreate` names the new task; `details` is the same as data, where
    there is any.
    """
    if tool_name == "TaskCreate" and (subject := _text(arguments, "subject")):
        # Counted on where the tool names no id, so that the entry is not lost; a later update may miss it.
        task_id = _created_id(output, details) or _next_id(todos)
        made = TodoItem(task_id, subject, active_form=_text(arguments, "activeForm") or None)
        # A tool that begins its numbers anew, in a new process for one, makes another task of an id.
        kept = [todo for todo in todos if todo.id != task_id]
        return (*kept[-_MAX_TASKS + 1 :], made)
    task_id = _id(arguments.get("taskId"))
    if tool_name != "TaskUpdate" or not task_id:
        return None
    if arguments.get("status") == "deleted":
        return tuple(todo for todo in todos if todo.id != task_id)
    known = next((todo for todo in todos if todo.id == task_id), None)
    changed = _changed(known or TodoItem(task_id, f"task {task_id}"), arguments)  # made before what is recorded
    if known is None:
        return (*todos[-_MAX_TASKS + 1 :], changed)
    return tuple(changed if todo is known else todo for todo in todos)


def todo_data(todo: TodoItem) -> dict[str, str]:
    """Return an entry as `TODO_UPDATE` has it: `{id, task, status, activeForm?}`."""
    data = {"id": todo.id, "task": todo.task, "status": todo.status}
    return data if todo.active_form is None else {**data, "activeForm": todo.active_form}


def _todo(number: int, entry: Any) -> TodoItem | None:
    if not isinstance(entry, Mapping):
        return None
    task = _text(entry, "content") or _text(entry, "task") or _text(entry, "step")
    if not task:
        return None
    status = _text(entry, "status")
    return TodoItem(
        id=_text(entry, "id") or str(number),
        task=task,
        status=status if status in _STATUSES else "pending",
        active_form=_text(entry, "activeForm") or None,
    )


def _changed(todo: TodoItem, arguments: Mapping[str, Any]) -> TodoItem:
    status = _text(arguments, "status")
    return evolve(
        todo,
        task=_text(arguments, "subject") or todo.task,
        status=status if status in _STATUSES else todo.status,
        active_form=_text(arguments, "activeForm") or todo.active_form,
    )


def _created_id(output: str, details: Any) -> str:
    task = details.get("task") if isinstance(details, Mapping) else None
    if isinstance(task, Mapping) and (task_id := _id(task.get("id"))):
        return task_id
    found = _CREATED.search(output)
    return found[1] if found is not None else ""


def _next_id(todos: Sequence[TodoItem]) -> str:
    known = (int(todo.id) for todo in todos if todo.id.isdecimal() and len(todo.id) <= _MAX_DIGITS)
    return str(1 + max(known, default=0))


def _id(value: Any) -> str:
    return str(value) if isinstance(value, str) or type(value) is int else ""


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else ""
