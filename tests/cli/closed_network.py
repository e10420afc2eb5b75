"""Runs every command, and a host with a plugin in a process, where each socket but those of files is refused.

Prints as JSON what was tried, and how the commands ended. To be run in a process of its own: the hook cannot be taken
back.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import click

from ally_plugins.cli.shell.main import cli

HOME = Path(os.environ["ALLY_HOME"])

ARGUMENTS: dict[str, list[list[str]]] = {
    "audit": [[], ["verify"]],
    "call": [["loop-warner", "shout", "--args", '{"text": "hi"}']],
    "chat": [["--model", "offline"]],
    "connect": [["claude"], ["--status"]],
    "disable": [["loop-warner"]],
    "disconnect": [["claude"]],
    "enable": [["loop-warner", "--yes"]],
    "explain": [["d1"]],
    "export": [["s1"]],
    "info": [["loop-warner"]],
    "inspect": [["m-none"]],  # with one that is recorded it would serve until it is ended
    "install": [[str(HOME / "nothing")]],
    "place": [["loop-warner", "process"]],
    "prune": [["--older-than", "1d", "--yes"]],
    "purge": [["s1", "--yes"]],
    "replay": [[str(HOME / "nothing")]],
    "run": [["--model", "offline", "say hello"]],
    "serve": [["--idle", "0.001"]],
}
"""What a command is run with, where it does nothing without; one that is not named is run bare."""


class Watch:
    """What was tried, by which command, and how each command ended."""

    def __init__(self) -> None:
        self.now = "on purpose"
        self.tried: list[str] = []
        self.ended: dict[str, object] = {}

    def refuse(self, event: str, args: tuple[Any, ...]) -> None:
        """Refuse what would leave the machine, and note it: whoever tries may swallow the error."""
        if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
            leaves = args[0].family != socket.AF_UNIX
        else:
            leaves = event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
        if leaves:
            self.tried.append(f"{self.now}: {event}")
            raise PermissionError(f"this test refuses {event}")

    def run(self, name: str, args: list[str]) -> None:
        """Run one command in this process, for some seconds at most."""
        self.now = " ".join((name, *args))
        code: object = 0
        signal.setitimer(signal.ITIMER_REAL, 20)
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                cli.main([name, *args], standalone_mode=False)
        except click.exceptions.Exit as end:
            code = end.exit_code
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - it is noted
            code = repr(error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.ended[self.now] = code


async def talk() -> None:
    """Run a host with what is enabled, in a process of its own, and have a conversation."""
    from ally_plugins import Host, ToolCall, ToolResult, UserMessage

    async with Host("t", home=HOME) as host:
        session = host.session("s1")
        session.emit(UserMessage(content="hello"))

        async def tool(_: ToolCall) -> ToolResult:
            return ToolResult(success=True, output="x")

        await session.run_tool_call(ToolCall("bash", {"command": "ls"}, "c1"), tool)


def end(*_: object) -> None:
    """End a command that waits, as a person would."""
    raise KeyboardInterrupt


def main() -> None:
    """Run it."""
    watch = Watch()
    signal.signal(signal.SIGALRM, end)
    sys.addaudithook(watch.refuse)
    with socket.socket() as one, suppress(PermissionError):
        one.connect(("127.0.0.1", 9))
    watch.run("enable", ["loop-warner", "--yes"])
    watch.run("place", ["loop-warner", "process"])
    watch.now = "a host"
    asyncio.run(talk())
    for name in sorted(cli.list_commands(click.Context(cli))):
        for args in ARGUMENTS.get(name, [[]]):
            watch.run(name, args)
    sys.stdout.write(json.dumps({"tried": watch.tried, "ended": watch.ended}) + "\n")


main()
