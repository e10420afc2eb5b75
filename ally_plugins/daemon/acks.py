"""Acknowledging durable events: the latest offset that was handled, one request at a time.

An event is acknowledged once its hooks have returned, or a hook that failed has been reported: an event that makes a
hook crash must not come again for ever. One that the process died over is not, and comes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ally_plugins.contract.values.errors import AllyError

__all__ = ["Acks"]


class Acks:
    """The acknowledgements of one connection. `send` asks the host to take an offset."""

    def __init__(self, send: Callable[[str], Coroutine[Any, Any, Any]], on_error: Callable[[AllyError], None]) -> None:
        self._send = send
        self._on_error = on_error
        self._latest: str | None = None
        self._sending: asyncio.Task[None] | None = None

    def handled(self, offset: str) -> None:
        """Take the offset of an event that has been handled, as all before it have. Must be called on the loop."""
        self._latest = offset
        # One request at a time: the latest offset covers all before it, so a burst of events costs few.
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send_all(), name="ally-acks")

    async def finished(self, timeout: float) -> None:
        """Wait until what was handled is acknowledged, `timeout` seconds at most; cancelling ends the waiting only."""
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=timeout)

    async def _send_all(self) -> None:
        try:
            while (offset := self._latest) is not None:
                self._latest = None  # before the request: what is handled meanwhile sets it anew
                await self._send(offset)
        except AllyError as error:  # the next acknowledgement covers this offset too
            self._on_error(error)
        finally:
            self._sending = None
