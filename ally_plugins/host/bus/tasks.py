"""The background tasks of plugins: each a coroutine that outlives turns and ends with a state and a reason."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from attrs import define, field

from ally_plugins.contract.values.errors import NotFoundRefused, RefusedError
from ally_plugins.contract.values.ids import new_id
from ally_plugins.contract.values.scope import SCOPE, Scope
from ally_plugins.runtime.lanes.plugin import Plugin, describe
from ally_plugins.runtime.lanes.requests import Crash
from ally_plugins.runtime.lanes.teardown import is_at_work

__all__ = ["PluginTask", "Tasks"]

KEPT: Final = 256
"""Ended tasks that stay listed."""


@define(eq=False)
class PluginTask:
    """One task of one plugin, as the host, the person and the operator see it.

    `state` is running, done, failed or cancelled, and `reason` says why it ended, or was asked to. `progress` is from 0
    to 1, `message` the last one it reported. `started` and `ended` are Unix ms.
    """

    id: str
    name: str
    plugin: Plugin
    session_id: str | None
    origin: tuple[str, ...] = ()
    """The chain of plugins that led to it, its own last."""
    state: str = "running"
    reason: str = ""
    progress: float | None = None
    message: str | None = None
    started: int = 0
    ended: int | None = None
    _running: asyncio.Task[Any] | None = None
    _result: asyncio.Future[Any] = field(factory=lambda: asyncio.get_running_loop().create_future())
    _thread: int = field(factory=threading.get_ident)

    def cancel(self, reason: str = "cancelled by its plugin") -> bool:
        """Cancel the task and keep the reason; say whether it was still running. From any thread."""
        if self._running is None or self.state != "running":
            return False
        # The first reason stays: that is what it ends of, whoever cancels it once more.
        self.reason = self.reason or reason
        if threading.get_ident() != self._thread:
            # A task is cancelled on its own loop only; from another thread that is asked for.
            self._result.get_loop().call_soon_threadsafe(self._running.cancel)
            return True
        return self._running.cancel()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.state == "running"

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, for `timeout` seconds at most (None: for ever), and say whether it has come.

        Cancelling stops the waiting and nothing else.
        """
        await asyncio.wait([self._result], timeout=timeout)
        return not self.is_running

    async def result(self) -> Any:
        """Wait for the end; return what the coroutine returned or raise what it raised.

        Raises CancelledError when the task was cancelled. Cancelling the waiting does not cancel the task.
        """
        # The future is the task's end for everybody who waits, and not this caller's to cancel.
        return await asyncio.shield(self._result)


@define(eq=False)
class Tasks:
    """All tasks of a host. `changed` is called at every start, report and end, with the message or reason if any."""

    now_ms: Callable[[], int]
    changed: Callable[[PluginTask, str | None], None] = lambda _, __: None
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
        task = PluginTask(new_id("t"), name, plugin, session_id, origin, started=self.now_ms())
        self._tasks[task.id] = task
        return task

    def drop(self, task: PluginTask) -> None:
        """Forget a prepared task that is not to begin."""
        self._tasks.pop(task.id, None)

    def start(self, task: PluginTask, work: Coroutine[Any, Any, Any]) -> None:
        """Begin a prepared task."""
        # The chain without the plugin's own name at its end, which the bus adds to each call.
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
            self._cancelled(task, task.reason or "it was cancelled")

    def report(self, task: PluginTask, progress: float | None, message: str | None) -> None:
        """Keep a task's progress (0 to 1) and message."""
        task.progress = progress
        task.message = message if message is not None else task.message
        self.changed(task, message)

    def cancel(self, task_id: str, reason: str = "cancelled by the operator") -> PluginTask:
        """Cancel a task, for the person or the operator, and return it; await its `wait` for the end.

        A task that has ended stays as it is. Raises NotFoundRefused when there is no such task.
        """
        task = self.find(task_id)
        if task is None:
            running = ", ".join(f"{each.id} ({each.plugin.name}: {each.name})" for each in self if each.is_running)
            raise NotFoundRefused(f"there is no task {task_id!r:.80}; running are: {running or 'none'}")
        task.cancel(reason)
        return task

    def cancel_all(self, reason: str, plugin: str | None = None) -> list[asyncio.Task[Any]]:
        """Cancel the tasks of a plugin, or all, with a reason; return those that have to be waited for."""
        return [
            task._running  # noqa: SLF001
            for task in self
            if plugin in {None, task.plugin.name} and task.cancel(reason) and task._running is not None  # noqa: SLF001
        ]

    async def _run(self, task: PluginTask, work: Coroutine[Any, Any, Any], scope: Scope) -> None:
        SCOPE.set(scope)
        try:
            with task.plugin.at_work():
                result = await work
        except asyncio.CancelledError:
            self._cancelled(task, task.reason or "it was cancelled")
        # The person's; asyncio ends the loop with it.
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if isinstance(error, GeneratorExit) and not is_at_work(task._running):  # noqa: SLF001
                self._cancelled(task, f"{task.reason}; it ignored that and was put down")
                raise
            if isinstance(error, RefusedError) and task.reason:  # its last call was refused since it is being cancelled
                self._cancelled(task, task.reason)
            else:
                self._failed(task, error)
        else:
            self._end(task, "done", "")
            if not task._result.done():  # noqa: SLF001
                task._result.set_result(result)  # noqa: SLF001

    def _cancelled(self, task: PluginTask, reason: str) -> None:
        self._end(task, "cancelled", reason)
        task._result.cancel()  # noqa: SLF001

    def _failed(self, task: PluginTask, error: BaseException) -> None:
        self._end(task, "failed", task.plugin.describe(error))
        # A future takes no StopIteration, and SystemExit would end whoever awaits the result, not the plugin.
        carried = error if isinstance(error, Exception) and not isinstance(error, StopIteration) else None
        task._result.set_exception(carried or RuntimeError(describe(error)))  # noqa: SLF001
        task._result.exception()  # noqa: SLF001 - else asyncio logs it when `result` is never awaited
        if not isinstance(error, RefusedError):
            task.plugin.crashed(Crash(task.plugin.name, f"task {task.name}", error))

    def _end(self, task: PluginTask, state: str, reason: str) -> None:
        task.state, task.reason, task.ended = state, reason, self.now_ms()
        self.changed(task, reason or None)

    def _forget_oldest(self) -> None:
        ended = [task.id for task in self._tasks.values() if task.state != "running"]
        for task_id in ended[: max(0, len(ended) - KEPT)]:
            del self._tasks[task_id]
