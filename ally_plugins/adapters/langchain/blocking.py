"""The hooks for threads without a loop: their coroutines run on a loop of ours, and what they call runs here again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from ally_plugins.runtime.lanes.loopthread import LoopThread

__all__ = ["wait_for", "wrapped"]

T = TypeVar("T")

_THREADS: Final[list[LoopThread]] = []
"""The one of this process; a fork makes its own."""


async def _nothing() -> None:
    """Begin."""


def _thread() -> LoopThread:
    if not _THREADS or _THREADS[-1].is_elsewhere:
        made = LoopThread("adapter", "import ally_plugins.adapters.langchain")
        made.start(_nothing(), None)
        _THREADS[:] = [made]
    return _THREADS[-1]


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in the caller's context, and return what it returns. For threads without a loop."""
    return _thread().run(work, None)


def wrapped(hook: Callable[[Any, Any], Coroutine[Any, Any, T]], request: Any, handler: Callable[[Any], Any]) -> T:
    """Run a hook that stands around a handler; the handler is called in this thread, in the hook's context."""
    calls: SimpleQueue[tuple[Future[Any], Context, Any] | None] = SimpleQueue()

    async def call(request: Any) -> Any:
        answer: Future[Any] = Future()
        calls.put((answer, copy_context(), request))
        return await asyncio.wrap_future(answer)

    async def run() -> T:
        try:
            return await hook(request, call)
        finally:
            calls.put(None)

    task = wait_for(_begun(run()))
    while (asked := calls.get()) is not None:
        answer, context, value = asked
        try:
            result = context.run(handler, value)
        except BaseException as error:  # noqa: BLE001 - raised in the hook, which stands around it
            answer.set_exception(error)
        else:
            answer.set_result(result)
    return wait_for(_result(task))


async def _begun(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    return asyncio.create_task(work)


async def _result(task: asyncio.Task[T]) -> T:
    return await task
