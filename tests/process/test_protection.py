"""What a process of the same user cannot read of the guardian, and of a host that asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins.runtime.processes.launching import is_guardian_possible

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not is_guardian_possible(), reason="no guardian on this machine")

WITHOUT_CAPABILITIES = """
import ctypes, os, sys
# Out of the bounding set: root then has none after `exec`, and may do in this no more than any other user.
for capability in range(64):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
ORDINARY = [sys.executable, "-I", "-S", "-c", WITHOUT_CAPABILITIES]


def is_open(pid: int) -> bool:
    """Say whether an ordinary process reads the environment of another one of its user."""
    return subprocess.run([*ORDINARY, "cat", f"/proc/{pid}/environ"], capture_output=True, check=False).returncode == 0


@contextmanager
def running(script: str, *words: str) -> Iterator[list[int]]:
    """Run a script as an ordinary user, until the end of the block; the numbers that it prints once it is ready."""
    program = [*ORDINARY, sys.executable, "-c", script, *words]
    env = {**os.environ, "MODEL_API_KEY": "sk-1234"}
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        yield [int(word) for word in process.stdout.readline().split()]
        process.communicate(b"x")
    assert process.returncode == 0


GUARDIAN = """
import asyncio, sys
sys.path.append(sys.argv[1])  # last: the package is the installed one
from ally_plugins.runtime.processes.guardian_client import GuardedLauncher
from tests.process.programs import launch, python

async def main():
    launcher = GuardedLauncher()
    process = await launch(launcher, python("input()", cwd="/"))
    print(launcher.guardian_pid, process.pid, flush=True)
    sys.stdin.read(1)
    await launcher.close()

asyncio.run(main())
"""


def test_nothing_of_the_hosts_environment_is_in_the_guardian_and_nobody_may_look_into_it() -> None:
    with running(GUARDIAN, str(Path(__file__).parents[2])) as (guardian, daemon):
        assert not is_open(guardian)
        keeper = int(Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()[1])
        assert not is_open(keeper)
        # A daemon is a process as any other.
        assert is_open(daemon)
        if os.geteuid() == 0:  # who may look all the same
            found = Path(f"/proc/{guardian}/environ").read_bytes().split(b"\0")
            assert [line for line in found if line and not line.startswith(b"LD_LIBRARY_PATH=")] == []


HOST = """
import asyncio, os, sys
from ally_plugins import Host

async def main():
    async with Host("test", home=None, protect=sys.argv[1] == "protected"):
        print(os.getpid(), flush=True)
        sys.stdin.read(1)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["protected", "ordinary"])
def test_a_host_is_closed_to_other_processes_of_its_user_only_when_its_author_says_so(kind: str) -> None:
    with running(HOST, kind) as (host,):
        assert is_open(host) == (kind == "ordinary")
