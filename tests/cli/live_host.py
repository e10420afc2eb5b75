"""An agent for the tests of commands that reach running hosts: it does what each line of its standard input says."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from ally_plugins import Host, ToolCall, ToolCallEnd


async def main() -> None:
    async with Host() as host:
        session = host.session()
        say("ready")
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            say(await obey(host, session, *line.split()))


async def obey(host: Any, session: Any, word: str, *more: str) -> Any:
    if word == "gate":
        ruling = await session.gate_tool_call(ToolCall("bash", {"command": "rm"}, "c1"))
        return [ruling.is_denied, len(ruling.votes)]
    if word == "emit":
        session.emit(ToolCallEnd(tool_name="bash"))
        await session.drained()
        return (await host.call_tool("heard")).data
    if word == "work":
        return (await host.call_tool("work", {"how": more[0]}, session_id=session.id)).output
    if word == "quarantine":
        host.plugins[more[0]]._quarantine("it was too much")  # as five crashes would
        return "done"
    return {name: plugin.state for name, plugin in host.plugins.items()}


def say(what: Any) -> None:
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


asyncio.run(main())
