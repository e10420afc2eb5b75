"""A person with a folder to work in, a home, and one plugin that does a bit of everything."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.registry import Registry
from tests.kit.commands import NO_KEYRING, PROGRAM, end, environment_for, run_command
from tests.kit.sites import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

from .terminal import Terminal

MANIFEST = """
description = "does a bit of everything"
requires_host = ">=1,<2"
[events]
subscribe = ["USER_MESSAGE", "TOOL_CALL_END"]
reason = "to notice things"
[permissions]
add_message = { roles = ["user"], trigger_turn = true, reason = "to say what it notices" }
emit_event = { reason = "to tell what it notices" }
gate = { on = ["tool_call"], tools = ["run_command", "list_directory"], reason = "to keep the folder whole" }
tools = { reason = "to remember" }
actions = { reason = "to report" }
tasks = { reason = "to count" }
"""

CODE = '''
import asyncio
from ally_plugins import Ask, Deny, action, hookimpl, tool

class Plugin:
    def __init__(self, ally):
        self.ally = ally
        self.notes = []

    @hookimpl
    def ally_gate_tool_call(self, call):
        if call.tool_name == "list_directory":
            return Ask("folders are private")
        if "rm" in str(call.arguments.get("command")):
            return Deny("nothing is removed here")

    @hookimpl
    async def ally_tool_call_end(self, event):
        if event.tool_name == "read_file":
            await self.ally.emit_event("noticed", {"tool": event.tool_name, "odd": "\\x1b]0;title\\x07"})

    @hookimpl
    async def ally_user_message(self, event):
        if "steer" in event.content:
            await self.ally.add_message("user", "look at the tests \\u202etoo", deliver_as="steer")
        if "later" in event.content:
            await self.ally.start_task("count", self.count())

    async def count(self):
        await asyncio.sleep(0.2)
        await self.ally.add_message("user", "the count is 3", trigger_turn=True)

    @tool
    async def remember(self, text: str) -> str:
        """Remember a text."""
        self.notes.append(text)
        return f"I have {len(self.notes)} notes"

    @action
    async def report(self, full: bool = False) -> dict:
        """Report on the notes."""
        return {"notes": self.notes, "full": full}
'''


class Person:
    """Somebody who uses the reference agent, in this process or at a terminal of their own."""

    def __init__(self, home: Path, folder: Path, site: Path, terminals: ExitStack) -> None:
        self.home = Home("ally-plugins", home)
        self.folder = folder
        self.site = site
        self._terminals = terminals

    def install(self, name: str = "helper", manifest: str = MANIFEST, code: str = CODE) -> None:
        """Leave a plugin as an installer does, and agree to all that it asks for."""
        Site(self.site).plugin(name, manifest, code=code)
        registry = Registry(self.home)
        registry.enable(registry.plan(name, placement="inline"), by="test")

    def run(self, *args: str, code: int = 0, text: str | None = None) -> Result:
        """Run a command in this process; `text` is its standard input."""
        return run_command(*args, code=code, text=text)

    def chat(self, *lines: str, args: tuple[str, ...] = (), code: int = 0) -> str:
        """Have a chat over a pipe; return what was shown."""
        told = "".join(f"{line}\n" for line in lines)
        return self.run("chat", *args, code=code, text=told).stdout

    def events(self, *args: str, code: int = 0) -> list[dict[str, Any]]:
        """Run a task with --json; return every line."""
        return [json.loads(line) for line in self.run("run", "--json", *args, code=code).stdout.splitlines()]

    @property
    def environment(self) -> dict[str, str]:
        """What a process of the program gets."""
        return environment_for(self.home.path, self.site)

    def terminal(self, *args: str, columns: int = 100, rows: int = 40, **more: str) -> Terminal:
        """Begin a chat at a terminal."""
        made = Terminal(
            [*PROGRAM, "chat", *args], cwd=self.folder, environ={**self.environment, **more}, columns=columns, rows=rows
        )
        return self._terminals.enter_context(made)

    def process(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        """Begin a command in a process, without a terminal."""
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(
            [*PROGRAM, *args], cwd=self.folder, env=self.environment, text=True, **pipes | options
        )
        self._terminals.callback(end, process)
        return process


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Person]:
    """Return a person in a folder with two files."""
    home, folder, site = tmp_path / "home", tmp_path / "work", tmp_path / "site"
    for made in (home, folder, site):
        made.mkdir(mode=0o700)
    (folder / "README.md").write_text("# A project\n\nIt does things.\n")
    (folder / "app.py").write_text("def main():\n    return 1\n")
    monkeypatch.setenv("ALLY_HOME", str(home))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", NO_KEYRING)
    monkeypatch.setenv("PYDANTIC_AI_NO_BANNER", "1")
    for name in ("ALLY_MODEL", "ALLY_BASE_URL", "ALLY_PLUGINS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(folder)
    with ExitStack() as terminals:
        yield Person(home, folder, site, terminals)
    for name in [name for name in sys.modules if name.partition(".")[0] == "helper"]:
        del sys.modules[name]


@pytest.fixture
def helped(person: Person) -> Person:
    """Return a person with the plugin `helper`."""
    person.install()
    return person


@pytest.fixture
def history() -> Callable[[Person], list[str]]:
    """Return what lists the saved sessions of a person by id."""
    return lambda person: [each["id"] for each in json.loads(person.run("sessions", "--json").stdout)["sessions"]]
