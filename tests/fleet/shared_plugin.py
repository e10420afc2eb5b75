"""Plugins that tests share between hosts."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from ally_plugins import Allow, Ally, Deny, RefusedError, ToolCall, ToolCallEnd, hookimpl, tool

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


class Fold:
    """Writes down each event that it is given: what comes twice stands there twice."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self.file = (ally.data_dir / "seen.txt").open("a", buffering=1, encoding="utf-8")

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        """Write it down; end the process, fail or take long where its output says so."""
        marker = self.ally.data_dir / "died"
        said = event.output if isinstance(event.output, str) else ""
        if said == "die" and not marker.exists():
            marker.write_text("")
            os.kill(os.getpid(), 9)
        if said == "fail":
            raise ValueError("not today")
        if said == "slow":
            await asyncio.sleep(0.05)
        self.file.write(f"{event.id} {event.tool_name} {said}\n")

    @hookimpl
    async def ally_start(self) -> None:
        """Say what it can do at a worker, where it has no host."""
        try:
            await self.ally.add_message("user", "hello", session_id="s")
        except RefusedError as error:
            self.ally.data_dir.joinpath("refused.txt").write_text(str(error), "utf-8")
