"""One trial of an agent in a network of its own: three calls, of which a gate denies the second.

Run as `python -m ally_plugins.adapters.coding.offline.trial AGENT PROGRAM FOLDER`, by `verify`, in a namespace with
nothing but loopback, which is down there. What was seen is written to `seen.json` in the folder.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.adapters.coding.client.client_files import lay_client
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.adapters.coding.serving.hook_socket import HookSocket
from ally_plugins.adapters.coding.serving.server import HookServer
from ally_plugins.adapters.coding.settings.connections import connect, connection_of
from ally_plugins.catalog.home.folder import Home
from ally_plugins.contract.markers import hookimpl
from ally_plugins.contract.values.verdicts import Deny
from ally_plugins.host.host import Host

from .agents import prepare
from .scripted_model import ScriptedModel, command_step

if TYPE_CHECKING:
    from ally_plugins.contract.handle import Ally
    from ally_plugins.contract.values.conversation import ToolCall

__all__ = ["AFTER", "BEFORE", "DENIED", "REASON", "SECONDS", "SEEN"]

BEFORE: Final = "before"
DENIED: Final = "denied"
AFTER: Final = "after"
"""Files that the three calls make."""

REASON: Final = "ally-plugins verifies that this is denied"
SEEN: Final = "seen.json"
SECONDS: Final = 90.0
"""How long an agent has for its three calls, which take some five; then it is ended."""

_SIOCSIFFLAGS: Final = 0x8914
_UP_AND_RUNNING: Final = 0x41
_SAID: Final = 4000  # characters of what an agent has printed that are kept


class Guard:
    """The plugin of a trial: denies the second call, and counts what it is asked."""

    asked = 0

    def __init__(self, ally: Ally) -> None:
        """Take what every plugin is given."""

    @hookimpl
    def ally_gate_tool_call(self, call: ToolCall) -> Deny | None:
        """Deny what would make the file that must not be there."""
        Guard.asked += 1
        return Deny(REASON) if f"touch {DENIED}" in json.dumps(dict(call.common_arguments), default=str) else None


async def _try(agent: str, program: str, folder: Path) -> dict[str, Any]:
    model = ScriptedModel(command_step(f"touch {name}") for name in (BEFORE, DENIED, AFTER))
    run = prepare(agent, program, folder, model.url, path=os.environ.get("PATH", ""))
    home = Home("ally-plugins", folder / "state")
    lay_client(home)
    connect(connection_of(agent), home)
    hook_socket = HookSocket(home)
    hook_socket.open()
    plugins: dict[str, Any] = {"verify": Guard}
    output = folder / "output.txt"
    try:
        async with Host(home=home, discover=False, plugins=plugins, grants={"verify": ["gate:tool_call"]}) as host:
            server = HookServer(hook_socket, Conversations(host))
            await server.start()
            try:
                with output.open("wb") as said:
                    code = await _run(run.line, run.environment, run.project, said)
            finally:
                await server.stop()
    finally:
        hook_socket.close()
    return {
        "code": code,
        "said": output.read_text("utf-8", "replace")[-_SAID:],
        "asked": Guard.asked,
        "files": sorted(each.name for each in run.project.iterdir()),
        "results": model.results(),
    }


async def _run(line: list[str], environment: dict[str, str], project: Path, said: Any) -> int | None:
    nothing = subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *line, env=environment, cwd=project, stdin=nothing, stdout=said, stderr=subprocess.STDOUT
    )
    try:
        return await asyncio.wait_for(process.wait(), SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        return None


def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _UP_AND_RUNNING))


def main() -> None:
    """Run the trial that the command line names."""
    agent, program, name = sys.argv[1:]
    folder = Path(name)
    _bring_loopback_up()
    seen = asyncio.run(_try(agent, program, folder))
    (folder / SEEN).write_text(json.dumps(seen), "utf-8")


if __name__ == "__main__":
    main()
