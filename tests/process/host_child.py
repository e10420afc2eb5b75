"""A host with daemons of several kinds, which is killed from outside; `MARK=...` marks all that it starts."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from ally_plugins.runtime.processes.launching import make_launcher
from ally_plugins.runtime.processes.process import ProcessSpec

HIDDEN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
    print('ready', flush=True)
    time.sleep(600)
print('ready', flush=True)
time.sleep(600)
"""
FORKER = """
import os, time
print('ready\\n' * 3, flush=True)
end = time.monotonic() + 600
while time.monotonic() < end:
    if os.fork(): os._exit(0)
    os.setsid()
    time.sleep(0.002)
"""


class _Count(asyncio.Protocol):
    ready = 0
    are_ready = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Count the lines."""
        _Count.ready += data.count(b"ready")
        if _Count.ready >= 12:
            self.are_ready.set()


def _fork() -> int:
    """Make a copy of the host that holds its descriptors."""
    forked = os.fork()
    if forked == 0:
        time.sleep(600)
        os._exit(0)
    return forked


async def _main(mark: str, *, has_forked: bool) -> None:
    launcher = make_launcher("guardian")
    name, _, value = mark.partition("=")
    environment = {name: value, "PATH": os.environ["PATH"]}
    for code in (HIDDEN, FORKER, HIDDEN, HIDDEN):
        spec = ProcessSpec(name="x", argv=(sys.executable, "-I", "-S", "-c", code), cwd="/", env=environment)
        await launcher.launch(spec, _Count, lambda _: None)
    await _Count.are_ready.wait()
    forked = _fork() if has_forked else 0
    print("ready", forked, flush=True)  # noqa: T201
    await asyncio.sleep(600)


asyncio.run(_main(sys.argv[1], has_forked=sys.argv[2] == "fork"))
