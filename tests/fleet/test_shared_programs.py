"""The how-to's shared part, with workers as programs: installed, agreed to, served, and one of them killed."""

from __future__ import annotations

import asyncio
import shutil
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Deny, Host, ToolCall
from ally_plugins.host.sockets.leftovers import left_folders, temporary_folder
from tests.kit.commands import run_command
from tests.kit.fleets import WorkerProgram, running_server
from tests.kit.waiting import go, until

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = [pytest.mark.shared, pytest.mark.slow]

PLUGIN = "secret-guard"  # of ally_plugins_contrib


@pytest.mark.smoke
def test_a_worker_that_is_killed_or_hangs_in_a_gate_closes_it_and_the_other_one_takes_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("worker-1", "worker-2")
    with running_server(["host-a"], dict.fromkeys(names, (PLUGIN,))) as server, ExitStack() as ending:
        workers = {name: ending.enter_context(WorkerProgram(server, name, tmp_path / name, PLUGIN)) for name in names}
        assert all(worker.said["worker"] == name for name, worker in workers.items())
        home = tmp_path / "host-a"
        monkeypatch.setenv("ALLY_HOME", str(home))
        run_command("enable", PLUGIN, "--place", "shared", "--yes")
        shutil.copy(server.file("host-a"), home / "fleet.toml")

        async def main() -> None:
            async with Host() as host:
                plugin, session = host.plugins[PLUGIN], host.session()
                supervisor: Any = plugin.supervisor
                call = ToolCall("bash", {"command": "ls"})
                assert plugin.is_running, plugin.reason
                assert (await session.gate_tool_call(call)).is_allowed
                first = supervisor.process.worker
                workers[first].signal(signal.SIGSTOP)
                asked = asyncio.ensure_future(session.gate_tool_call(call))
                await asyncio.sleep(0)
                workers[first].signal(signal.SIGKILL)
                assert isinstance((await asked).verdict, Deny)
                await until(lambda: supervisor.started > 1 and plugin.is_running)
                assert supervisor.process.worker != first
                assert (await session.gate_tool_call(call)).is_allowed
                # One that only hangs is given up after some questions, long before the gate's deadline.
                workers[supervisor.process.worker].signal(signal.SIGSTOP)
                ruling = await session.gate_tool_call(call)
                assert isinstance(ruling.verdict, Deny)
                assert "does not answer" in ruling.reason

        go(main())
    # What a killed worker has left, the next one removes.
    with temporary_folder("box-"):
        assert list(left_folders("box-")) == []
