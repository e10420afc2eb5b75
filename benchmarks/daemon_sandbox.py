"""What the placement `sandbox` costs: the same daemons in it and out of it, beside a bare protocol, in turns.

Each round has new processes, since by luck alone one is a quarter slower than another; a ratio is taken within a round,
and the median of the rounds counts. Processor time stands beside the clock: all ends of a round trip together.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen
from daemon_ends import TEXT, Bare, bare_ones, host_of, sdk
from daemon_rows import Row, ancestors, cpu_of, pinned, row

from ally_plugins import Host, ToolCall

if TYPE_CHECKING:
    from ally_plugins.catalog.home.config import Placement

ROUNDS: Final = 9
TURNS: Final = 4
"""Turns of each with the same processes."""

DAEMONS: Final = 10
STARTS: Final = 12
"""Starts of one daemon in each placement, in one round; the first of each is not counted."""

PLACEMENTS: Final[tuple[Placement, ...]] = ("process", "sandbox")
WANTED: Final = {"get_context": 1.8, "call_tool": 1.8, "a gate of 10": 2.0}
"""How often a bare protocol one of each may take in a sandbox, at most."""


@frozen
class Figure:
    """Of one kind of round trip in one round: the median by the clock and the mean of processor time, in seconds."""

    clock: float
    work: float


Measure = Callable[[int], Awaitable[Sequence[float]]]
"""Makes this many round trips and returns the seconds that each took."""

Found = dict[str, list[Figure]]


@asynccontextmanager
async def _hosts(name: str, count: int) -> AsyncIterator[dict[Placement, Host]]:
    """Run a host for each placement, each with its own daemons of a class."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".b-")))
        hosts: dict[Placement, Host] = {}
        for placement in PLACEMENTS:
            daemons = {f"d{i}": sdk(name) for i in range(count)}
            hosts[placement] = await stack.enter_async_context(host_of(daemons, folder / placement, placement))
            hosts[placement].session("s", focus=TEXT)
        yield hosts


def _pids(host: Host) -> list[int]:
    plugins: Any = host.plugins
    return [plugin.supervisor.process.pid for plugin in plugins.values()]


async def _timed(call: Callable[[], Awaitable[Any]], times: int) -> list[float]:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        await call()
        found.append(time.perf_counter() - start)
    return found


async def _reads(host: Host, times: int) -> Sequence[float]:
    arguments = {"part": "focus", "times": times}
    result: Any = await host.call_tool("read", arguments, session_id="s", timeout=120)
    return list(result.data)


async def _in_turns(measures: dict[str, tuple[Measure, list[int]]], times: int) -> dict[str, Figure]:
    """Take all measures in turn, each with its processes; the first turn warms them up."""
    clock: dict[str, list[float]] = {name: [] for name in measures}
    work: dict[str, float] = dict.fromkeys(measures, 0.0)
    for turn in range(TURNS + 1):
        for name, (measure, pids) in measures.items():
            before = time.process_time() + sum(map(cpu_of, pids))
            found = await measure(times)
            if turn > 0:
                clock[name] += found
                work[name] += time.process_time() + sum(map(cpu_of, pids)) - before
    return {name: Figure(statistics.median(clock[name]), work[name] / len(clock[name])) for name in measures}


async def _trips(times: int) -> dict[str, Figure]:
    async with _hosts("Talker", 1) as hosts, bare_ones(1) as (bare,):
        measures: dict[str, tuple[Measure, list[int]]] = {"bare": (partial(_timed, bare.echo), [bare.pid])}
        for placement, host in hosts.items():
            pids = _pids(host)
            tool = partial(host.call_tool, "echo", {"text": TEXT}, session_id="s")
            measures[f"get_context {placement}"] = partial(_reads, host), pids
            measures[f"call_tool {placement}"] = partial(_timed, tool), pids
        return await _in_turns(measures, times)


async def _gates(times: int) -> dict[str, Figure]:
    call = ToolCall("bash", {"command": TEXT})

    async def all_of(bares: Sequence[Bare]) -> None:
        await asyncio.gather(*(each.echo() for each in bares))

    async with _hosts("Judge", DAEMONS) as hosts, bare_ones(DAEMONS) as bares:
        pids = [bare.pid for bare in bares]
        measures: dict[str, tuple[Measure, list[int]]] = {"bare of 10": (partial(_timed, partial(all_of, bares)), pids)}
        for placement, host in hosts.items():
            ask = partial(host.session("s").gate_tool_call, call)
            measures[f"a gate of 10 {placement}"] = partial(_timed, ask), _pids(host)
        return await _in_turns(measures, times)


def _above(pid: int) -> list[int]:
    """Return the processes between one and this host, its parent first."""
    found = ancestors(pid)
    return found[: found.index(os.getpid())]


async def _starts() -> dict[str, Figure]:
    """Start one more daemon of a host that has another, in each placement in turn."""
    clock: dict[Placement, list[float]] = {placement: [] for placement in PLACEMENTS}
    work: dict[Placement, list[float]] = {placement: [] for placement in PLACEMENTS}
    async with _hosts("Plain", 2) as hosts:
        for _ in range(STARTS):
            for placement, host in hosts.items():
                plugins: Any = host.plugins
                supervisor = plugins["d0"].supervisor
                above = _above(supervisor.process.pid)[-2:]  # the forker and the guardian: what is below ends with it
                await supervisor.stop("measured")
                start, before = time.perf_counter(), time.process_time() + sum(map(cpu_of, above))
                await supervisor.start()
                clock[placement].append(time.perf_counter() - start)
                own = [supervisor.process.pid, *_above(supervisor.process.pid)[:-2]]
                work[placement].append(time.process_time() + sum(map(cpu_of, above)) - before + sum(map(cpu_of, own)))
    return {
        f"a start {placement}": Figure(statistics.median(clock[placement][1:]), statistics.median(work[placement][1:]))
        for placement in PLACEMENTS
    }


def _ratio(found: Found, ours: str, other: str, unit: float = 1e6) -> tuple[float, float, float, float]:
    """Return by the clock, then in processor time, the median of the ratios of the rounds, as two figures of a row.

    Ours is that median of the other's, so that the ratio of the row is the ratio that was found.
    """
    pairs = list(zip(found[ours], found[other], strict=True))
    clock = statistics.median(each.clock for each in found[other]) * unit
    work = statistics.median(each.work for each in found[other]) * unit
    return (
        statistics.median(a.clock / b.clock for a, b in pairs) * clock,
        clock,
        statistics.median(a.work / b.work for a, b in pairs) * work,
        work,
    )


def _rows(found: Found) -> list[Row]:
    rows: list[Row] = []
    for name, wanted in WANTED.items():
        bare = "bare of 10" if name == "a gate of 10" else "bare"
        for ours, other, against, target in (
            ("sandbox", f"{name} process", "unsandboxed", "<= 1.05" if wanted < 2 else "-"),
            ("sandbox", bare, "a bare protocol", f"<= {wanted:g}"),
            ("process", bare, "a bare protocol", "-"),
        ):
            where = "sandboxed" if ours == "sandbox" else "unsandboxed"
            clock, other_clock, work, other_work = _ratio(found, f"{name} {ours}", other)
            text = f"{name} {where}, against {against}"
            rows.append(row(f"{text}: p50", clock, other_clock, "µs", target))
            rows.append(row(f"{text}: processor time of all ends", work, other_work, "µs"))
    pairs = list(zip(found["a start sandbox"], found["a start process"], strict=True))
    more = statistics.median(a.clock - b.clock for a, b in pairs) * 1e3
    busy = statistics.median(a.work - b.work for a, b in pairs) * 1e3
    return [
        *rows,
        row("one more SDK daemon ready, sandboxed, more than unsandboxed (bare: wanted)", more, 3.0, "ms", "<= 1"),
        row("the same, processor time of all that take part", busy, 3.0, "ms"),
    ]


def run(times: int = 100, rounds: int = ROUNDS) -> list[Row]:
    """Measure; `times` is how often each round trip is made in one turn."""
    found: Found = {}
    with pinned():
        for _ in range(rounds):
            for figures in (_trips(times), _gates(times // 4), _starts()):
                for name, figure in asyncio.run(figures).items():
                    found.setdefault(name, []).append(figure)
    return _rows(found)


if __name__ == "__main__":
    for one in run():
        print(one)
