"""What one run of an agent has begun and not ended: calls of tools, requests to the model."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
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

    @contextmanager
    def held(self) -> Generator[None]:
        """Count the task that enters as one in which something is under way, until it leaves; emit its end before."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._tasks[task] = self._tasks.get(task, 0) + 1
        try:
            yield
        finally:
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
