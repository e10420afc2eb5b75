"""Commands and a plugin with a process for each project: what they show of it, and grants that make a new sandbox."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import ToolCall
from ally_plugins.catalog.home.config_edits import edit_config
from ally_plugins.host.control.client import call, hosts_of
from ally_plugins.runtime.sandbox.support import support
from tests.kit.commands import run_command
from tests.kit.waiting import go, until

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Operated

pytestmark = pytest.mark.skipif(not support().has_filter or not support().landlock, reason="no sandbox on this machine")

NAME = "ctl-reader"
MANIFEST = """
description = "reads the project"
[permissions]
files = { read = ["project", "/usr/share"], reason = "to read it" }
gate = { on = ["tool_call"], reason = "to guard" }
tools = { reason = "to tell" }
"""
CODE = '''
import os
from pathlib import Path

from ally_plugins import Deny, hookimpl, tool

ME = os.urandom(4).hex()  # in a namespace of its own, each has the same process id

class Plugin:
    def __init__(self, ally):
        self.ally = ally

    @hookimpl
    async def ally_gate_tool_call(self, call):
        return Deny(ME)

    @tool
    async def peek(self, path: str) -> str:
        """Read a file."""
        try:
            return Path(path).read_text()
        except OSError as error:
            return type(error).__name__
'''
CALL = ToolCall("bash", {"command": "make"}, "c1")


@pytest.fixture
def reader(site: Operated, monkeypatch: pytest.MonkeyPatch) -> Operated:
    """Return a site with the reader, agreed to, in the sandbox."""
    site.install(NAME, manifest=MANIFEST, code=CODE)
    site.enable(NAME)
    monkeypatch.setenv("PYTHONPATH", str(site.site.path))
    edit_config(site.home, NAME, lambda _: {"placement": "sandbox"})
    return site


def pids_of(host: Any) -> dict[str, int]:
    """Return the plugin's processes as the host knows them, by project."""
    return {each["project"]: each["pid"] for each in host.plugins[NAME].supervisor.describe()["projects"]}


async def command(site: Operated, *words: str) -> str:
    """Run a command while the host goes on, and return what it has shown."""
    done = await asyncio.to_thread(run_command, *words, "--home", str(site.home.path), "--app", "test")
    return str(done.stdout)


@pytest.mark.smoke
@pytest.mark.slow
def test_commands_show_a_process_for_each_project_and_its_sessions(reader: Operated, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()

    async def main() -> None:
        async with reader.new_host() as host:
            sessions = [
                host.session("s1", project=one),
                host.session("s2", project=one),
                host.session("s3", project=two),
            ]
            names = [(await session.gate_tool_call(CALL)).reason.split()[-1] for session in sessions]
            assert names[0] == names[1] != names[2]
            pids = pids_of(host)
            assert "sandbox, in a process for each project" in await command(reader, "info", NAME)
            for words in (("hosts",), ("list",), ("info", NAME)):
                shown = await command(reader, *words)
                assert f"in {one}: running, process {pids[str(one)]}, 2 sessions" in shown
                assert f"in {two}: running, process {pids[str(two)]}, 1 session\n" in shown
            [host_shown] = hosts_of(reader.home)
            answer = await asyncio.to_thread(call, host_shown, "status", {}, 30)
            assert answer.result is not None
            [plugin] = answer.result["plugins"]
            assert {each["project"]: each["sessions"] for each in plugin["projects"]} == {str(one): 2, str(two): 1}
            assert (await command(reader, "restart", NAME)).endswith("and is running\n")
            again = (await sessions[0].gate_tool_call(CALL)).reason.split()[-1]
            assert again not in names
            assert not any(map(is_there, pids.values()))

    go(main())


@pytest.mark.slow
def test_a_grant_that_changes_the_sandbox_makes_a_new_one_at_once(reader: Operated, tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    (one / "file").write_text("one")

    async def main() -> None:
        async with reader.new_host() as host:
            session = host.session("s1", project=one)

            async def peek() -> str:
                found = await host.call_tool("peek", {"path": f"{one}/file"}, session_id="s1")
                return str(found.output)

            async def name() -> str:
                ruling = await session.gate_tool_call(CALL)
                assert ruling.is_denied
                return str(ruling.reason.split()[-1])

            first = await name()
            old = pids_of(host)
            assert await peek() == "one"
            # The last grant of the project: from here on it has one process, for all sessions.
            await command(reader, "revoke", NAME, "files:read:project")
            await until(lambda: host.plugins[NAME].state == "running")
            assert not any(map(is_there, old.values())), "what was revoked may not go on in an old sandbox"
            assert await peek() == "PermissionError"
            second = await name()
            await command(reader, "grant", NAME, "files:read:project")
            await until(lambda: host.plugins[NAME].state == "running")
            assert (await name()) not in {first, second}
            assert await peek() == "one"
            # Another permission needs no other sandbox.
            third = await name()
            await command(reader, "revoke", NAME, "tools")
            assert await name() == third

    go(main())


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
