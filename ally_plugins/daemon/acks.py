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
        """Take an offset whose event has been handled, like all before it."""
        self._latest = offset
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send_all(), name="ally-acks")

    async def finished(self, timeout: float) -> None:
        """Wait until what was handled is acknowledged, `timeout` seconds at most."""
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=timeout)

    async def _send_all(self) -> None:
        try:
            while (offset := self._latest) is not None:
                self._latest = None
                await self._send(offset)
        except AllyError as error:  # it will come with the next one
            self._on_error(error)
        finally:
            self._sending = None
