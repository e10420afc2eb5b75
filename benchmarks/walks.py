"""Counts how often four walks, and one command, go from one room of the package into another.

    python benchmarks/walks.py [--floors] [--list]

A room is a folder right below `ally_plugins`; a crossing is a call from code of one room into code of another, on any
thread, with what is not ours (asyncio, SQLite) left out in between. Counts are the same each time, so that a change
shows whether it makes a walk longer. `--floors` takes every folder for a room, `--list` shows each crossing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import threading
from collections import Counter
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from types import FrameType  # noqa: TC003 - a script has no need of another block
from typing import Any, Final, Self

import ally_plugins
from ally_plugins import Ally, Host, PluginRecord, ToolCall, ToolCallStart, hookimpl
from ally_plugins.contract.process_spec import Daemon
from ally_plugins.policy.permissions import GrantSet

ROOT: Final = str(Path(ally_plugins.__file__).parent) + os.sep
SETTLED: Final = 0.2
"""Seconds after which what a walk has begun is on disk: the fan-out waits 20 ms, a commit some more."""

PLUGIN: Final = """
from ally_plugins import hookimpl

class Walked:
    def __init__(self, ally):
        self.ally = ally

    @hookimpl
    async def ally_tool_call_start(self, event):
        pass

    @hookimpl
    async def ally_gate_tool_call(self, call):
        return None
"""


class Walked:
    """A plugin that hears one event, and speaks when it is told to."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_tool_call_start(self, event: ToolCallStart) -> None:
        """Hear it."""


class Count:
    """The calls of one walk, made within the block."""

    def __init__(self, floors: bool) -> None:  # noqa: FBT001 - the script's own switch
        self.calls = 0
        self.rooms: set[str] = set()
        self.crossings: Counter[tuple[str, str, str, str]] = Counter()
        self._floors = floors
        self._known: dict[str, str] = {}

    def __enter__(self) -> Self:
        threading.setprofile(self._saw)
        sys.setprofile(self._saw)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _saw(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not (room := self._room(frame)):
            return
        self.calls += 1
        self.rooms.add(room)
        caller = frame.f_back
        while caller is not None and not self._room(caller):
            caller = caller.f_back
        if caller is not None and (left := self._room(caller)) != room:
            self.crossings[left, caller.f_code.co_name, room, frame.f_code.co_name] += 1

    def _room(self, frame: FrameType) -> str:
        name = frame.f_code.co_filename
        room = self._known.get(name)
        if room is None:
            folders = Path(name.removeprefix(ROOT)).parts[:-1] if name.startswith(ROOT) else ()
            room = self._known[name] = ".".join(folders if self._floors else folders[:1])
        return room


async def _inline(home: Path, new: Any) -> None:
    record = PluginRecord.by_code("walked", grants=GrantSet.everything())
    async with Host("walks", home=home, discover=False, plugins={"walked": (Walked, record)}) as host:
        session, ally = host.session("inline"), host.plugins["walked"].instance.ally
        for is_counted in (False, True):
            with new("event to an inline hook and the journal", is_counted):
                session.emit(ToolCallStart(tool_name="bash", arguments={}, call_id="c"))
                await asyncio.sleep(SETTLED)
        for is_counted in (False, True):
            with new("add_message to the conversation", is_counted):
                await ally.add_message("user", "hello")
                await session.safe_point("step")
                await asyncio.sleep(SETTLED)


async def _daemon(home: Path, new: Any) -> None:
    (home / "walked_daemon.py").write_text(PLUGIN)
    daemon = Daemon.python("walked_daemon:Walked", env={"PYTHONPATH": str(home)})
    record = PluginRecord.by_code("walked", grants=GrantSet.everything())
    async with Host("walks", home=home, discover=False, plugins={"walked": (daemon, record)}) as host:
        session = host.session("daemon")
        for is_counted in (False, True):
            with new("event to a daemon and the journal", is_counted):
                session.emit(ToolCallStart(tool_name="bash", arguments={}, call_id="c"))
                await asyncio.sleep(SETTLED)
        for is_counted in (False, True):
            with new("gate in a daemon", is_counted):
                await session.gate_tool_call(ToolCall("bash", {}))
                await asyncio.sleep(SETTLED)


def _grant(home: Path, new: Any) -> None:
    from ally_plugins.cli.shell.main import cli

    os.environ["ALLY_HOME"] = str(home)
    with redirect_stdout(StringIO()):
        for args in (("enable", "loop-guard", "--yes"), ("revoke", "loop-guard", "add_message")):
            with suppress(SystemExit):
                cli(args)
        with new("grant", is_counted=True), suppress(SystemExit):
            cli(("grant", "loop-guard", "add_message:user"))


def main() -> int:
    """Walk, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--floors", action="store_true", help="take every folder for a room")
    parser.add_argument("--list", action="store_true", help="show each crossing")
    options = parser.parse_args()
    counts: dict[str, Count] = {}

    def new(name: str, is_counted: bool) -> Count:  # noqa: FBT001
        count = Count(options.floors)
        if is_counted:
            counts[name] = count
        return count

    with tempfile.TemporaryDirectory(prefix="ally-walks-") as folder:
        home = Path(folder)
        asyncio.run(_inline(home, new))
        asyncio.run(_daemon(home, new))
        _grant(home, new)
    print("| walk | crossings | rooms | calls |\n| --- | --- | --- | --- |")
    for name, count in counts.items():
        print(f"| {name} | {count.crossings.total()} | {len(count.rooms)} | {count.calls} |")
        for crossing, number in count.crossings.items() if options.list else ():
            print(f"    {number} {crossing[0]}: {crossing[1]} -> {crossing[2]}: {crossing[3]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
