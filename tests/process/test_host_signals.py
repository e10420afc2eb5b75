"""What SIGTERM and SIGHUP do to a program with a host that does not handle them."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from ally_plugins.journal.reader import JournalReader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")

BEGIN = """
import asyncio, os, signal, sys
from ally_plugins import BlockingHost, Host, hookimpl

class Plugin:
    def __init__(self, ally):
        pass

    @hookimpl
    def ally_stop(self):
        os.write(1, b"stopped\\n")  # at once: `print` of two threads may mix their line ends

given = {"home": sys.argv[1], "plugins": {"p": Plugin}, "discover": False}

def ready():
    print("ready", flush=True)
"""
ASYNC = """
async def main():
    async with Host("test", **given) as host:
        host.session("s")
        try:
            ready()
            await asyncio.sleep(60)
        finally:
            print("left", flush=True)

asyncio.run(main())
"""
TWO = """
async def one(name, started):
    async with Host("test", **{**given, "home": sys.argv[1] + name}) as host:
        host.session("s")
        started.set()
        await asyncio.sleep(60)

async def main():
    events = [asyncio.Event(), asyncio.Event()]
    tasks = [asyncio.create_task(one(name, event)) for name, event in zip("ab", events)]
    for event in events:
        await event.wait()
    ready()
    await asyncio.gather(*tasks, return_exceptions=True)

asyncio.run(main())
"""
BLOCKING = """
import time

with BlockingHost("test", **given) as host:
    host.session("s")
    try:
        ready()
        time.sleep(60)
    finally:
        print("left", flush=True)
"""
HANDLED = """
async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: print("handled", flush=True) or done.set())
    done = asyncio.Event()
    async with Host("test", **given) as host:
        host.session("s")
        ready()
        await done.wait()
    print("end", flush=True)

asyncio.run(main())
"""
FORKED = """
async def main():
    async with Host("test", **given) as host:
        host.session("s")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, b"x")  # Python drops the signals that come before it is ready in a fork
            signal.pause()
        os.read(reader, 1)
        os.kill(child, signal.SIGTERM)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        ready()
    print("end", flush=True)

asyncio.run(main())
"""
STARTING = """
class Slow(Plugin):
    @hookimpl
    async def ally_start(self):
        ready()
        await asyncio.Event().wait()

given["plugins"]["slow"] = Slow
"""
STARTING_ASYNC = f"""{STARTING}
async def main():
    async with Host("test", **given):
        print("started", flush=True)

asyncio.run(main())
"""
STARTING_BLOCKING = f"""{STARTING}
with BlockingHost("test", **given):
    print("started", flush=True)
"""
STUCK = """
import time

async def main():
    async with Host("test", **given) as host:
        ready()
        while True:
            time.sleep(0.05)

asyncio.run(main())
"""


class Program:
    """A program with a host, and what it prints."""

    def __init__(self, code: str, home: Path) -> None:
        # Newer Pythons warn of a fork beside threads, which is what is tried here.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", BEGIN + textwrap.dedent(code), str(home)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.home = home
        assert self.process.stdout is not None
        self.before = ""
        while (line := self.process.stdout.readline()) not in {"ready\n", ""}:
            self.before += line

    def get(self, number: signal.Signals) -> tuple[int, str]:
        """Send it a signal; return its exit code and what it has printed since."""
        self.process.send_signal(number)
        out, errors = self.process.communicate(timeout=60)
        assert errors == ""
        return self.process.returncode, out

    def has_recorded_the_end(self, folder: str = "") -> bool:
        with JournalReader(type(self.home)(f"{self.home}{folder}") / "journal.db") as reading:
            return "SESSION_END" in [event.type for event in reading.events("s")]


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    begun: list[Program] = []
    yield begun
    for program in begun:
        program.process.kill()
        program.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("code", [ASYNC, BLOCKING], ids=["async", "blocking"])
def test_a_host_stops_in_order_and_the_signal_ends_its_program(
    tmp_path: Path, programs: list[Program], code: str, number: signal.Signals
) -> None:
    programs.append(program := Program(code, tmp_path))
    assert program.get(number) == (-number, "left\nstopped\n")
    assert program.has_recorded_the_end()


@pytest.mark.slow
@pytest.mark.parametrize("code", [STARTING_ASYNC, STARTING_BLOCKING], ids=["async", "blocking"])
def test_plugins_that_have_started_are_stopped_while_their_host_still_starts_others(
    tmp_path: Path, programs: list[Program], code: str
) -> None:
    programs.append(program := Program(code, tmp_path))
    assert program.get(signal.SIGTERM) == (-signal.SIGTERM, "stopped\n")


@pytest.mark.slow
def test_all_hosts_of_a_process_stop_before_it_ends(tmp_path: Path, programs: list[Program]) -> None:
    programs.append(program := Program(TWO, tmp_path / "home-"))
    assert program.get(signal.SIGTERM) == (-signal.SIGTERM, "stopped\nstopped\n")
    assert program.has_recorded_the_end("a")
    assert program.has_recorded_the_end("b")


@pytest.mark.slow
def test_a_program_that_handles_the_signal_goes_on_doing_so(tmp_path: Path, programs: list[Program]) -> None:
    programs.append(program := Program(HANDLED, tmp_path))
    assert program.get(signal.SIGTERM) == (0, "handled\nstopped\nend\n")


@pytest.mark.slow
def test_a_fork_is_ended_at_once_and_its_parents_host_goes_on(tmp_path: Path, programs: list[Program]) -> None:
    programs.append(program := Program(FORKED, tmp_path))
    assert program.before == f"{-signal.SIGTERM}\n"
    assert program.process.stdout is not None
    # Not `communicate`, which knows nothing of what was read with the line before: this program waits for nothing.
    assert program.process.stdout.read() == "stopped\nend\n"
    assert program.process.communicate(timeout=60) == ("", "")


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_a_loop_that_is_stuck(tmp_path: Path, programs: list[Program]) -> None:
    programs.append(program := Program(STUCK, tmp_path))
    program.process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        program.process.wait(0.3)
    assert program.get(signal.SIGTERM)[0] == -signal.SIGTERM
