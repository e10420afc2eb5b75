"""Which process an agent is, as its hooks show: that one and what it starts change nothing, whatever they remove."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from ally_plugins import Host
from ally_plugins.adapters.coding.client.client_files import hook_line, lay_client
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.adapters.coding.serving.hook_socket import HookSocket
from ally_plugins.adapters.coding.serving.server import HookServer
from ally_plugins.catalog.home.agent_processes import GuardedAgent
from ally_plugins.catalog.home.folder import Home
from tests.kit.commands import PROGRAM
from tests.kit.waiting import go, until

from .agents import recorded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process trees are looked at on Linux only")

PAYLOAD = json.dumps(next(each["payload"] for each in recorded("claude") if each["event"] == "PreToolUse"))

AGENT = """
import subprocess, sys
line, payload, words = sys.argv[1], sys.argv[2].encode(), sys.argv[3:]
for number in range(2 if words else 1):
    hook = subprocess.run(["sh", "-c", line], input=payload.replace(b'"tool_use_id":', b'"_":0,"tool_use_id":'))
    if hook.returncode:
        sys.exit(hook.returncode)
    if not number and words:
        done = subprocess.run(words, capture_output=True, text=True)
        print(done.returncode, done.stderr, flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def served(home: Home) -> AsyncIterator[Host]:
    hook_socket = HookSocket(home)
    assert hook_socket.open()
    try:
        async with Host(home=home, discover=False) as host:
            server = HookServer(hook_socket, Conversations(host))
            await server.start()
            try:
                yield host
            finally:
                await server.stop()
    finally:
        hook_socket.close()


def found_agents(home: Home) -> list[tuple[str, int]]:
    folder = home.run_dir / "agents"
    found = [GuardedAgent.of_name(file.name) for file in folder.iterdir()] if folder.is_dir() else []
    return [(each.agent, each.identity.pid) for each in found if each is not None]


def an_agent(home: Home, *words: str) -> subprocess.Popen[str]:
    """Start an agent that runs a hook by the shell, then a command, then the hook again, and lives on."""
    line = hook_line(home.path / "hooks" / "hook", "claude", "PreToolUse")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", AGENT, line, PAYLOAD, *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_command_of_an_agents_child_is_refused_though_it_removes_what_the_home_says(tmp_path: Path) -> None:
    home = Home("ally-plugins", tmp_path)
    lay_client(home, sys.executable, ("/bin/false",))
    disable = " ".join([*PROGRAM, "disable", "secret-guard", "--home", str(home.path)])

    async def main() -> None:
        async with served(home):
            with an_agent(home, "sh", "-c", f"rm -r {home.run_dir}/agents; {disable}; exit $?") as agent:
                assert agent.stdout is not None
                shown = await asyncio.to_thread(agent.stdout.readline)
                assert shown.startswith(f"1 ally-plugins: a change was asked for by claude (process {agent.pid})")
                # The next hook lays it again, for when the host is gone.
                await until(lambda: found_agents(home) == [("claude", agent.pid)])
                await asyncio.to_thread(agent.communicate)
        assert not home.config_file.exists()

    go(main())


def test_the_agent_is_what_runs_the_hooks_shell_and_not_the_shell(tmp_path: Path) -> None:
    home = Home("ally-plugins", tmp_path)
    lay_client(home, sys.executable, ("/bin/false",))

    async def main() -> None:
        async with served(home) as host:
            pids: list[int] = []
            for _ in range(2):
                with an_agent(home) as agent:
                    pids.append(agent.pid)
                    await until(lambda: ("claude", pids[-1]) in found_agents(home))
                    await asyncio.to_thread(agent.communicate)
            # The first has ended, and is forgotten when the second came.
            assert found_agents(home) == [("claude", pids[-1])]
            assert host.guarded_agents is not None
            assert host.guarded_agents.above([(pids[-1], 1)]) is None

    go(main())


def test_a_hook_whose_agent_cannot_be_kept_is_closed(tmp_path: Path) -> None:
    home = Home("ally-plugins", tmp_path)
    lay_client(home, sys.executable, ("/bin/false",))
    home.prepare()
    (home.run_dir / "agents").write_text("in the way")

    async def main() -> None:
        async with served(home):
            with an_agent(home) as agent:
                _, stderr = await asyncio.to_thread(agent.communicate)
                assert agent.returncode == 2
                assert "the host gave no answer" in stderr

    go(main())


def test_a_hook_that_has_lost_its_agent_is_closed_and_its_reaper_is_no_agent(tmp_path: Path) -> None:
    home = Home("ally-plugins", tmp_path)
    lay_client(home, sys.executable, ("/bin/false",))
    line = hook_line(home.path / "hooks" / "hook", "claude", "PreToolUse")
    os.mkfifo(tmp_path / "payload")

    async def main() -> None:
        async with served(home):
            # The shell above has ended before the hook gets its payload.
            hook = f"({line}) 2>{tmp_path}/said; echo $? >{tmp_path}/code; mv {tmp_path}/code {tmp_path}/done"
            words = ["sh", "-c", f'setsid sh -c "$0" <{tmp_path}/payload &', hook]
            await asyncio.to_thread(subprocess.run, words, check=True, timeout=60)
            await asyncio.to_thread((tmp_path / "payload").write_text, PAYLOAD)
            await until((tmp_path / "done").exists)

    go(main())
    assert (tmp_path / "done").read_text() == "2\n"
    assert "the host gave no answer" in (tmp_path / "said").read_text()
    assert found_agents(home) == []
