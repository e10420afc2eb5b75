"""A lock for tasks of several event loops, which `asyncio.Lock` is not."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future

from attrs import define, field

__all__ = ["CrossLoopLock"]


@define(eq=False)
class CrossLoopLock:
    """A lock whose holders may run on any loop in any thread, in the order in which they came.

    An asynchronous context manager. Cancelling gives up the wait, and hands the lock on if it came at the same moment.
    """

    _is_taken: bool = field(init=False, default=False)
    _waiting: deque[Future[None]] = field(init=False, factory=deque)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    async def __aenter__(self) -> None:
        # A thread lock, held for some instructions and never over an `await`.
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return
            handed: Future[None] = Future()
            self._waiting.append(handed)
        try:
            # Not the future itself: a cancelled `await` would cancel it, and `_hand_on` could not set it then.
            await asyncio.wait((asyncio.wrap_future(handed),))
        except asyncio.CancelledError:
            with self._lock:
                if handed in self._waiting:
                    self._waiting.remove(handed)
                else:
                    # It came with the cancellation: kept, nobody would ever free it.
                    self._hand_on()
            raise

    async def __aexit__(self, *_: object) -> None:
        with self._lock:
            self._hand_on()

    def _hand_on(self) -> None:
        # `_is_taken` stays set: the lock goes over, so that nobody who comes now is ahead of those who wait.
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._is_taken = False
