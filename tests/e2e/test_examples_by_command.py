"""The examples as an operator meets them, from the wheels alone: agreed to, replayed, called, looked at, restarted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.processes import wait_for_ends
from tests.kit.wheels import build_wheel

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Agent, Operator

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform == "win32", reason="the examples are for Unix"),
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on PATH"),
]

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = ("socket_counter", "socket_talkback", "node_outbound", "shell_tool")
DAEMONS = ("socket_counter", "socket_talkback", "node_outbound", "failure-watch")
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def operator(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """Return an operator who has installed the fifth example too."""
    folder = tmp_path_factory.mktemp("placed_plugin")
    shutil.copytree(EXAMPLES / "placed_plugin", folder / "source")
    build_wheel(folder / "source", folder / "dist")
    operator.pip("install", *(str(wheel) for wheel in (folder / "dist").glob("*.whl")))
    return operator


@pytest.fixture
def enabled(operator: Operator, home: Path) -> Path:
    """Return a home with all five examples, each in a process."""
    operator.enable_examples(home, *FOLDERS)
    operator.ally("enable", "failure-watch", "--yes", home=home)
    operator.ally("place", "failure-watch", "process", home=home)
    return home


def test_all_of_it_is_shown_before_anything_runs_and_nothing_runs_without_consent(
    operator: Operator, home: Path, failing: Path
) -> None:
    for name in FOLDERS:
        shutil.copytree(EXAMPLES / name, home / "plugins" / name)
    asked = operator.ally("review", home=home)
    for command in ("python3 daemon.py", "node daemon.js", "/bin/sh count_lines.sh"):
        assert command in asked
    for name in FOLDERS:
        operator.ally("enable", name, home=home, code=1)
    report = operator.ask("replay", str(failing), home=home)
    assert not set(FOLDERS) & set(report["plugins"])
    assert not list(home.glob("logs/*"))


def test_a_replay_runs_them_and_what_they_say_is_in_the_conversation(
    operator: Operator, enabled: Path, failing: Path, tmp_path: Path
) -> None:
    out = tmp_path / "conversation.jsonl"
    report = operator.ask("replay", str(failing), "--out", str(out), home=enabled)
    plugins = report["plugins"]
    assert {plugins[name]["state"] for name in (*DAEMONS, "shell_tool")} == {"running"}
    assert {plugins[name]["crashes"] for name in DAEMONS} == {0}
    assert (plugins["socket_counter"]["delivered"], plugins["socket_talkback"]["delivered"]) == (8, 4)
    assert (plugins["node_outbound"]["messages"], plugins["node_outbound"]["emitted"]) == (1, 1)
    assert plugins["failure-watch"]["messages"] == 1
    conversation = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    said = {m["metadata"]["sourcePlugin"]: m for m in conversation if m["metadata"].get("isPluginGenerated")}
    assert said["node_outbound"]["content"] == "hello from Node"
    assert said["failure-watch"]["content"] == "Bash failed 3 times in a row; try another way"

    assert "hello from Node" in operator.ally("explain", said["node_outbound"]["id"], home=enabled)
    assert "Bash reached the limit" in operator.ally("logs", "failure-watch", home=enabled)
    assert "listening" in operator.ally("logs", "socket_counter", home=enabled)
    operator.ally("audit", "verify", home=enabled)
    operator.ally("doctor", home=enabled)


def test_a_tool_of_each_answers_to_a_command(operator: Operator, enabled: Path, tmp_path: Path) -> None:
    file = tmp_path / "two.txt"
    file.write_text("a\nb\n", "utf-8")
    arguments = ("--args", json.dumps({"path": str(file)}))
    assert operator.ally("call", "shell_tool", "count-lines", *arguments, home=enabled) == "2 lines\n"
    assert operator.ally("call", "socket_counter", "get-event-counts", home=enabled) == "nothing yet\n"
    assert operator.ally("call", "socket_talkback", "get-warnings", home=enabled) == "none\n"
    assert operator.ask("call", "failure-watch", "failure-counts", home=enabled)["data"]["failures"] == {}
    operator.ally("call", "node_outbound", "outbound-report", home=enabled, code=1)  # nobody has said anything yet


@pytest.mark.long
@needs_proc
def test_commands_reach_a_running_agent_and_nothing_of_it_outlives_it(
    operator: Operator, enabled: Path, agent_of: Callable[..., Agent]
) -> None:
    agent = agent_of(enabled)
    agent.ask("fail", 3)
    assert agent.ask("tool", "outbound-report")["success"]
    before = _pids(operator, enabled)
    assert set(before) == set(DAEMONS)
    for name in (*DAEMONS, "shell_tool"):
        assert "is running" in operator.ally("restart", name, home=enabled)
    after = _pids(operator, enabled)
    assert all(after[name] != before[name] for name in DAEMONS)
    wait_for_ends(before.values())

    assert agent.ask("gate", "rm -rf /") == "node_outbound: that would remove everything"
    operator.ally("disable", "node_outbound", home=enabled)
    assert agent.ask("gate", "rm -rf /") == ""
    operator.ally("enable", "node_outbound", "--yes", home=enabled)
    assert agent.ask("gate", "rm -rf /") == "node_outbound: that would remove everything"

    started = agent.processes()
    assert set(_pids(operator, enabled).values()) <= set(started)
    os.kill(agent.process.pid, signal.SIGKILL)
    wait_for_ends(started)
    assert operator.ally("hosts", home=enabled) == "no host runs\n"


def _pids(operator: Operator, home: Path) -> dict[str, Any]:
    (host,) = operator.ask("hosts", home=home)["hosts"]
    return {plugin["name"]: plugin["pid"] for plugin in host["plugins"] if "pid" in plugin}
