"""Waiting for answers of the server, for as long as a busy one takes, and no longer than its connection lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from .connection import raise_if_cancelled

__all__ = ["ANSWER_S", "Answers"]

_T = TypeVar("_T")

ANSWER_S: Final = 60.0
"""Seconds that the server may take to answer: it syncs what each of all homes has sent, one after the other. Whoever
gives up sooner sends again, which makes it slower still; a connection that breaks ends the wait at once."""


class Answers:
    """Waits for answers over one connection; `give_up` is for one that breaks."""

    def __init__(self) -> None:
        self._asking: Final[set[asyncio.Future[Any]]] = set()

    def give_up(self) -> None:
        """End the waits: no answer will come over the next connection."""
        for asking in [*self._asking]:
            asking.cancel()

    async def wait(self, asking: Coroutine[Any, Any, _T]) -> _T:
        """Ask, and return the answer. Raises ConnectionResetError once it is given up; cancelling ends it."""
        task = asyncio.ensure_future(asking)
        self._asking.add(task)
        try:
            answer = await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise
            raise ConnectionResetError("the connection broke") from None
        finally:
            self._asking.discard(task)
        raise_if_cancelled()
        return answer
