"""The background work that plugins start: each a coroutine that survives turns and ends with a state and a reason."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from attrs import define, field

from .errors import RefusedError
from .ids import new_id
from .runtime.ending import is_at_work
from .runtime.lanes import Crash
from .runtime.plugin import Plugin, describe
from .scope import SCOPE, Scope

__all__ = ["PluginTask", "Tasks"]

KEPT: Final = 256
"""Ended tasks that stay listed."""


@define(eq=False)
class PluginTask:
    """One task of one plugin; see `handle.Task` for what plugins use of it."""

    id: str
    name: str
    plugin: Plugin
    session_id: str | None
    origin: tuple[str, ...] = ()
    """The chain of plugins that led to it, its own last."""
    state: str = "running"
    reason: str = ""
    progress: float | None = None
    _running: asyncio.Task[Any] | None = None
    _ended: asyncio.Future[Any] = field(factory=lambda: asyncio.get_running_loop().create_future())
    _thread: int = field(factory=threading.get_ident)

    def cancel(self, reason: str = "cancelled by its plugin") -> bool:
        """Ask the task to end, and record the reason; say whether it was still running. From any thread."""
        if self._running is None or self.state != "running":
            return False
        self.reason = self.reason or reason
        if threading.get_ident() != self._thread:
            self._ended.get_loop().call_soon_threadsafe(self._running.cancel)
            return True
        return self._running.cancel()

    async def result(self) -> Any:
        """Wait for the end; return what the coroutine returned or raise what it raised.

        Raises CancelledError when the task was cancelled. Cancelling the waiting does not cancel the task.
        """
        return await asyncio.shield(self._ended)


@define(eq=False)
class Tasks:
    """All tasks of a host. `changed` is told of every start, progress and end, with a few words."""

    changed: Callable[[PluginTask, str | None], None]
    _tasks: dict[str, PluginTask] = field(init=False, factory=dict)

    def __iter__(self) -> Iterator[PluginTask]:
        return iter(list(self._tasks.values()))

    def running(self, plugin: str) -> int:
        """Return how many of a plugin's tasks are running."""
        return sum(task.plugin.name == plugin and task.state == "running" for task in self._tasks.values())

    def find(self, task_id: str | None) -> PluginTask | None:
        """Return a task by its id."""
        return self._tasks.get(task_id) if task_id is not None else None

    def prepare(self, plugin: Plugin, name: str, session_id: str | None, origin: tuple[str, ...] = ()) -> PluginTask:
        """Return a task that has not begun, so that it can be recorded before it does; it counts as running."""
        self._forget_oldest()
        task = PluginTask(new_id("t"), name, plugin, session_id, origin)
        self._tasks[task.id] = task
        return task

    def drop(self, task: PluginTask) -> None:
        """Forget a prepared task that is not to begin."""
        self._tasks.pop(task.id, None)

    def start(self, task: PluginTask, work: Coroutine[Any, Any, Any]) -> None:
        """Begin a prepared task."""
        scope = Scope(task.plugin.name, task.session_id, task.origin[:-1], cause=task.id, task_id=task.id)
        task._running = asyncio.get_running_loop().create_task(  # noqa: SLF001 - this module's own class
            self._run(task, work, scope), name=f"ally-task-{task.plugin.name}-{task.name}"
        )
        task.plugin.watch(task._running)  # noqa: SLF001
        task._running.add_done_callback(lambda _: self._never_begun(task, work))  # noqa: SLF001
        self.changed(task, None)

    def _never_begun(self, task: PluginTask, work: Coroutine[Any, Any, Any]) -> None:
        """End a task that was cancelled before its first step: then nothing of `_run` has run."""
        if task.state == "running":
            work.close()
            self._end(task, "cancelled", task.reason or "it was cancelled")
            task._ended.cancel()  # noqa: SLF001

    def report(self, task: PluginTask, progress: float | None, message: str | None) -> None:
        """Take a task's word on how far it is."""
        task.progress = progress
        self.changed(task, message)

    def cancel_all(self, reason: str, plugin: str | None = None) -> list[asyncio.Task[Any]]:
        """End the tasks of a plugin, or all, with a reason; return those that have to be waited for."""
        return [
            task._running  # noqa: SLF001
            for task in self
            if plugin in {None, task.plugin.name} and task.cancel(reason) and task._running is not None  # noqa: SLF001
        ]

    async def _run(self, task: PluginTask, work: Coroutine[Any, Any, Any], scope: Scope) -> None:
        SCOPE.set(scope)
        try:
            result = await work
        except asyncio.CancelledError:
            self._end(task, "cancelled", task.reason or "it was cancelled")
            task._ended.cancel()  # noqa: SLF001
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if isinstance(error, GeneratorExit) and not is_at_work(task._running):  # noqa: SLF001
                self._end(task, "cancelled", f"{task.reason}; it ignored that and was put down")
                task._ended.cancel()  # noqa: SLF001
                raise
            self._end(task, "failed", task.plugin.masked(describe(error)))
            carried = error if isinstance(error, Exception) and not isinstance(error, StopIteration) else None
            task._ended.set_exception(carried or RuntimeError(describe(error)))  # noqa: SLF001
            task._ended.exception()  # noqa: SLF001 - nobody has to ask for it
            if not isinstance(error, RefusedError):
                task.plugin.crashed(Crash(task.plugin.name, f"task {task.name}", error))
        else:
            self._end(task, "done", "")
            if not task._ended.done():  # noqa: SLF001
                task._ended.set_result(result)  # noqa: SLF001

    def _end(self, task: PluginTask, state: str, reason: str) -> None:
        task.state, task.reason = state, reason
        self.changed(task, reason or None)

    def _forget_oldest(self) -> None:
        ended = [task.id for task in self._tasks.values() if task.state != "running"]
        for task_id in ended[: max(0, len(ended) - KEPT)]:
            del self._tasks[task_id]
