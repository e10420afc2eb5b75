"""One plugin of each kind in an agent whose loop is not asyncio's own, or not in the main thread."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kit.processes import wait_for_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Agent, Operator

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform == "win32", reason="the examples are for Unix"),
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on PATH"),
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc"),
]

SDK, NODE, CODE_ALLY = "conversation-monitor", "node_outbound", "socket_talkback"
KILLED = re.compile(r"process of the plugin '[\w-]+' failed: was killed by SIGKILL after .*")


@pytest.fixture(scope="module")
def with_uvloop(operator: Operator) -> None:
    """Install uvloop where it can be had."""
    try:
        operator.pip("install", "uvloop")
    except subprocess.CalledProcessError:
        pytest.skip("uvloop cannot be installed here")


@pytest.mark.parametrize("how", ["uvloop", "thread"])
def test_every_kind_of_daemon_starts_speaks_dies_and_comes_back(
    how: str,
    request: pytest.FixtureRequest,
    operator: Operator,
    home: Path,
    agent_of: Callable[..., Agent],
) -> None:
    if how == "uvloop":
        request.getfixturevalue("with_uvloop")
    operator.enable_examples(home, "node_outbound", "socket_talkback", "shell_tool")
    operator.ally("enable", SDK, "--yes", home=home)
    operator.ally("place", SDK, "process", home=home)

    agent = agent_of(home, how)
    assert agent.loop.startswith("uvloop") is (how == "uvloop")
    assert set(agent.ask("states")) == {SDK, NODE, CODE_ALLY, "shell_tool"}
    _use(agent, __file__)
    assert set(agent.ask("said")) == {"hello from Node", "bash failed 3 times in a row; try another way"}

    first = agent.processes()
    (host,) = operator.ask("hosts", home=home)["hosts"]
    pids = [plugin["pid"] for plugin in host["plugins"] if plugin["name"] in (SDK, NODE)]  # at once again; others wait
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for_ends(pids)
    for name in (SDK, NODE, CODE_ALLY):
        agent.ask("until", name, "running")
        assert "is running" in operator.ally("restart", name, home=home)
    _use(agent, __file__)

    last = agent.processes()
    out, errors = agent.end()
    assert (agent.process.returncode, out) == (0, '"stopped"\n')
    assert [line for line in errors.splitlines() if not KILLED.match(line)] == []
    wait_for_ends([*first, *last])


def _use(agent: Agent, file: str) -> None:
    """Have each say something."""
    agent.ask("fail", 3)
    assert agent.ask("gate", "rm -rf /") == "node_outbound: that would remove everything"
    assert agent.ask("tool", "outbound-report")["success"]
    assert agent.ask("tool", "get_conversation_stats")["success"]
    assert agent.ask("tool", "count-lines", {"path": file})["success"]
    while agent.ask("tool", "get-warnings")["output"] == "none":  # events come over connections of their own
        pass
