"""Deadlines that share one timer of the loop, since most are kept: a timer each is made, sorted and cancelled in vain.

Counted: with `asyncio.timeout` around it, the call of a daemon's tool is 248 calls of functions in the host, so 234.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Deadline", "Deadlines", "SharedTimer"]


class SharedTimer:
    """Strikes when the first of several things is due, or before; only for the thread of the loop that runs.

    `look` is called with the loop's time; it ends what is due by then, and returns when the next is, None for nothing.
    """

    def __init__(self, look: Callable[[float], float | None]) -> None:
        self._look = look
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def strike_by(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        """Strike at this time of the running loop, or before."""
        if self._timer is not None:
            # A host that was started anew has another loop, and nothing strikes on the one before.
            if self._loop is loop and self._timer.when() <= at:
                return
            self._timer.cancel()
        self._loop, self._timer = loop, loop.call_at(at, self._strike, loop, at)

    def cancel(self) -> None:
        """Strike no more, until the next `strike_by`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _strike(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        self._timer = None
        following = self._look(max(at, loop.time()))  # a loop may be early by the resolution of its clock
        if following is not None:
            self.strike_by(loop, following)


class Deadlines:
    """Makes deadlines of tasks, which share a timer; only for the thread of the loop that runs."""

    def __init__(self) -> None:
        self.entered: set[Deadline] = set()
        """Those whose block runs."""
        self.timer = SharedTimer(self._expire_due)

    def within(self, seconds: float) -> Deadline:
        """Return a context manager that ends its block after so many seconds, as `asyncio.timeout` does."""
        return Deadline(self, seconds)

    def _expire_due(self, now: float) -> float | None:
        due = [each for each in self.entered if each.at <= now]
        self.entered.difference_update(due)
        for each in due:
            each.expire()
        return min((each.at for each in self.entered), default=None)


class Deadline:
    """One block with a deadline: when that comes, the task that is in it is cancelled, and it raises TimeoutError.

    A cancellation of the task by anybody else comes out as that.
    """

    __slots__ = ("_cancelling", "_deadlines", "_seconds", "_task", "at", "has_expired")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self.has_expired = False
        """Whether the deadline came while the block ran."""

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._task, self._cancelling, self.at = task, task.cancelling(), loop.time() + self._seconds
        self._deadlines.entered.add(self)
        self._deadlines.timer.strike_by(loop, self.at)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # The timer stays, for the next: to cancel it each time is what it is to save.
        self._deadlines.entered.discard(self)
        if self.has_expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """End the block, whose deadline has come."""
        self.has_expired = True
        self._task.cancel()
