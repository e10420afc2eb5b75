"""Plugins that tests share between hosts."""

from __future__ import annotations

import os
from typing import Any

from ally_plugins import Allow, Ally, Deny, ToolCall, hookimpl, tool

HOSTS: list[str] = []  # the module's: what every host's instance sees


class Guard:
    """Denies `rm`, and says where it runs."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self.seen: list[str] = []
        self.longest = 0
        HOSTS.append(ally.name)

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Any:
        """Deny `rm`, and end the process at `die`."""
        self.seen.append(call.tool_name)
        self.longest = max(self.longest, len(str(call.arguments.get("command", ""))))
        if call.tool_name == "die":
            os.kill(os.getpid(), 9)
        return Deny("not today") if call.tool_name == "rm" else Allow()

    @tool
    def where(self) -> dict[str, Any]:
        """Say which process this is, what its instance has seen, and how many instances there were."""
        place = {"pid": os.getpid(), "instances": len(HOSTS), "data": str(self.ally.data_dir)}
        return {**place, "seen": self.seen, "longest": self.longest}
