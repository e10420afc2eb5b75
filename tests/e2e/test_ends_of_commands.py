"""A command that runs daemons is ended from outside: nothing of it is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.processes import below, wait_for_ends

if TYPE_CHECKING:
    from .conftest import Operator

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's"),
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc"),
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on PATH"),
]

DAEMONS = 3


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("SIGINT", "all at the terminal"),
        ("SIGHUP", "all at the terminal"),
        ("SIGTERM", "the command alone"),
        ("SIGKILL", "the command alone"),
    ],
)
def test_a_replay_that_is_ended_leaves_no_process(
    name: str, who: str, operator: Operator, home: Path, failing: Path
) -> None:
    operator.enable_examples(home, "node_outbound", "socket_counter")
    operator.ally("enable", "conversation-monitor", "--yes", home=home)
    operator.ally("place", "conversation-monitor", "process", home=home)
    process = _replay(operator, home, failing)
    try:
        while len(started := list(below(process.pid))) < DAEMONS + 1:  # and the one that starts and ends them
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        number = getattr(signal, name)
        if who == "all at the terminal":
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    wait_for_ends(started)
    assert "Traceback" not in errors
    if name == "SIGINT":
        assert process.returncode == 130, out + errors
    assert operator.ally("hosts", home=home) == "no host runs\n"
    operator.ally("audit", "verify", home=home)


def _replay(operator: Operator, home: Path, session: Path) -> subprocess.Popen[str]:
    """Start a replay that takes hours, as the leader of a group, as a shell does."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    command = [operator.python, "-m", "ally_plugins", "replay", str(session), "--speed", "0.001"]
    return subprocess.Popen(command, env=operator.environment(home), text=True, start_new_session=True, **pipes)
