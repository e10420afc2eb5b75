"""Round trips between a host and one daemon, and a gate that ten are asked, against everything else that could do it.

All ends are on one core, and everything takes its turns with everything else.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench_bus import commit_one
from daemon_ends import (
    TEXT,
    Call,
    bare_ones,
    grpc_call,
    host_of,
    mcp_clients,
    message_call,
    rpyc_call,
    sdk,
)
from daemon_rows import Row, p50, p99, pinned, row

from ally_plugins import ToolCall
from ally_plugins.journal.schema import connect

if TYPE_CHECKING:
    from ally_plugins import Host

ROUNDS: Final = 7
GATE_ROUNDS: Final = 4
TURNS: Final = 3
"""Turns of each with the same processes."""

DAEMONS: Final = 10
Samples = dict[str, list[float]]
"""Seconds, by what was measured."""


async def _timed(call: Call, count: int) -> list[float]:
    found = []
    await call()
    for _ in range(count):
        start = time.perf_counter()
        await call()
        found.append(time.perf_counter() - start)
    return found


@asynccontextmanager
async def _others(folder: Path) -> AsyncIterator[dict[str, Call]]:
    async with AsyncExitStack() as stack:
        (bare,) = await stack.enter_async_context(bare_ones(1))
        (fast,) = await stack.enter_async_context(bare_ones(1, "echo-uvloop"))
        (client,) = await stack.enter_async_context(mcp_clients(1))
        db = connect(folder / "one.db", create=True)
        stack.callback(db.close)
        numbers = count(1)

        async def commit() -> None:
            await bare.echo()
            number = next(numbers)
            commit_one(db, number)

        yield {
            "bare": bare.echo,
            "uvloop": fast.echo,
            "commit": commit,
            "mcp": lambda: client.call_tool("echo", {"text": TEXT}),
            "message": await stack.enter_async_context(message_call(folder)),
            "rpyc": await stack.enter_async_context(rpyc_call(folder)),
            "grpc": await stack.enter_async_context(grpc_call(folder)),
        }


def _ours(host: Host) -> dict[str, Callable[[int], Awaitable[list[float]]]]:
    """Return what measures this many round trips of each kind; the daemon measures those that it begins."""

    async def asked_of(tool: str, arguments: Mapping[str, Any], times: int) -> list[float]:
        result = await host.call_tool(tool, {**arguments, "times": times}, session_id="s", timeout=120)
        return list(result.data)

    return {
        "get_context": partial(asked_of, "read", {"part": "focus"}),
        "add_message": partial(asked_of, "write", {"text": TEXT}),
        "call_tool": partial(_timed, lambda: host.call_tool("echo", {"text": TEXT}, session_id="s")),
    }


async def _round_trips(folder: Path, times: int) -> Samples:
    async with _others(folder) as others, host_of({"d": sdk("Talker")}, folder / "home") as host:
        session = host.session("s", focus=TEXT)
        measures = _ours(host) | {name: partial(_timed, call) for name, call in others.items()}
        samples: Samples = {name: [] for name in measures}
        for _ in range(TURNS):
            for name, measure in measures.items():
                samples[name] += await measure(times)
            session.inbox = type(session.inbox)()  # what waits for a safe point is not what is measured
    return samples


_TARGETS: Final = {"mcp": "<= 0.125", "message": "<= 0.5", "grpc": "<= 0.5", "rpyc": "-", "uvloop": "-"}
_NAMES: Final = {
    "mcp": "mcp over stdio",
    "message": "a connection a message",
    "grpc": "gRPC",
    "rpyc": "rpyc",
    "uvloop": "a bare protocol with uvloop at the daemon's end",
}


def _rows(samples: Mapping[str, list[float]]) -> list[Row]:
    rows = []
    for name, other in (("get_context", "bare"), ("call_tool", "bare"), ("add_message", "commit")):
        ours, bare = samples[name], samples[other]
        against = "a bare protocol" if other == "bare" else "a bare protocol and one commit"
        rows.append(row(f"{name}: p50, against {against}", p50(ours), p50(bare), "µs", "<= 2"))
        rows.append(row(f"{name}: p99", p99(ours), p99(bare), "µs"))
        if other == "bare":
            rows += [
                row(f"{name}: p50, against {_NAMES[it]}", p50(ours), p50(samples[it]), "µs", target)
                for it, target in _TARGETS.items()
            ]
    return rows


async def _gates(times: int) -> Samples:
    """Ask ten daemons about one tool call at once."""
    call = ToolCall("bash", {"command": TEXT})
    async with (
        bare_ones(DAEMONS) as bares,
        mcp_clients(DAEMONS) as clients,
        host_of({f"d{i}": sdk("Judge") for i in range(DAEMONS)}) as host,
    ):
        session = host.session("s")
        calls: dict[str, Call] = {
            "gate": lambda: session.gate_tool_call(call),
            "bare": lambda: asyncio.gather(*(bare.echo() for bare in bares)),
            "mcp": lambda: asyncio.gather(*(client.call_tool("echo", {"text": TEXT}) for client in clients)),
        }
        samples: Samples = {name: [] for name in calls}
        for _ in range(TURNS):
            for name, it in calls.items():
                samples[name] += await _timed(it, times if name != "mcp" else max(1, times // 5))
    return samples


def _gate_rows(samples: Mapping[str, list[float]]) -> list[Row]:
    name, gate = f"a gate of {DAEMONS} daemons: p50, against", p50(samples["gate"])
    return [
        row(f"{name} a bare protocol", gate, p50(samples["bare"]), "µs", "<= 2"),
        row(f"{name} mcp over stdio", gate, p50(samples["mcp"]), "µs"),
    ]


def _in_fresh_processes(measure: Callable[[], Coroutine[Any, Any, Samples]], rounds: int) -> Samples:
    """Measure again and again, with new processes each time: by luck alone, one is a quarter slower than another."""
    samples: Samples = {}
    for _ in range(rounds):
        for name, found in asyncio.run(measure()).items():
            samples.setdefault(name, []).extend(found)
    return samples


def _in_folder(times: int) -> Coroutine[Any, Any, Samples]:
    async def measure() -> Samples:
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".b-") as name:
            return await _round_trips(Path(name), times)

    return measure()


def run(times: int = 100) -> list[Row]:
    """Measure; `times` is how often each round trip is made in one turn."""
    with pinned():
        trips = _in_fresh_processes(lambda: _in_folder(times), ROUNDS)
        gates = _in_fresh_processes(lambda: _gates(times // 4), GATE_ROUNDS)
    return [*_rows(trips), *_gate_rows(gates)]


if __name__ == "__main__":
    for one in run():
        print(one)
