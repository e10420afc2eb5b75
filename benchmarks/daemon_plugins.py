"""The plugins of the daemon benchmarks; `python -m ally_plugins.daemon daemon_plugins:NAME` runs one."""

# ruff: noqa: ARG002 - hooks take what they are given, whatever they do with it

from __future__ import annotations

import time

from ally_plugins import Allow, Ally, ToolCall, ToolCallEnd, hookimpl, tool


class Plain:
    """Starts and stops."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally


class Talker(Plain):
    """Answers, and asks its host again and again."""

    @tool(timeout=600)
    async def echo(self, text: str) -> str:
        """Return the text."""
        return text

    @tool(timeout=600)
    async def read(self, part: str, times: int) -> list[float]:
        """Read a part of the context `times` times; return the seconds that each took."""
        found = []
        for _ in range(times):
            start = time.perf_counter()
            await self.ally.get_context([part])
            found.append(time.perf_counter() - start)
        return found

    @tool(timeout=600)
    async def write(self, text: str, times: int) -> list[float]:
        """Add a message `times` times; return the seconds that each took."""
        found = []
        for _ in range(times):
            start = time.perf_counter()
            await self.ally.add_message("user", text)
            found.append(time.perf_counter() - start)
        return found


class Listener(Plain):
    """Hears events."""

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        """Do nothing."""


class Judge(Plain):
    """Allows everything."""

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Allow:
        """Say yes."""
        return Allow()
