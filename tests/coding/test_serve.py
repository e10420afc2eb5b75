"""The host behind agents' hooks and the client that reaches it, as processes: closed whenever nobody answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.adapters.coding.client_files import hook_line, lay_client
from ally_plugins.adapters.coding.hook_client import CLOSED, SOCKET
from ally_plugins.catalog.home.folder import Home
from ally_plugins.host.control.client import hosts_of
from tests.kit.commands import run_command
from tests.kit.waiting import wait_until

from .agents import Reaction, react, recorded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tried on Linux only")

NOBODY = ("/bin/sh", "-c", "echo it is broken >&2; exit 3")


class Machine:
    """A home with a client in it, and the hooks that an agent would run."""

    def __init__(self, path: Path) -> None:
        self.home = Home("ally-plugins", path)
        self.client = path / "hooks" / "hook"

    def lay(self, *starts: str) -> None:
        serve = (sys.executable, "-m", "ally_plugins", "serve", "--home", str(self.home.path), "--idle", "5")
        lay_client(self.home, sys.executable if not starts else None, starts or serve)

    def hook(self, event: str = "PreToolUse", agent: str = "claude", **changes: Any) -> Reaction:
        found = [each["payload"] for each in recorded(agent) if each["event"] == event]
        payload = {**found[0], **changes}
        done = self.run(event, json.dumps(payload).encode(), agent)
        return react(agent, event, payload, (done.returncode, done.stdout.decode(), done.stderr.decode()))

    def run(self, event: str, payload: bytes, agent: str = "claude") -> subprocess.CompletedProcess[bytes]:
        """Run a hook's command as agents do, by the shell."""
        line = hook_line(self.client, agent, event)
        return subprocess.run(["sh", "-c", line], input=payload, capture_output=True, timeout=60, check=False)

    def end(self) -> None:
        for host in hosts_of(self.home):
            os.kill(host.pid, signal.SIGTERM)
        wait_until(lambda: not hosts_of(self.home))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "a home's")
    yield made
    made.end()


def answers(machine: Machine, *replies: bytes) -> Iterator[socket.socket]:
    """Listen in the place of a host, and give each hook one of these answers."""
    machine.home.prepare()
    here = os.getcwd()  # noqa: PTH109 - as below
    os.chdir(machine.home.run_dir)  # the path of the folder may be too long for a socket's address
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(SOCKET)
    os.chdir(here)
    listening.listen()

    def serve() -> None:
        for reply in replies:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 20)
                connection.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listening
    thread.join(30)
    listening.close()


@pytest.mark.parametrize("agent", sorted(CLOSED))
def test_without_a_host_each_event_is_closed_or_passes_as_the_agent_takes_it(agent: str, machine: Machine) -> None:
    machine.lay(*NOBODY)
    for event in CLOSED[agent]:
        found = machine.hook(event, agent)
        assert found.stopped == (CLOSED[agent][event] != "" and (agent, event) != ("claude", "PostToolUseFailure"))
        assert not found.goes_on
        if found.stopped:
            done = machine.run(event, b"{}", agent)
            assert b"ally-plugins: the host cannot be started: it is broken" in done.stdout + done.stderr


@pytest.mark.parametrize("gone", ["hook", "ally_hook.py", "serve", "python", "run"])
def test_with_a_part_of_it_gone_guard_events_are_closed_and_others_pass(gone: str, machine: Machine) -> None:
    machine.lay(*NOBODY)
    if gone == "python":
        text = machine.client.read_text()
        machine.client.write_text("#!/nowhere/python3 -IS\n" + text.partition("\n")[2])
    elif gone == "run":
        machine.home.run_dir.rename(machine.home.path / "away")
    else:
        (machine.client.parent / gone).unlink()
    for agent, event in (("claude", "PreToolUse"), ("claude", "PostToolUse"), ("codex", "PostToolUse")):
        assert machine.hook(event, agent).stopped
    assert machine.run("Stop", b"{}").returncode == 0


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"ally1 0",
        b"ally1 0 3 0\nab",
        b"ally1 0 2 0\nabc",
        b"ally1 1 0 0\n",
        b"ally1 0 -1 0\n",
        b"ally2 0 0 0\n",
        b'{"decision":"allow"}\n',
        b"\xff" * 100,
    ],
)
def test_a_host_that_answers_nonsense_is_none(reply: bytes, machine: Machine) -> None:
    machine.lay(*NOBODY)
    for _ in answers(machine, reply, reply):
        assert machine.hook().stopped
        assert machine.hook("PostToolUse").stopped


def test_a_host_that_is_silent_is_closed_within_the_agents_time(machine: Machine) -> None:
    machine.lay(*NOBODY)
    module = machine.client.with_name("ally_hook.py")
    module.write_text(module.read_text().replace("SECONDS = 50.0", "SECONDS = 0.5"))
    machine.home.prepare()
    for listening in answers(machine):
        listening.listen(0)  # nobody accepts
        assert machine.hook().stopped
        done = machine.run("PreToolUse", b"{}")
        assert done.stderr == b"ally-plugins: no answer came within 0.5 s"


def test_an_agent_that_never_ends_its_payload_is_closed_too(machine: Machine) -> None:
    machine.lay(*NOBODY)
    module = machine.client.with_name("ally_hook.py")
    module.write_text(module.read_text().replace("SECONDS = 50.0", "SECONDS = 0.5"))
    line = hook_line(machine.client, "claude", "PreToolUse")
    with subprocess.Popen(["sh", "-c", line], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait(30) == 2
        assert process.stdin is not None
        process.stdin.close()


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
