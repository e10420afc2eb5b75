"""Starting many daemons, what each costs its host, and how soon a crash is noticed and mended."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from daemon_ends import PEERS, host_of, mcp_clients, raw, sdk
from daemon_rows import Row, row

ROUNDS: Final = 5
DAEMONS: Final = 20
SERVERS: Final = 10
MANY: Final = 50


async def _ours_ready() -> float:
    start = time.perf_counter()
    async with host_of({f"d{i}": sdk("Talker") for i in range(DAEMONS)}):
        return time.perf_counter() - start


async def _mcp_ready() -> float:
    start = time.perf_counter()
    async with mcp_clients(SERVERS):
        return time.perf_counter() - start


def _bare_ready() -> float:
    """Start processes with the standard library alone, and ask each whether it is there."""
    start = time.perf_counter()
    command = [sys.executable, "-I", "-S", PEERS, "json"]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) for _ in range(DAEMONS)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"initialize"}\n')
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    seconds = time.perf_counter() - start
    for child in children:
        child.communicate()
    return seconds


async def _ready() -> list[Row]:
    await _ours_ready()  # bytecode and the disk's cache
    ours, other, bare = [], [], []
    for i in range(ROUNDS):
        ours.append(await _ours_ready())
        bare.append(_bare_ready())
        if i < 2:
            other.append(await _mcp_ready())
    found = statistics.median(ours)
    return [
        row(
            f"{DAEMONS} SDK daemons ready, against `python -I -S` and a loop",
            found,
            statistics.median(bare),
            "s",
            "<= 1.5 s",
        ),
        row(f"{DAEMONS} SDK daemons ready, against {SERVERS} mcp servers", found, statistics.median(other), "s"),
    ]


def _resident() -> float:
    """Return the kB of memory that this process has in use."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1000


async def _memory() -> Row:
    """Measure what the host's memory grows by with each daemon, after what all of them share is there."""
    async with host_of({f"d{i}": raw("reader") for i in range(5)}) as host:
        host.session("s")
        before = _resident()
        async with host_of({f"d{i}": raw("reader") for i in range(MANY)}) as other:
            other.session("s")
            found = (_resident() - before) / MANY
    return row("what a daemon costs the host", found, None, "kB", "< 200 kB")


async def _crash() -> tuple[float, float]:
    """Kill a daemon; return the seconds until its plugin is not running any more, and until it is again."""
    async with host_of({"d": sdk("Talker")}) as host:
        states: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        session = host.session("s")
        await session.drained()
        host.stream.subscribe("PLUGIN_STATE", lambda event: states.put_nowait((_state(event), time.perf_counter())))
        start = time.perf_counter()
        os.kill(_pid(), signal.SIGKILL)
        _, noticed = await states.get()
        while True:
            state, at = await states.get()
            if state == "running":
                return noticed - start, at - start


def _state(event: Any) -> str:
    return str(event.state)


def _pid() -> int:
    """Find the daemon: what the host tells nobody, the kernel knows."""
    mine = {os.getpid()}
    for _ in range(2):  # the guardian, and its child
        mine = {int(pid) for one in mine for pid in Path(f"/proc/{one}/task/{one}/children").read_text().split()}
    (pid,) = mine
    return pid


async def _crashes() -> list[Row]:
    found = [await _crash() for _ in range(ROUNDS)]
    noticed, mended = (statistics.median(one) for one in zip(*found, strict=True))
    return [
        row("crash to noticed", noticed * 1e3, None, "ms", "<= 100 ms"),
        row("crash to running again, the first time", mended, None, "s", "<= 1 s"),
    ]


def run() -> list[Row]:
    """Measure."""
    # The memory first, while nothing is free that could be used again.
    return [asyncio.run(_memory()), *asyncio.run(_ready()), *asyncio.run(_crashes())]


if __name__ == "__main__":
    for one in run():
        print(one)
