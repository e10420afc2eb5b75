"""The end of a task that does not want to end, and of one that must not be left in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from typing import Any, Final, TypeVar

__all__ = ["cancel_task", "end_tasks", "finished", "is_at_work", "is_torn_down", "kill_task"]

T = TypeVar("T")

_LAST_STEP: Final = 0.1
"""Seconds that a closed task has to leave the loop; one step of the loop is enough, unless it is very busy."""


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """Await work to its end and return its result; a cancellation is raised only then, however many there were.

    For what a thread does, which nothing stops, and for changes that must not be left half made. Work that fails after
    a cancellation is the cause of what is raised.
    """
    task = asyncio.ensure_future(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            # It does not cancel what it waits for.
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        raise cancellation from (None if task.cancelled() else task.exception())
    return task.result()


async def cancel_task(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has ended, whatever comes of it.

    Cancelling this raises CancelledError, and the task ends alone.
    """
    task.cancel()
    # Not `suppress(CancelledError)` around `await task`, which would swallow a cancellation of the one who waits.
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # seen, so that asyncio does not log it


async def kill_task(task: asyncio.Task[Any]) -> None:
    """End a task that swallows its cancellation, or make the loop forget it; without this `asyncio.run` never returns.

    Closing the coroutine raises GeneratorExit where it waits, which few who swallow CancelledError swallow too.
    Waits a tenth of a second at most; cancelling it only ends the waiting.
    """
    with suppress(RuntimeError, ValueError):  # it ignores that as well, or runs just now
        coroutine: Any = task.get_coro()
        coroutine.close()
    task.cancel()
    await asyncio.wait([task], timeout=_LAST_STEP)
    if not task.done():
        # Documented for makers of loops ("Extending asyncio"): no longer among the tasks that are waited for.
        asyncio.tasks._unregister_task(task)  # noqa: SLF001
    elif not task.cancelled():
        task.exception()  # "cannot reuse already awaited coroutine": expected, and seen


async def end_tasks(tasks: Iterable[asyncio.Task[Any]], grace: float) -> None:
    """Cancel tasks, give them `grace` seconds to end, and kill those that do not.

    Cancelling it leaves those that still run cancelled, and not killed.
    """
    left = list(tasks)
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=grace)
        await asyncio.gather(*(kill_task(task) for task in left if not task.done()))


def is_at_work(task: asyncio.Task[Any] | None) -> bool:
    """Return whether this is the task that runs now; if not, a GeneratorExit in it means that it is being closed."""
    try:
        return asyncio.current_task() is task
    except RuntimeError:  # no loop runs in this thread
        return False


def is_torn_down() -> bool:
    """Return whether everything on the loop is being cancelled, as `asyncio.run` does at its end."""
    return all(task.cancelling() or task.done() for task in asyncio.all_tasks())
