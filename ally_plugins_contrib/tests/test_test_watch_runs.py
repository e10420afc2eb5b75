"""One run of the tests by test-watch: real children, whose whole tree ends, whatever becomes of who started them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ally_plugins_contrib.test_watch.running import KEPT_BYTES, run

posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes and process groups")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has subreapers")

LEAVES_ITS_GROUP = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open(sys.argv[1], "w") as held:
            held.write("x")
            held.flush()
            time.sleep(600)
    os._exit(0)
with open(sys.argv[1], "w") as held:
    held.write("x")
    held.flush()
    time.sleep(600)
"""
"""A command that ignores SIGTERM, with a grandchild in a session of its own; both hold a pipe open."""

SLEEPS = """
import sys, time
with open(sys.argv[1], "w") as held:
    held.write("x")
    held.flush()
    time.sleep(600)
"""

HOST = """
import asyncio, sys
from pathlib import Path
from ally_plugins_contrib.test_watch.running import run
asyncio.run(run([sys.executable, "-c", *sys.argv[1:]], Path.cwd(), 600))
"""


def python(code: str, *args: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, args)]


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """Return a named pipe: reading it ends when the last process that holds it open has ended."""
    pipe = tmp_path / "held"
    os.mkfifo(pipe)
    return pipe


class Holders:
    """The reading end of the pipe, in a thread, since to open it waits for a first writer."""

    def __init__(self, pipe: Path, count: int) -> None:
        self._pipe = pipe
        self._count = count
        self._reading = -1

    def are_there(self) -> None:
        """Wait until all of them hold it."""
        self._reading = os.open(self._pipe, os.O_RDONLY)
        read = b""
        while len(read) < self._count:
            read += os.read(self._reading, 16)

    def are_gone(self) -> None:
        """Wait until none of them holds it any more: a test that waits for ever fails by its own limit."""
        assert os.read(self._reading, 16) == b""
        os.close(self._reading)


def test_a_run_returns_the_code_and_the_end_of_the_output(tmp_path: Path) -> None:
    code = f"import sys; print('x' * {KEPT_BYTES}); print('last', sys.stdin.read()); sys.exit(3)"
    finished = asyncio.run(run(python(code), tmp_path, 60))
    assert (finished.code, finished.has_passed, finished.could_not_run) == (3, False, False)
    assert finished.output.endswith("x\nlast \n")
    assert len(finished.output) == KEPT_BYTES


@posix
def test_the_end_by_a_signal_is_a_code_as_shells_have_it(tmp_path: Path) -> None:
    finished = asyncio.run(run(python("import os; os.kill(os.getpid(), 9)"), tmp_path, 60))
    assert finished.code == 128 + 9


@posix
def test_what_cannot_be_run_is_no_failure_of_the_tests(tmp_path: Path) -> None:
    async def main() -> None:
        for command, words in [("no-such-program", "No such file"), (str(tmp_path), "Permission denied")]:
            finished = await run([command], tmp_path, 60)
            assert finished.could_not_run
            assert words in finished.output
        finished = await run(python("pass"), tmp_path / "gone", 60)
        assert finished.could_not_run
        assert "gone" in finished.output

    asyncio.run(main())


@pytest.mark.slow
@linux
def test_cancelling_ends_the_whole_tree(tmp_path: Path, held: Path) -> None:
    async def main() -> None:
        holders = Holders(held, 2)
        running = asyncio.create_task(run(python(LEAVES_ITS_GROUP, held), tmp_path, 60))
        await asyncio.to_thread(holders.are_there)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.to_thread(holders.are_gone)

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.slow
@posix
def test_what_takes_too_long_is_stopped_with_all_that_it_has_started(tmp_path: Path, held: Path) -> None:
    async def main() -> None:
        holders = Holders(held, 1)
        there = asyncio.create_task(asyncio.to_thread(holders.are_there))
        finished = await run(python(SLEEPS, held), tmp_path, 2.0)
        assert finished.is_timeout
        assert not finished.has_passed
        await there
        await asyncio.to_thread(holders.are_gone)

    asyncio.run(asyncio.wait_for(main(), 60))


@posix
def test_what_the_command_leaves_behind_ends_with_it(tmp_path: Path, held: Path) -> None:
    leaves = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]); open(sys.argv[2]).read(1)"
    )

    async def main() -> None:
        async with asyncio.timeout(60):
            finished = await run(python(leaves, SLEEPS, held), tmp_path, 50)
        assert finished.code == 0  # and the output has ended, though the child would hold it open for ten minutes

    asyncio.run(main())


@pytest.mark.slow
@linux
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_host_that_is_killed_takes_the_tree_along(how: int, tmp_path: Path, held: Path) -> None:
    holders = Holders(held, 2)
    command = [sys.executable, "-c", HOST, LEAVES_ITS_GROUP, str(held)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as host:
        holders.are_there()
        host.send_signal(how)
    holders.are_gone()


@pytest.mark.slow
@linux
def test_a_keeper_that_is_told_to_end_takes_the_tree_along(tmp_path: Path, held: Path) -> None:
    keeper = Path(str(sys.modules[run.__module__].__file__)).with_name("keeper.py")
    holders = Holders(held, 2)
    command = [sys.executable, "-I", "-S", str(keeper), *python(LEAVES_ITS_GROUP, held)]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE) as process:
        holders.are_there()
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    holders.are_gone()
