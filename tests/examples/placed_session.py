"""What a host does with the plugin of examples/placed_plugin: the same whatever its placement, printed as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from ally_plugins import Host, ToolCall, ToolCallEnd


async def play() -> dict[str, Any]:
    """Return what came of three failures: messages, verdicts before and after, and what the tool tells."""
    async with asyncio.timeout(60), Host(app="examples") as host:
        session = host.session("s1")
        call = ToolCall("bash", {"command": "make"})
        before = await session.gate_tool_call(call)
        for _ in range(3):
            session.emit(ToolCallEnd(tool_name="bash", success=False, error="exit status 2"))
        after = await session.gate_tool_call(call)
        told = await host.call_tool("failure-counts", {}, session_id="s1")
        await session.drained()
        delivered = await session.safe_point("step")
        return {
            "before": before.is_allowed,
            "after": after.reason,
            "messages": [(message.content, message.source_plugin) for message in delivered],
            "failures": told.data["failures"],
            "is_in_host": told.data["pid"] == os.getpid(),
        }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(play())) + "\n")
