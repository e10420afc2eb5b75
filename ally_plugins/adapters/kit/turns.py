"""One at a time, for tasks of several event loops."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future

from attrs import define, field

__all__ = ["Turns"]


@define(eq=False)
class Turns:
    """A lock whose holders may run on any loop in any thread, in the order in which they came.

    An asynchronous context manager. Cancelling gives up the wait, and passes a turn on that came at the same moment.
    """

    _is_taken: bool = field(init=False, default=False)
    _waiting: deque[Future[None]] = field(init=False, factory=deque)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    async def __aenter__(self) -> None:
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return
            turn: Future[None] = Future()
            self._waiting.append(turn)
        try:
            await asyncio.wait((asyncio.wrap_future(turn),))
        except asyncio.CancelledError:
            with self._lock:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._pass_on()
            raise

    async def __aexit__(self, *_: object) -> None:
        with self._lock:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._is_taken = False
