"""The tasks of one run that are in the middle of a tool call or a request to the model."""

from __future__ import annotations

import asyncio
from typing import Final

from attrs import define, field

__all__ = ["GRACE", "InFlight"]

GRACE: Final = 1.0
"""Seconds that cancelled tasks have to end, before AGENT_END is emitted without waiting for them."""


@define(eq=False)
class InFlight:
    """Tasks with a call or request of one run under way. Lives as long as the run."""

    _tasks: dict[asyncio.Task[object], int] = field(init=False, factory=dict)
    _all_ended: asyncio.Event = field(init=False, factory=asyncio.Event)

    def track(self) -> TrackedTask:
        """Return a context manager that counts the current task as busy; emit the end of its work before leaving it."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        return TrackedTask(self, task)

    def begin(self, task: asyncio.Task[object]) -> None:
        """Count a task as busy; each call needs one of `end`."""
        self._tasks[task] = self._tasks.get(task, 0) + 1

    def end(self, task: asyncio.Task[object]) -> None:
        """Undo one `begin` of a task."""
        self._tasks[task] -= 1
        if not self._tasks[task]:
            del self._tasks[task]
        if not self._tasks:
            self._all_ended.set()

    async def stop(self) -> None:
        """Cancel the busy tasks and wait for `GRACE` seconds at most, so that the run's own end is emitted last.

        A framework may end a cancelled run before the tasks that it started. Cancelling stops the waiting.
        """
        if not self._tasks:
            return
        self._all_ended.clear()
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(GRACE):
                await self._all_ended.wait()
        except TimeoutError:
            return


class TrackedTask:
    """Counts one task as busy while entered.

    A class, since each step enters two, and a generator-based context manager costs three times as much.
    """

    __slots__ = ("_in_flight", "_task")

    def __init__(self, in_flight: InFlight, task: asyncio.Task[object]) -> None:
        self._in_flight = in_flight
        self._task = task  # which may not be the current one when its coroutine is closed

    def __enter__(self) -> None:
        self._in_flight.begin(self._task)

    def __exit__(self, *_: object) -> None:
        self._in_flight.end(self._task)
