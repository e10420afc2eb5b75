"""The background work of this process: coroutines that the host has agreed to, each from `run_task` to its answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from ally_plugins.contract.values.errors import NotFoundRefused

__all__ = ["DaemonTask", "DaemonTasks"]


class DaemonTask:
    """One task; see `handle.Task` for what plugins use of it. It waits for `run_task` before it begins."""

    def __init__(self, task_id: str, name: str, work: Coroutine[Any, Any, Any]) -> None:
        self.id = task_id
        self.name = name
        self.state = "running"
        self._work: Coroutine[Any, Any, Any] | None = work
        self._running: asyncio.Task[Any] | None = None
        self._ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._thread = threading.get_ident()

    def cancel(self) -> bool:
        """Cancel the task; return whether it was still running. May be called from any thread."""
        if self.state != "running":
            return False
        if threading.get_ident() != self._thread:
            # What it does by then decides: it may have ended before the loop comes to this.
            self._ended.get_loop().call_soon_threadsafe(self._cancel)
            return True
        self._cancel()
        return True

    async def result(self) -> Any:
        """Wait for the end; return what the coroutine returned or raise what it raised.

        Raises CancelledError when the task was cancelled. Cancelling the waiting does not cancel the task.
        """
        # Shielded: the future is every waiter's, and one that is cancelled must not cancel it for the others.
        return await asyncio.shield(self._ended)

    async def run(self) -> None:
        """Run the coroutine to its end, in the asyncio task of the `run_task` request.

        Raises what it raises. Cancelling it cancels the coroutine.
        """
        # Taken out first: `close` would raise for a coroutine that runs.
        work, self._work = self._work, None
        if work is None:
            raise asyncio.CancelledError
        self._running = asyncio.current_task()
        try:
            result = await work
        except asyncio.CancelledError:
            self._end("cancelled")
            raise
        except BaseException as error:
            self._end("failed")
            # A future refuses StopIteration; SystemExit in it would be raised by whoever reads it, and end the process.
            is_plain = isinstance(error, Exception) and not isinstance(error, StopIteration)
            self._ended.set_exception(error if is_plain else RuntimeError(f"{type(error).__name__}: {error}"))
            self._ended.exception()  # nobody has to ask for it
            raise
        self._end("done")
        if not self._ended.done():
            self._ended.set_result(result)

    def close(self) -> None:
        """End a task that has not begun."""
        if self._work is not None:
            self._work.close()
            self._work = None
            self._end("cancelled")

    def _cancel(self) -> None:
        if self._running is not None:
            self._running.cancel()
        else:
            self.close()

    def _end(self, state: str) -> None:
        self.state = state
        if state == "cancelled":
            self._ended.cancel()


class DaemonTasks:
    """The tasks that the host has agreed to and that have not begun yet, by id."""

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        self._waiting: dict[str, DaemonTask] = {}

    def add(self, task_id: str, name: str, work: Coroutine[Any, Any, Any]) -> DaemonTask:
        """Keep a coroutine until the host sends `run_task`."""
        task = DaemonTask(task_id, name, work)
        self._waiting[task_id] = task
        return task

    def take(self, task_id: object) -> DaemonTask:
        """Return the task that is to begin. Raises NotFoundRefused."""
        task = self._waiting.pop(task_id, None) if isinstance(task_id, str) else None
        if task is None:
            raise NotFoundRefused(f"{self.plugin!r} has started no task {task_id!r:.80}", plugin=self.plugin)
        return task

    def close(self) -> None:
        """Close the coroutines that have not begun."""
        for task in self._waiting.values():
            task.close()
        self._waiting.clear()
