"""Threads for `def` hooks and handlers.

Daemon threads of our own, not an executor's: an executor joins its threads when the interpreter ends, so that one that
never returns would keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["HookExit", "Worker", "Workers"]

_Job = tuple["asyncio.Future[Any]", contextvars.Context, Callable[[], Any]]


class HookExit(Exception):
    """Something that is not an Exception, such as SystemExit, was raised: a future or a task must not carry it."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__(f"{type(raised).__name__}: {raised}")
        self.raised = raised


class Worker:
    """A thread that runs one function after the other; it starts with the first one and ends with `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, function: Callable[[], Any]) -> Any:
        """Run a function in the thread, in the caller's context, and return what it returns.

        What it raises is raised here, SystemExit and KeyboardInterrupt wrapped in `HookExit`. Cancelling stops the
        waiting; the function itself cannot be stopped.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._jobs.put((future, contextvars.copy_context(), function))
        return await future

    def close(self) -> None:
        """Let the thread end after what it is doing; never waits."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            _do(*job)
            del job  # or what it holds would live until the next one


class Workers:
    """Threads that each run one function at a time; an idle one is used again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle: list[Worker] = []
        self._is_closed = False

    async def run(self, function: Callable[[], Any]) -> Any:
        """Run a function in a thread of its own, as `Worker.run` does."""
        worker = self._idle.pop() if self._idle else Worker(self._name)
        try:
            result = await worker.run(function)
        except asyncio.CancelledError:
            worker.close()  # once it has ended what nobody waits for any more
            raise
        except BaseException:
            self._keep(worker)
            raise
        self._keep(worker)
        return result

    def close(self) -> None:
        """Let the threads end, each after what it is doing."""
        self._is_closed = True
        for worker in self._idle:
            worker.close()
        self._idle.clear()

    def _keep(self, worker: Worker) -> None:
        if self._is_closed:
            worker.close()
        else:
            self._idle.append(worker)


def _do(future: asyncio.Future[Any], context: contextvars.Context, function: Callable[[], Any]) -> None:
    result: Any = None
    error: Exception | None = None
    try:
        result = context.run(function)
    except Exception as raised:  # noqa: BLE001 - told to who waits
        error = raised
    except BaseException as raised:  # noqa: BLE001 - a plugin's sys.exit must not end the thread
        error = HookExit(raised).with_traceback(raised.__traceback__)
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        future.get_loop().call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):  # a future refuses to carry it
        future.set_exception(RuntimeError(f"StopIteration: {error}"))
    else:
        future.set_exception(error)
