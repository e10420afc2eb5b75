"""Plugins that the tests of placements run inline and in a process: hooks that run long, badly, or against their end.

What a hook does is the name of the tool in its event or question.
"""

# ruff: noqa: ARG002 - hooks name what they are given, used or not

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from ally_plugins import Allow, Event, hookimpl

from .hooks import Plain


class TwoHooks(Plain):
    """Two hooks for one event, the second of which may not pay for the first."""

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        if event.tool_name == "swallow":
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
        else:
            await asyncio.sleep(0.3)

    @hookimpl
    async def ally_event(self, event: Event) -> None:
        if event.type == "TOOL_CALL_END":
            await asyncio.sleep(1.3 if event.extra.get("long") else 0.3)
            self.seen.append(event.seq)


class General(Plain):
    """Hears everything with one hook, and breaks at the end of a tool call."""

    @hookimpl
    async def ally_event(self, event: Event) -> None:
        if event.type == "TOOL_CALL_END":
            raise ValueError("a broken thing")


class Groups(Plain):
    """Swallows its interruptions; the next hook uses what asyncio has that counts cancellations."""

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        if event.tool_name == "swallow":
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
            self.seen.append("swallowed")
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._fail())
                await asyncio.sleep(3600)
        except* ValueError:
            self.seen.append("group")
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(3600)
        except TimeoutError:
            self.seen.append("timeout")

    async def _fail(self) -> None:
        raise ValueError("a broken thing")

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> None:
        self.seen.append("asked")
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)


class InThread(Plain):
    """`def` hooks that take a while, or never end."""

    def _take(self, how: str) -> None:
        if how == "slow":
            time.sleep(0.25)
        if how == "block":
            time.sleep(30)

    @hookimpl
    def ally_tool_call_end(self, event: Any) -> Any:
        self._take(event.tool_name)
        self.seen.append([event.tool_name, event.seq])
        if event.tool_name == "cancelled":
            raise asyncio.CancelledError
        return self._nobody_awaits() if event.tool_name == "coroutine" else None

    async def _nobody_awaits(self) -> None: ...

    @hookimpl
    def ally_gate_tool_call(self, call: Any) -> Allow:
        self.seen.append("asked")
        self._take(call.tool_name)
        self.seen.append("answered")
        return Allow()


class CancelsItself(Plain):
    """Hooks that cancel the task that they run in."""

    async def _cancel(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        await self._cancel()

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> Allow:
        if call.tool_name == "cancel":
            await self._cancel()
        return Allow()
