"""The end of a run that a framework does not tell of: it is closed with a task."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.runtime.lanes.teardown import finished

if TYPE_CHECKING:
    from .work import AgentWork

__all__ = ["close_with"]

_WATCHING: Final[set[asyncio.Task[None]]] = set()
"""Loops hold their tasks weakly."""


def close_with(work: AgentWork, task: asyncio.Task[Any]) -> None:
    """Close a run when a task is done, unless it is closed before; AGENT_END says how the task has ended.

    The task may be another loop's. Its loop's end closes the run too.
    """
    loop = task.get_loop()
    if loop is asyncio.get_running_loop():
        _watch(work, task)
    else:
        # `asyncio.wait` works on the task's own loop alone. Raises RuntimeError for one that is closed.
        loop.call_soon_threadsafe(_watch, work, task)


def _watch(work: AgentWork, task: asyncio.Task[Any]) -> None:
    watching = task.get_loop().create_task(_close(work, task), name=f"the end of the run {work.id}")
    _WATCHING.add(watching)
    watching.add_done_callback(_WATCHING.discard)


async def _close(work: AgentWork, task: asyncio.Task[Any]) -> None:
    # A task of its own, and no callback of the other's: `asyncio.run` cancels it at its end and waits for it, so that
    # the host stops in order.
    try:
        await asyncio.wait((task,))
    finally:
        # To its end although the watcher is cancelled: AGENT_END and the host's stop must not be cut off.
        await finished(_close_as(work, task))


async def _close_as(work: AgentWork, task: asyncio.Task[Any]) -> None:
    if not task.done():
        await work.close(cause="the event loop ends")
    elif task.cancelled():
        await work.close(cause="its task was cancelled")
    elif (error := task.exception()) is not None:
        await work.close(error=error)
    else:
        await work.close(cause="its task has ended", interrupted=False)
