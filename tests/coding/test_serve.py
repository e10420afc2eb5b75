"""The host behind agents' hooks as a process: who starts it, what it says where it cannot start, when it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from ally_plugins.adapters.coding.client.hook_client import SOCKET
from ally_plugins.host.control.client import hosts_of
from ally_plugins.testing.agents.reactions import Reaction
from tests.kit.commands import run_command
from tests.kit.waiting import wait_until

from .machines import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tried on Linux only")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "a home's")
    yield made
    made.end()


@pytest.mark.smoke
@pytest.mark.slow
def test_the_first_hook_starts_the_host_and_a_second_host_leaves_it_the_hooks(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.lay()
    monkeypatch.setenv("SOME_AGENTS_KEY", "sk-secret")
    assert machine.hook() == Reaction()
    (host,) = hosts_of(machine.home)
    with open(f"/proc/{host.pid}/environ", "rb") as file:  # noqa: PTH123 - no file of ours
        assert b"SOME_AGENTS_KEY" not in file.read()
    other = run_command("serve", "--home", str(machine.home.path), "--json")
    assert json.loads(other.stdout)["takes_hooks"] is False
    assert machine.hook("Stop") == Reaction()
    assert [each.pid for each in hosts_of(machine.home)] == [host.pid]
    # Killed: its socket is left, the next hook starts another one, which has seen no gate asked for the open call.
    os.kill(host.pid, signal.SIGKILL)
    wait_until(lambda: not hosts_of(machine.home))
    assert machine.hook("PostToolUse").stopped
    (again,) = hosts_of(machine.home)
    assert again.pid != host.pid
    # SIGTERM: it ends, with nothing left for hooks to find.
    os.kill(again.pid, signal.SIGTERM)
    wait_until(lambda: not hosts_of(machine.home))
    wait_until(lambda: not (machine.home.run_dir / SOCKET).exists())


def test_a_host_that_cannot_start_says_why_to_the_hooks_that_wait(machine: Machine) -> None:
    machine.lay()
    machine.home.prepare()
    machine.home.config_file.write_text("[plugins")
    done = machine.run("PreToolUse", b"{}")
    assert done.returncode == 2
    assert b"no host could be started" in done.stderr
    assert b"config.toml" in done.stderr


def test_an_idle_host_ends(machine: Machine) -> None:
    machine.home.prepare()
    run_command("serve", "--home", str(machine.home.path), "--idle", "0.001")
    assert not (machine.home.run_dir / SOCKET).exists()


def test_only_this_user_may_connect(machine: Machine) -> None:
    machine.lay()
    machine.hook("Stop")
    assert (machine.home.run_dir / SOCKET).stat().st_mode & 0o777 == 0o600
    assert machine.home.run_dir.stat().st_mode & 0o777 == 0o700


def test_a_client_that_is_not_what_was_laid_closes_the_hooks_and_says_so(machine: Machine) -> None:
    machine.lay()
    file = machine.client.with_name("ally_hook.py")
    file.write_text(file.read_text() + "\n")
    done = machine.run("PreToolUse", b"{}")
    assert done.returncode == 2
    assert b"is not what was laid there; if you have not changed it" in done.stderr
    assert machine.run("Stop", b"{}").returncode == 0
