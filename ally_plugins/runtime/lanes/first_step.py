"""A hook's first step, run in the caller's turn of the loop: most gates need no other.

The hook belongs to the task of its lane all the same: that is the current task meanwhile, its context is the one that
the hook sees, and it goes on with what is left. Waking it for the first step would take a turn of the loop, two futures
and a deadline for each gate that has its verdict at hand.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from contextvars import Context

__all__ = ["Begun", "run_as"]

T = TypeVar("T")


def run_as(task: asyncio.Task[Any], context: Context, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function as if a task that is suspended were running it, in this `context`, which nobody has entered."""
    # Documented for makers of tasks ("Extending asyncio"): what the hook enters (a timeout, a group) is its task's.
    loop, caller = task.get_loop(), asyncio.current_task()
    if caller is not None:
        asyncio.tasks._leave_task(loop, caller)  # noqa: SLF001
    asyncio.tasks._enter_task(loop, task)  # noqa: SLF001
    try:
        return context.run(function, *arguments)
    finally:
        asyncio.tasks._leave_task(loop, task)  # noqa: SLF001
        if caller is not None:
            asyncio.tasks._enter_task(loop, caller)  # noqa: SLF001


class Begun:
    """What is left of a coroutine that waits for something, or has raised: calling it gives what a task awaits."""

    __slots__ = ("_error", "_waits_for", "_work")

    def __init__(
        self, work: Coroutine[Any, Any, Any] | None, waits_for: Any = None, error: BaseException | None = None
    ) -> None:
        self._work = work
        self._waits_for = waits_for
        self._error = error

    @types.coroutine
    def __call__(self) -> Generator[Any, Any, Any]:
        """Go on; called once, and awaited by the task that the first step was run for."""
        if self._error is not None:
            raise self._error
        work: Any = self._work
        waits_for = self._waits_for
        while True:
            try:
                # What the first step gave its task to wait for, a future or nothing, the task is given now.
                yield waits_for
            except GeneratorExit:
                work.close()
                raise
            except BaseException as error:  # noqa: BLE001 - a cancellation, which is the hook's to take
                try:
                    waits_for = work.throw(error)
                except StopIteration as end:
                    return end.value
            else:
                return (yield from work)
