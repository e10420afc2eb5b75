"""Commands and the hosts that run: what an operator settles is in effect when the command returns, and said so."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ally_plugins.cli.shell.text import when
from tests.kit.processes import stop_between_writes

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Agent, Operator

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs local sockets")

NAME = "loop-warner"

CODE = '''
from ally_plugins import Deny, hookimpl, tool

class Plugin:
    def __init__(self, ally):
        self.count = 0

    @hookimpl
    async def ally_gate_tool_call(self, call):
        return Deny("no")

    @hookimpl
    async def ally_tool_call_end(self, event):
        self.count += 1

    @tool
    async def heard(self) -> dict:
        """Tell how much it has heard."""
        return {"count": self.count}
'''


@pytest.fixture
def enabled(warner: Operator) -> Operator:
    """Return an operator who has agreed to a plugin with a gate, an observer and a tool."""
    warner.install(code=CODE)
    warner.enable(NAME)
    return warner


def test_without_a_host_a_change_takes_effect_at_the_next_start(enabled: Operator) -> None:
    assert "no host runs" in enabled.run("revoke", NAME, "gate").stdout
    assert enabled.ask("grant", NAME, "gate:tool_call:bash")["hosts"] == []
    assert "no host runs" in enabled.run("hosts").stdout
    assert enabled.ask("hosts") == {"hosts": [], "silent": []}
    assert "no host runs" in enabled.run("restart", NAME, code=1).stderr


def test_grant_revoke_and_shadow_are_in_effect_when_the_command_returns(
    enabled: Operator, start: Callable[[], Agent]
) -> None:
    agent = start()
    assert agent.ask("gate") == [True, 1]
    assert "in effect in 1 running host" in enabled.run("revoke", NAME, "gate").stdout
    assert agent.ask("gate") == [False, 0]
    told = enabled.ask("grant", NAME, "gate:tool_call:bash")
    assert told["hosts"] == [
        {"pid": agent.pid, "answered": True, "error": "", "plugin": NAME, "did": "changed", "in_effect": True,
         "state": "running", "reason": ""}
    ]  # fmt: skip
    assert agent.ask("gate") == [True, 1]
    enabled.run("shadow", NAME)
    assert agent.ask("gate") == [False, 1]
    assert agent.ask("emit") == {"count": 1}
    enabled.run("revoke", NAME, "events")
    assert agent.ask("emit") == {"count": 1}


@pytest.mark.slow
def test_disable_and_enable_stop_and_start_it_in_the_host(enabled: Operator, start: Callable[[], Agent]) -> None:
    agent = start()
    assert "in effect in 1 running host" in enabled.run("disable", NAME).stdout
    assert agent.ask("state") == {NAME: "stopped"}
    assert agent.ask("gate") == [False, 0]
    assert "stopped" in enabled.run("list").stdout
    assert "in effect in 1 running host" in enabled.run("enable", NAME, "--yes").stdout
    assert agent.ask("gate") == [True, 1]
    assert "agreed" not in enabled.run("enable", NAME).stdout
    found = [(record["data"]["state"], record["data"]["reason"]) for record in enabled.records("plugin_state")]
    assert [state for state, _ in found] == ["starting", "running", "stopped", "starting", "running"]
    assert "disabled by the operator" in found[2][1]


@pytest.mark.slow
def test_of_several_grants_those_before_a_wrong_one_are_in_effect_too(
    enabled: Operator, start: Callable[[], Agent]
) -> None:
    agent = start()
    enabled.run("revoke", NAME, "gate", "nonsense", code=2)
    assert agent.ask("gate") == [False, 0]


@pytest.mark.smoke
@pytest.mark.slow
def test_all_hosts_of_a_home_are_told_and_one_that_does_not_answer_is_named(
    enabled: Operator, start: Callable[[], Agent]
) -> None:
    one, other = start(), start()
    assert "in effect in 2 running hosts" in enabled.run("revoke", NAME, "gate").stdout
    assert one.ask("gate") == other.ask("gate") == [False, 0]
    stop_between_writes(other.process.pid, enabled.home.journal_file)
    shown = enabled.run("grant", NAME, "gate:tool_call:bash", code=1).stdout
    assert "in effect in 1 running host" in shown
    assert f"host {other.pid} does not answer" in shown
    assert f"host {other.pid} does not answer" in enabled.run("list").stderr
    assert enabled.ask("hosts")["silent"] == [other.pid]
    other.process.send_signal(signal.SIGCONT)
    assert one.ask("gate") == [True, 1]
    assert len(enabled.ask("hosts")["hosts"]) == 2


@pytest.mark.slow
def test_what_a_killed_host_left_is_removed_and_no_host_any_more(enabled: Operator, start: Callable[[], Agent]) -> None:
    agent = start()
    agent.process.kill()
    agent.process.wait(60)
    assert list(enabled.home.run_dir.glob("host-*.sock"))
    assert enabled.ask("hosts") == {"hosts": [], "silent": []}
    assert list(enabled.home.run_dir.glob("host-*")) == []


@pytest.mark.slow
def test_hosts_list_and_info_show_the_state_in_the_running_host(enabled: Operator, start: Callable[[], Agent]) -> None:
    agent = start()
    shown = enabled.run("hosts").stdout
    assert str(agent.pid) in shown
    assert "1 running" in shown
    [host] = enabled.ask("hosts")["hosts"]
    assert (host["pid"], host["app"], host["sessions"]) == (agent.pid, "ally-plugins", 1)
    agent.ask("emit")
    [plugin] = [each for each in enabled.ask("list")["plugins"] if each["name"] == NAME]
    assert [(each["pid"], each["state"]) for each in plugin["live"]] == [(agent.pid, "running")]
    assert "running" in enabled.run("list").stdout
    assert f"host {agent.pid} (ally-plugins): running since" in enabled.run("info", NAME).stdout
    assert enabled.ask("info", NAME)["live"][0]["delivered"] >= 1


@pytest.mark.slow
def test_a_quarantine_shows_at_once_and_release_ends_it_in_the_host(
    enabled: Operator, start: Callable[[], Agent]
) -> None:
    agent = start()
    agent.ask("quarantine", NAME)
    assert f"in host {agent.pid}: it was too much" in enabled.run("list").stdout
    assert "in effect in 1 running host" in enabled.run("release", NAME).stdout
    assert agent.ask("state") == {NAME: "running"}
    assert "is not in quarantine" in enabled.run("release", NAME, code=1).stderr


@pytest.mark.slow
def test_restart_starts_a_new_instance_in_every_host_that_has_it(enabled: Operator, start: Callable[[], Agent]) -> None:
    agents = [start(), start()]
    assert [agent.ask("emit") for agent in agents] == [{"count": 1}] * 2
    assert enabled.run("restart", NAME).stdout.count("is running") == 2
    assert [agent.ask("emit") for agent in agents] == [{"count": 1}] * 2
    told = enabled.ask("restart", NAME)
    assert [each["state"] for each in told["hosts"]] == ["running", "running"]
    assert "no plugin 'nobody' is installed" in enabled.run("restart", "nobody", code=2).stderr
    enabled.run("disable", NAME)
    shown = enabled.run("restart", NAME, code=1).stdout
    assert shown.count("is disabled") == 2


@pytest.mark.slow
def test_a_change_is_seen_by_a_real_process_of_the_program_within_its_time(
    enabled: Operator, start: Callable[[], Agent]
) -> None:
    agent = start()
    assert "in effect in 1 running host" in enabled.process("revoke", NAME, "gate").stdout
    assert agent.ask("gate") == [False, 0]


# logs


def log(operator: Operator, *texts: str, name: str = f"{NAME}.log") -> None:
    operator.home.logs_dir.mkdir(exist_ok=True)
    with (operator.home.logs_dir / name).open("a", encoding="utf-8") as file:
        file.writelines(f"2026-01-01T00:00:00.000Z {text}\n" for text in texts)


def test_logs_shows_the_last_lines_of_the_file_and_of_the_one_before_it(enabled: Operator) -> None:
    log(enabled, *(f"old {i}" for i in range(30)), name=f"{NAME}.log.1")
    log(enabled, *(f"new {i}" for i in range(30)))
    lines = enabled.run("logs", NAME).stdout.splitlines()
    assert len(lines) == 50
    assert lines[0].endswith("old 10")
    assert lines[-1] == f"{when(1_767_225_600_000)} new 29"  # as every command shows a time
    assert enabled.run("logs", NAME, "--lines", "0").stdout == ""
    data = [json.loads(line) for line in enabled.run("logs", NAME, "--lines", "2", "--json").stdout.splitlines()]
    assert data[1] == {"time": "2026-01-01T00:00:00.000Z", "text": "new 29"}


def test_a_plugin_without_a_log_says_so_and_an_unknown_one_is_an_error(enabled: Operator) -> None:
    result = enabled.run("logs", NAME)
    assert result.stdout == ""
    assert "has written nothing" in result.stderr
    assert "did you mean 'loop-warner'" in enabled.run("logs", "loop-warnr", code=2).stderr
    log(enabled, "secret", name="../outside.log")
    assert "secret" not in enabled.run("logs", "../outside", code=2).stdout


def test_what_is_in_a_log_does_nothing_to_the_terminal(enabled: Operator) -> None:
    log(enabled, "\x1b[2Jgone")
    assert "\\x1b[2Jgone" in enabled.run("logs", NAME).stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_place_of_a_log_is_not_waited_for(enabled: Operator) -> None:
    enabled.home.logs_dir.mkdir()
    os.mkfifo(enabled.home.logs_dir / f"{NAME}.log")
    assert enabled.run("logs", NAME).stdout == ""


@pytest.mark.slow
def test_follow_goes_on_across_a_rotation_and_ends_quietly_with_130(enabled: Operator) -> None:
    log(enabled, "one")
    command = [sys.executable, "-m", "ally_plugins", "logs", NAME, "--follow"]
    env = enabled.environment(PYTHONUNBUFFERED="1")
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().endswith("one\n")
            log(enabled, "two")
            assert process.stdout.readline().endswith("two\n")
            file = enabled.home.logs_dir / f"{NAME}.log"
            log(enabled, "three")
            file.replace(file.with_name(f"{NAME}.log.1"))
            log(enabled, "four")
            assert process.stdout.readline().endswith("three\n")
            assert process.stdout.readline().endswith("four\n")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors == ""
