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

from attrs import evolve
from daemon_ends import PEERS, host_of, mcp_clients, raw, sdk
from daemon_rows import Row, ancestors, cpu_of, row

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
            "<= 2",
        ),
        row(f"{DAEMONS} SDK daemons ready, against {SERVERS} mcp servers", found, statistics.median(other), "s"),
    ]


async def _one_more() -> list[Row]:
    """Start one more daemon of a host that has some, in turns with a Python that does nothing."""
    ours, bare, ours_cpu, bare_cpu = [], [], [], []
    async with host_of({f"d{i}": sdk("Plain") for i in range(2)}) as host:
        supervisor: Any = host.plugins["d0"].supervisor
        above = ancestors(supervisor.process.pid)[1:3]  # the forker and the guardian; its keeper is another each time
        for _ in range(4 * ROUNDS):
            await supervisor.stop("measured")
            start, cpu = time.perf_counter(), time.process_time() + sum(map(cpu_of, above))
            await supervisor.start()
            ours.append(time.perf_counter() - start)
            own = [supervisor.process.pid, *ancestors(supervisor.process.pid)[:1]]
            ours_cpu.append(time.process_time() + sum(map(cpu_of, above)) - cpu + sum(map(cpu_of, own)))
            start, before = time.perf_counter(), os.times()
            await asyncio.to_thread(subprocess.run, [sys.executable, "-c", "pass"], check=True)
            bare.append(time.perf_counter() - start)
            after = os.times()
            bare_cpu.append(after[2] + after[3] - before[2] - before[3])
    name = "one more SDK daemon ready, against `python -c pass`"
    found, other = statistics.median(ours), statistics.median(bare)
    # The bare one by its mean: the kernel counts a child's time in steps of 10 ms.
    cpu, other_cpu = statistics.median(ours_cpu), statistics.mean(bare_cpu)
    return [
        row(name, found * 1e3, other * 1e3, "ms", "<= 1.5"),
        row(f"{name}, processor time of all", cpu * 1e3, other_cpu * 1e3, "ms"),
    ]


async def _private() -> Row:
    """Measure what memory a plugin's process has that no other has, beside the same that was started afresh."""
    daemons = {f"d{i}": evolve(sdk("Talker"), fork=i > 0) for i in range(5)}
    async with host_of(daemons) as host:
        started, *forked = [_private_of(_process(host, name).pid) for name in daemons]
    return row(
        "memory of its own of an SDK daemon, against one that is started",
        statistics.median(forked),
        started,
        "MB",
        "<= 6 MB",
    )


def _private_of(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) / 1024


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
        os.kill(_process(host, "d").pid, signal.SIGKILL)
        _, noticed = await states.get()
        while True:
            state, at = await states.get()
            if state == "running":
                return noticed - start, at - start


def _state(event: Any) -> str:
    return str(event.state)


def _process(host: Any, name: str) -> Any:
    return host.plugins[name].supervisor.process


async def _crashes() -> list[Row]:
    found = [await _crash() for _ in range(ROUNDS)]
    noticed, mended = (statistics.median(one) for one in zip(*found, strict=True))
    return [
        row("crash to noticed", noticed * 1e3, None, "ms", "<= 100 ms"),
        row("crash to running again, the first time", mended * 1e3, None, "ms", "<= 60 ms"),
    ]


def run() -> list[Row]:
    """Measure."""
    # The memory first, while nothing is free that could be used again.
    first = [asyncio.run(_memory()), *asyncio.run(_ready())]
    return [*first, *asyncio.run(_one_more()), asyncio.run(_private()), *asyncio.run(_crashes())]


if __name__ == "__main__":
    for one in run():
        print(one)
