"""What tests of real processes need: launchers of each kind, a protocol that keeps what it hears, small programs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ally_plugins.contract.process_spec import ProcessLimits
from ally_plugins.runtime.processes.direct import DirectLauncher
from ally_plugins.runtime.processes.guardian_client import GuardedLauncher
from ally_plugins.runtime.processes.piped import PipedLauncher
from ally_plugins.runtime.processes.process import Exit, Process, ProcessSpec
from tests.kit.waiting import PATIENCE

if TYPE_CHECKING:
    from ally_plugins.runtime.processes.launcher import Launcher

NO_LIMITS = ProcessLimits(memory_mb=None, cpu_seconds=None, file_mb=None, descriptors=None)

MAKERS: dict[str, Callable[[], Launcher]] = {
    "guardian": GuardedLauncher,
    "direct": DirectLauncher,
    "piped": PipedLauncher,
}

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(99)"
POLITE = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'bye\\n'), os._exit(7)))
print('ready', flush=True); time.sleep(99)
"""
FAMILY = "sleep 99 & sleep 98 & (sleep 97 & sleep 96) & echo ready; wait"
HIDDEN = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        print(os.getpid(), flush=True)
        time.sleep(99)
    os._exit(0)
time.sleep(99)
"""
WIPED = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        os.execve('/bin/sh', ['sh', '-c', 'echo $$; exec /bin/sleep 99'], {})
    os._exit(0)
time.sleep(99)
"""
STORM = """
import os, time
print('ready', flush=True)
for _ in range(60):
    if os.fork() == 0:
        os.setsid() if os.getpid() % 2 else None
        end = time.monotonic() + 99
        while time.monotonic() < end:
            if os.fork(): os._exit(0)
            time.sleep(0.01)
time.sleep(99)
"""


class Talk(asyncio.Protocol):
    """Keeps what a process says on its standard output."""

    def __init__(self) -> None:
        self.said = b""
        self.lost = asyncio.get_running_loop().create_future()
        self._news = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.said += data
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)
        self._news.set()

    async def line(self) -> str:
        """Take the next line."""
        async with asyncio.timeout(PATIENCE):
            while b"\n" not in self.said:
                assert not self.lost.done(), "it ended without a line"
                self._news.clear()
                await self._news.wait()
        line, _, self.said = self.said.partition(b"\n")
        return line.decode()


@contextlib.asynccontextmanager
async def launching(way: str) -> AsyncIterator[Launcher]:
    launcher = MAKERS[way]()
    try:
        yield launcher
    finally:
        await launcher.close()


def spec(*argv: str, cwd: str = "/", limits: ProcessLimits = NO_LIMITS, stdio: bool = True, **env: str) -> ProcessSpec:
    environment = {"PATH": os.environ["PATH"], **env}
    return ProcessSpec(name="x", argv=argv, cwd=cwd, env=environment, limits=limits, stdio=stdio)


def python(code: str, **options: Any) -> ProcessSpec:
    return spec(sys.executable, "-I", "-S", "-c", code, **options)


def shell(code: str, **options: Any) -> ProcessSpec:
    return spec("/bin/sh", "-c", code, **options)


def ignore(_: bytes) -> None:
    """Take what nobody looks at."""


async def launch(launcher: Launcher, what: ProcessSpec, on_stderr: Callable[[bytes], None] | None = None) -> Process:
    return await launcher.launch(what, Talk, on_stderr or ignore)


def talk(process: Process) -> Talk:
    assert isinstance(process.protocol, Talk)
    return process.protocol


async def end_of(process: Process) -> Exit:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.shield(process.exited)


def marked(wanted: bytes) -> list[int]:
    """Return the processes that have a variable, as NAME=value, in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
