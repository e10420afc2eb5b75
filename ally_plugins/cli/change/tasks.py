"""`tasks`: the background tasks of plugins in the running hosts, and cancelling one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.exits import DONE, REFUSED
from ally_plugins.cli.shell.operators import require_operator
from ally_plugins.cli.shell.running_hosts import ANSWER_TIMEOUT
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, preview, print_json, table, when
from ally_plugins.contract.values.errors import NotFoundRefused
from ally_plugins.host.control.client import call_all, hosts_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ally_plugins.cli.shell.state import State
    from ally_plugins.host.control.client import HostAnswer

__all__ = ["tasks"]

_HEADINGS: Final = ("id", "plugin", "task", "state", "started", "says")
_NOT_THERE: Final = "there is no task"
"""How the error begins of a host that does not have the task: answers carry a text and no code."""


@command("tasks")
@click.option("--cancel", "task_id", metavar="ID", help="Ask this task to end.")
@click.option("--all", "with_ended", is_flag=True, help="Show the tasks that ended last, too.")
def tasks(state: State, task_id: str | None, with_ended: bool) -> None:  # noqa: FBT001 - click's signature
    """Show what plugins do in the background of the running hosts of this home.

    A task goes on across the turns of a conversation, until it ends, is cancelled, or its plugin stops. One that is
    asked to end does what it has to do first; the exit code is 1 while it still runs.

    \b
    Example:
      ally-plugins tasks
      ally-plugins tasks --cancel t-67922706ac-1
    """
    if task_id is not None:
        _cancel(state, task_id)
        return
    found = call_all(hosts_of(state.home), "tasks", None, ANSWER_TIMEOUT)
    shown = [{"pid": each.host.pid, **task} for each in found for task in _tasks(each) if with_ended or _runs(task)]
    silent = [each.host.pid for each in found if each.result is None]
    if state.as_json:
        print_json({"tasks": shown, "silent": silent})
        return
    rows = [_row(task) for task in shown]
    for line in table(_HEADINGS, rows) or [_nothing(found, silent)]:
        echo(line)
    for pid in silent:
        echo(f"host {pid} does not answer", to_stderr=True)


def _nothing(found: Sequence[HostAnswer], silent: Sequence[int]) -> str:
    if not found:
        return "no host runs"
    return "no task runs in the hosts that answer" if silent else "no task runs"


def _tasks(answer: HostAnswer) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = (answer.result or {}).get("tasks", ())
    return found


def _runs(task: Mapping[str, Any]) -> bool:
    return task.get("state") == "running"


def _row(task: Mapping[str, Any]) -> tuple[str, ...]:
    progress = task.get("progress")
    part = f" {progress:.0%}" if isinstance(progress, (int, float)) else ""
    state = f"{inert(task.get('state'))}{part if _runs(task) else ''}"
    text = task.get("reason") or task.get("message") or "-"
    return (inert(task.get("id")), inert(task.get("plugin")), inert(task.get("name")), state,
            when(task.get("started")), preview(text))  # fmt: skip


def _cancel(state: State, task_id: str) -> None:
    require_operator(state.home)
    hosts = hosts_of(state.home)
    # All of them, since an id does not name its host; no two hosts have a task of one id.
    answers = call_all(hosts, "cancel_task", {"task": task_id}, ANSWER_TIMEOUT)
    found = next((each for each in answers if each.result is not None), None)
    if found is None or found.result is None:
        raise NotFoundRefused(_why_not(task_id, answers))
    task = {"pid": found.host.pid, **found.result}
    if state.as_json:
        print_json(task)
    else:
        echo(_ended(task))
    click.get_current_context().exit(REFUSED if _runs(task) else DONE)


def _ended(task: Mapping[str, Any]) -> str:
    what = f"{inert(task.get('name'))} of {inert(task.get('plugin'))}"
    if _runs(task):
        return f"{what} was asked to end, and still runs in host {task['pid']}"
    if not task.get("was_running"):
        return f"{what} had ended before: {inert(task.get('state'))}"
    return f"{what} has ended in host {task['pid']}: {inert(task.get('reason') or task.get('state'))}"


def _why_not(task_id: str, answers: Sequence[HostAnswer]) -> str:
    if not answers:
        return f"task {task_id!r:.80} cannot be cancelled: no host runs"
    others = [f"host {each.host.pid}: {each.error}" for each in answers if not each.error.startswith(_NOT_THERE)]
    trouble = f" ({inert('; '.join(others))})" if others else ""
    return f"no running host has a task {task_id!r:.80}{trouble}; to see what runs: ally-plugins tasks"
