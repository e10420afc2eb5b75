"""The product opens no connection of its own, whatever is run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Operator

CHILD = Path(__file__).with_name("closed_network.py")


@pytest.mark.slow
def test_no_command_and_no_host_opens_a_connection_that_leaves_the_machine(warner: Operator) -> None:
    command, env = [sys.executable, str(CHILD)], warner.environment()
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["tried"] == ["on purpose: socket.connect"], found["ended"]
    ran = {name for name, code in found["ended"].items() if code == 0}
    assert {"list", "audit verify", "run --model offline say hello", "purge s1 --yes"} <= ran, found["ended"]
