"""Threads for `def` handlers, as many as run at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ally_plugins.runtime.lanes.thread import Worker

__all__ = ["Workers"]


class Workers:
    """Threads that each run one function at a time; an idle one is used again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle: list[Worker] = []
        self._is_closed = False

    async def run(self, function: Callable[[], Any]) -> Any:
        """Run a function in a thread of its own, and return what it returns.

        Raises what it raises, as `Worker.run` does. Cancelling it stops the waiting; the function goes on to its end.
        """
        worker = self._idle.pop() if self._idle else Worker(self._name)
        try:
            result = await worker.run(function)
        except asyncio.CancelledError:
            worker.close()  # it is not idle: it ends after the function that nobody waits for any more
            raise
        except BaseException:
            self._keep(worker)  # the function has ended, if badly: the thread is idle
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
