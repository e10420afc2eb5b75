"""What one run of an agent has begun and not ended: calls of tools, requests to the model."""

from __future__ import annotations

import asyncio
from typing import Final

from attrs import define, field

__all__ = ["GRACE", "InFlight"]

GRACE: Final = 1.0
"""Seconds that what was cancelled has to end, before the agent's end is told without it."""


@define(eq=False)
class InFlight:
    """The tasks in which something of a run is under way. It lives as long as the run."""

    _tasks: dict[asyncio.Task[object], int] = field(init=False, factory=dict)
    _landed: asyncio.Event = field(init=False, factory=asyncio.Event)

    def held(self) -> Held:
        """Count the task that asks as one in which something is under way, `with` it; emit its end before it leaves."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        return Held(self, task)

    def begin(self, task: asyncio.Task[object]) -> None:
        """Count a task in."""
        self._tasks[task] = self._tasks.get(task, 0) + 1

    def end(self, task: asyncio.Task[object]) -> None:
        """Count it out."""
        self._tasks[task] -= 1
        if not self._tasks[task]:
            del self._tasks[task]
        if not self._tasks:
            self._landed.set()

    async def stop(self) -> None:
        """Cancel what is under way and wait for its end, for `GRACE` at most, so that the run's own end comes last.

        A framework may let go of a cancelled run first, and of what it had begun afterwards.
        """
        if not self._tasks:
            return
        self._landed.clear()
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(GRACE):
                await self._landed.wait()
        except TimeoutError:
            return


class Held:
    """What counts one task while it is entered. A class, since each step enters two, and a generator costs thrice."""

    __slots__ = ("_in_flight", "_task")

    def __init__(self, in_flight: InFlight, task: asyncio.Task[object]) -> None:
        self._in_flight = in_flight
        self._task = task  # which may not be the current one when its coroutine is closed

    def __enter__(self) -> None:
        self._in_flight.begin(self._task)

    def __exit__(self, *_: object) -> None:
        self._in_flight.end(self._task)
