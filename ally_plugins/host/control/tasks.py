"""The background tasks of a running host, as commands see and end them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ally_plugins.host.bus.tasks import PluginTask, Tasks

__all__ = ["cancel_task", "describe_tasks"]

PATIENCE: Final = 0.5
"""Seconds to wait for a cancelled task: most end at their next await, and a command waits a second."""

ENDED: Final = 50
"""How many of the tasks that ended last are in an answer."""

LONGEST_TEXT: Final = 500
"""Characters of a reason or message in an answer; the journal has all of it."""


def describe_tasks(tasks: Tasks) -> dict[str, Any]:
    """Return the tasks that run, and those that ended last; times are Unix ms."""
    listed = list(tasks)
    ended = [task for task in listed if not task.is_running][-ENDED:]
    return {"tasks": [_described(task) for task in listed if task.is_running or task in ended]}


async def cancel_task(tasks: Tasks, task_id: str) -> dict[str, Any]:
    """Cancel a task, wait `PATIENCE` for its end, and return its state. Raises NotFoundRefused.

    Cancelling stops the waiting.
    """
    task = tasks.find(task_id)
    # Before it is cancelled: the answer tells whether this was what ended it.
    was_running = task is not None and task.is_running
    task = tasks.cancel(task_id)
    await task.wait(PATIENCE)
    return {**_described(task), "was_running": was_running}


def _described(task: PluginTask) -> dict[str, Any]:
    return {
        "id": task.id,
        "plugin": task.plugin.name,
        "name": task.name,
        "session": task.session_id,
        "state": task.state,
        "reason": task.reason[:LONGEST_TEXT],
        "progress": task.progress,
        "message": (task.message or "")[:LONGEST_TEXT],
        "started": task.started,
        "ended": task.ended,
    }
