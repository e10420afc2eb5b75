"""The one loop of this process on which threads without a loop have coroutines run, around functions of theirs too.

The coroutines have a copy of the caller's context; the functions run in the caller's thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context, copy_context
from functools import wraps
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from .loopthread import LoopThread

__all__ = ["is_for_thread", "run_around", "run_blocking"]

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")


class _CallThread:
    """The thread of this process whose loop runs the calls of plain threads. It lives as long as the process."""

    def __init__(self) -> None:
        self._thread: LoopThread | None = None
        self._lock = threading.Lock()

    def run(self, call: Coroutine[Any, Any, R], wait: float | None) -> R:
        # Only for the start: calls themselves run side by side.
        with self._lock:
            if self._thread is None or self._thread.is_elsewhere:  # the thread of a fork's parent is not in the fork
                self._thread = LoopThread("calls", "run_blocking(...)")
                # LoopThread starts with a coroutine; there is nothing to begin here.
                self._thread.start(_begin(), None)
        return self._thread.run(call, wait)

    @property
    def is_current(self) -> bool:
        return self._thread is not None and self._thread.is_current


async def _begin() -> None:
    pass


_CALLS: Final = _CallThread()


def run_blocking(call: Coroutine[Any, Any, R], wait: float | None = None) -> R:
    """Run a coroutine on the loop for plain threads, with a copy of the caller's context, and return its result.

    After `wait` seconds (None: never) it is cancelled and TimeoutError raised.
    """
    return _CALLS.run(call, wait)


def is_for_thread() -> bool:
    """Say whether this code runs on the loop for plain threads, so that one of those waits for it."""
    return _CALLS.is_current


def run_around(
    hook: Callable[[A, Callable[[A], Awaitable[B]]], Coroutine[Any, Any, R]], value: A, function: Callable[[A], B]
) -> R:
    """Run a hook that stands around a function, `hook(value, function)`, for a caller that has no loop.

    The function runs in the caller's thread, as often as the hook calls it, with a copy of the hook's context; no loop
    runs there, so that it may run one. What it raises is raised in the hook; KeyboardInterrupt and SystemExit cancel
    the hook, and are raised here.
    """
    calls: SimpleQueue[tuple[Future[B], Context, A] | None] = SimpleQueue()

    @wraps(function)  # a hook may look at what it stands around
    async def call(value: A) -> B:
        answer: Future[B] = Future()
        calls.put((answer, copy_context(), value))
        return await asyncio.wrap_future(answer)

    async def run() -> R:
        try:
            return await hook(value, call)
        finally:
            # Also when the hook fails or is cancelled: the caller's thread waits in `get`.
            calls.put(None)

    begun: list[asyncio.Task[R]] = []

    async def begin() -> None:
        # Kept and not returned: Ctrl-C may come before the caller's thread has the result.
        begun.append(asyncio.create_task(run()))

    try:
        run_blocking(begin())
        while (called := calls.get()) is not None:
            answer, context, given = called
            try:
                # In the hook's context: an agent that the function starts finds its run there.
                result = context.run(function, given)
            except Exception as error:  # noqa: BLE001 - raised in the hook, which stands around it
                answer.set_exception(error)
            else:
                answer.set_result(result)
    # Of the function, or Ctrl-C in `get`: a loop does not outlive KeyboardInterrupt and SystemExit.
    except BaseException:
        run_blocking(_cancelled(begun))
        raise
    return run_blocking(_result_of(begun[0]))


async def _cancelled(tasks: list[asyncio.Task[R]]) -> None:
    for task in tasks:
        task.cancel()
        await asyncio.wait((task,))


async def _result_of(task: asyncio.Task[R]) -> R:
    return await task
