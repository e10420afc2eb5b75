"""The guardian and its forker, begun before the host that starts plugins: used where the guess was right, idle else."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.registry import Registry
from ally_plugins.contract.values.errors import CannotExecute
from ally_plugins.host.daemons.early_start import start_early
from ally_plugins.host.host import Host
from ally_plugins.runtime.processes.guardian.process_tree import children
from ally_plugins.runtime.processes.guardian_client import GuardedLauncher
from ally_plugins.runtime.processes.launching import is_guardian_possible
from ally_plugins.runtime.processes.process import ProcessSpec
from tests.kit.processes import is_alive
from tests.kit.sandboxes import needs_sandbox
from tests.kit.sites import Site
from tests.kit.waiting import until

if TYPE_CHECKING:
    from ally_plugins.runtime.processes.launcher import Launcher

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not is_guardian_possible(), reason="no guardian on this machine"),
]

MANIFEST = """
description = "votes"
[permissions]
gate = { on = ["tool_call"], reason = "to vote" }
"""
CODE = """
from ally_plugins import hookimpl

class Plugin:
    def __init__(self, ally):
        pass

    @hookimpl
    async def ally_gate_tool_call(self, call):
        return None
"""


@pytest.fixture(params=["process", pytest.param("sandbox", marks=[needs_sandbox])])
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Home:
    """Return a home with a plugin that runs outside of its host."""
    site = Site(tmp_path / "site")
    site.plugin("early-voter", MANIFEST, code=CODE)
    monkeypatch.syspath_prepend(str(site.path))
    monkeypatch.setenv("PYTHONPATH", str(site.path))
    home = Home("early", tmp_path / "home")
    home.prepare()
    registry = Registry(home)
    registry.enable(registry.plan("early-voter", placement=request.param))
    return home


def forkers(launcher: Launcher) -> list[int]:
    assert isinstance(launcher, GuardedLauncher)
    assert launcher.guardian_pid is not None
    names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in children(launcher.guardian_pid)}
    return [pid for pid, name in names.items() if name == "ally-forker"]


@pytest.mark.slow
async def test_a_host_forks_its_plugins_from_what_was_begun_before_it(home: Home) -> None:
    launcher = start_early(home)
    assert isinstance(launcher, GuardedLauncher)
    guardian = launcher.guardian_pid
    assert guardian is not None
    await until(lambda: bool(forkers(launcher)))
    before = forkers(launcher)
    async with Host("early", home=home, protect=True, launcher=launcher) as host:
        assert host.plugins["early-voter"].is_running
        assert launcher.guardian_pid == guardian
        assert forkers(launcher) == before  # none besides
    assert not is_alive(guardian)
    await launcher.close()  # by whoever began it, too


@pytest.mark.parametrize("text", ["", '[plugins.p]\nplacement = "inline"\n', "# placement = 'process'\n", "[broken"])
async def test_where_no_plugin_seems_to_need_one_nothing_is_started(text: str, tmp_path: Path) -> None:
    home = Home("early", tmp_path)
    home.prepare()
    home.config_file.write_text(text)
    assert start_early(home) is None


async def test_where_the_config_cannot_be_read_nothing_is_started_and_the_host_says_why(tmp_path: Path) -> None:
    home = Home("early", tmp_path)
    home.prepare()
    os.mkfifo(home.config_file)
    assert start_early(home) is None


async def test_a_forker_that_was_begun_for_nothing_ends_with_the_launcher(home: Home) -> None:
    launcher = start_early(home)
    assert isinstance(launcher, GuardedLauncher)
    guardian = launcher.guardian_pid
    assert guardian is not None
    await until(lambda: bool(forkers(launcher)))
    (forker,) = forkers(launcher)
    await launcher.close()
    assert not is_alive(guardian)
    await until(lambda: not is_alive(forker))


async def test_a_guardian_that_cannot_start_is_the_first_launchs_error() -> None:
    launcher = GuardedLauncher("/nowhere/python")
    spec = ProcessSpec(name="p", argv=("/nowhere/python", "-m", "ally_plugins.daemon"), cwd="/", env={})
    with pytest.raises(CannotExecute, match="/nowhere/python"):
        launcher.begin(spec)
    with pytest.raises(CannotExecute, match="/nowhere/python"):
        await launcher.launch(spec, asyncio.Protocol, lambda _: None)
    await launcher.close()
