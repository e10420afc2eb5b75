"""Programs that are run once, by each way to start one: what they wrote is read, whatever they read."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from ally_plugins.runtime.processes.environment import child_environment
from ally_plugins.runtime.processes.programs import run_program
from tests.kit.waiting import go

from .programs import MAKERS, launching, shell, spec

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.contract.programs import Ran
    from ally_plugins.runtime.processes.launcher import Launcher

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")

GIVEN = (b"x", b"x" * 300_000)
"""Input that is written at once, and such of which most waits until the program reads, which it never does."""

ANSWERS = {
    "ends at once": ("echo answer", b"answer\n"),
    "closes its input first": ("exec <&-; sleep 0.02; echo answer", b"answer\n"),
    "writes more than the loop reads in a turn": ("printf %150000s x", b" " * 149_999 + b"x"),
    "fails and says why": ("echo answer; echo why >&2; exit 3", b"answer\n"),
    "leaves a child that holds its output": ("sleep 99 & echo answer", b"answer\n"),
}


async def run(launcher: Launcher, code: str, given: bytes) -> Ran:
    return await run_program(launcher, shell(code), given, 30)


@pytest.mark.parametrize("way", MAKERS)
@pytest.mark.parametrize("how", ANSWERS)
def test_what_a_program_wrote_is_read_though_it_never_reads(how: str, way: str) -> None:
    code, expected = ANSWERS[how]

    async def main() -> list[Any]:
        async with launching(way) as launcher:
            given = GIVEN[:1] if "sleep 99" in code else GIVEN * 3  # ending a group takes seconds where none reaps it
            return [await run(launcher, code, each) for each in given]

    for ran in go(main()):
        assert ran.stdout == expected
        assert not ran.is_cut
        if "why" in code:
            assert (ran.stderr, ran.ended) == (b"why\n", "exited with code 3")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("way", MAKERS)
def test_bash_runs_nothing_of_the_users_before_the_program(way: str, tmp_path: Path) -> None:
    """It would on a socket, where it takes itself for a shell of rshd's; the output would be the tool's answer."""
    (tmp_path / ".bashrc").write_text("echo not the answer\n")
    env = child_environment({"PATH": os.environ["PATH"], "HOME": str(tmp_path)})
    bash = evolve(spec("bash", "-c", "echo answer"), env=env)

    async def main() -> Ran:
        async with launching(way) as launcher:
            return await run_program(launcher, bash, b"", 30)

    ran = go(main())
    assert (ran.stdout, ran.stderr) == (b"answer\n", b"")


@pytest.mark.parametrize("way", MAKERS)
def test_many_at_once_lose_nothing_either(way: str) -> None:
    async def main() -> set[bytes]:
        async with launching(way) as launcher:
            found = await asyncio.gather(*(run(launcher, "echo answer", given) for given in GIVEN * 8))
            return {ran.stdout for ran in found}

    assert go(main()) == {b"answer\n"}
