"""A plugin with a hook, a gate and a tool, which need not know whether it runs in the host or in a process."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from ally_plugins import Ally, Deny, ToolCall, ToolCallEnd, hookimpl, tool


class FailureWatch:
    """Counts how often each tool has failed in a row."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self.failures: Counter[str] = Counter()

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        """Count, and tell the agent when the limit is reached."""
        if event.success:
            self.failures[event.tool_name] = 0
            return
        self.failures[event.tool_name] += 1
        count = self.failures[event.tool_name]
        if count == self.ally.settings["limit"]:
            print(f"{event.tool_name} reached the limit")  # in a process: see `ally-plugins logs failure-watch`
            await self.ally.add_message("user", f"{event.tool_name} failed {count} times in a row; try another way")

    @hookimpl
    def ally_gate_tool_call(self, call: ToolCall) -> Deny | None:
        """Deny a tool that keeps failing."""
        count = self.failures[call.tool_name]
        return Deny(f"it failed {count} times in a row") if count >= self.ally.settings["limit"] else None

    @tool(name="failure-counts")
    async def failure_counts(self) -> dict[str, Any]:
        """Tell how often each tool has failed in a row, and in which process that was counted."""
        return {"failures": dict(+self.failures), "pid": os.getpid()}
