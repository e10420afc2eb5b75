"""Events to many daemons, and what one daemon's flood does to another.

The readers are the same processes for us and for the bare loop, and do nothing but decode: it is the host that is
measured. Rounds are interleaved; nothing is pinned, since fan-out is about throughput.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from daemon_ends import ISOLATED, TEXT, Bare, bare_ones, host_of, mcp_clients, published, raw, sdk
from daemon_rows import Row, p99, row

from ally_plugins import ToolCallEnd

if TYPE_CHECKING:
    from ally_plugins.host.sessions.session import Session

ROUNDS: Final = 5
TURN: Final = 100
"""Events that are emitted before the loop has its turn."""


def _events(count: int) -> list[ToolCallEnd]:
    return [ToolCallEnd(tool_name="bash", success=True, call_id="c1", output=TEXT) for _ in range(count)]


def _line(number: int) -> bytes:
    """Return an event as the bare loop and pyzmq send it: as long as ours, and encoded at the time."""
    params = {
        "event_type": "TOOL_CALL_END",
        "event_data": {"toolName": "bash", "callId": "c1", "success": True, "output": TEXT},
        "timestamp": 1_700_000_000_000,
        "id": f"s:{number}",
        "seq": number,
        "session_id": "s",
        "origin": [],
    }
    return orjson.dumps({"jsonrpc": "2.0", "method": "on_event", "params": params}) + b"\n"


@contextmanager
def _no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _ours(session: Session, count: int) -> float:
    events = _events(count)
    with _no_collections():
        start = time.perf_counter()
        for i in range(0, count, TURN):
            for event in events[i : i + TURN]:
                session.emit(event)
            await asyncio.sleep(0)
        await session.drained()
        return time.perf_counter() - start


async def _bare(readers: Sequence[Bare], count: int) -> float:
    with _no_collections():
        start = time.perf_counter()
        for i in range(0, count, TURN):
            data = b"".join([_line(number) for number in range(i, i + TURN)])
            for reader in readers:
                reader.transport.write(data)
            await asyncio.sleep(0)
        await asyncio.gather(*(reader.ask("drain", {}) for reader in readers))
        return time.perf_counter() - start


def _zmq(publish: Callable[[Iterable[bytes]], None], count: int) -> float:
    with _no_collections():
        start = time.perf_counter()
        publish(_line(number) for number in range(count))
        return time.perf_counter() - start


async def _mcp(clients: Sequence[Any], count: int) -> float:
    """Send notifications, and ask each server after them how many it has heard."""
    import mcp_types as types

    params = types.ProgressNotificationParams(progress_token="t", progress=1, message=TEXT)  # noqa: S106
    notification = types.ProgressNotification(params=params)

    async def tell(client: Any) -> None:
        for _ in range(count):
            await client.session.send_notification(notification)

    async def heard(client: Any) -> int:
        return int((await client.call_tool("heard", {})).content[0].text)

    before = await heard(clients[0])
    start = time.perf_counter()
    await asyncio.gather(*(tell(client) for client in clients))
    for client in clients:
        while await heard(client) < before + count:
            pass
    return time.perf_counter() - start


async def _fan_out(count: int, events: int, folder: Path, *, with_zmq: bool) -> list[Row]:
    seconds: dict[str, list[float]] = {"ours": [], "bare": [], "zmq": []}
    with ExitStack() as stack:
        publish = stack.enter_context(published(folder, count)) if with_zmq else None
        daemons = {f"d{i}": raw("reader") for i in range(count)}
        async with bare_ones(count, "reader", ISOLATED) as readers, host_of(daemons) as host:
            session = host.session("s")
            for _ in range(ROUNDS + 1):
                seconds["ours"].append(await _ours(session, events))
                seconds["bare"].append(await _bare(readers, events))
                if publish is not None:
                    seconds["zmq"].append(_zmq(publish, events))
    # The first round warms up.
    rates = {name: count * events / statistics.median(found[1:]) for name, found in seconds.items() if found}
    name, unit = f"fan-out to {count} daemons", "deliveries/s"
    rows = [row(f"{name}, against a bare loop", rates["ours"], rates["bare"], unit, ">= 0.6")]
    if "zmq" in rates:
        rows.append(row(f"{name}, against pyzmq PUB/SUB", rates["ours"], rates["zmq"], unit, "> 1"))
    return rows


async def _fan_out_to_handlers(count: int, events: int) -> list[Row]:
    """Let handlers hear the events: of daemons of our SDK, and of mcp servers."""
    ours, other = [], []
    async with mcp_clients(count) as clients, host_of({f"d{i}": sdk("Listener") for i in range(count)}) as host:
        session = host.session("s")
        for _ in range(3):
            ours.append(count * events / await _ours(session, events))
            other.append(count * 100 / await _mcp(clients, 100))
    rates = statistics.median(ours), statistics.median(other)
    return [row(f"events heard by hooks in {count} SDK daemons, against mcp notifications", *rates, "deliveries/s")]


async def _emit(kind: str, count: int) -> Row:
    """Measure what one emit costs whoever emits."""
    found = []
    async with host_of({f"d{i}": raw(kind) for i in range(count)}) as host:
        session = host.session("s")
        for _ in range(15):
            events, emit = _events(1000), session.emit
            with _no_collections():
                start = time.perf_counter()
                for event in events:
                    emit(event)
                found.append((time.perf_counter() - start) / len(events) * 1e6)
            if kind == "reader":
                await session.drained()
            else:
                await asyncio.sleep(0.01)
    what = "daemons that read" if kind == "reader" else "stuck daemons"
    return row(f"emit, {count} {what}", statistics.median(found), None, "µs", "<= 2 µs")


async def _flood(count: int) -> list[Row]:
    """Let one daemon send notifications as fast as it can, and make round trips to another meanwhile."""
    found: Mapping[str, list[float]] = {"before": [], "meanwhile": []}
    async with host_of({"flood": raw("flood", str(count)), "d": sdk("Talker")}) as host:
        session = host.session("s")

        async def round_trip(name: str) -> None:
            start = time.perf_counter()
            await host.call_tool("echo", {"text": TEXT}, plugin="d", session_id="s")
            found[name].append(time.perf_counter() - start)
            await asyncio.sleep(0.001)

        for _ in range(200):
            await round_trip("before")
        start = time.perf_counter()
        session.emit(_events(1)[0])
        flooded = asyncio.ensure_future(session.drained())
        while not flooded.done():
            await round_trip("meanwhile")
        seconds = time.perf_counter() - start
    return [
        row(
            f"p99 of call_tool beside a flood of {count:,} notifications (bare: without it)",
            p99(found["meanwhile"]) / 1e3,
            p99(found["before"]) / 1e3,
            "ms",
            "< 50 ms",
        ),
        row("notifications of the flood, refused by budget", count / seconds, None, "notifications/s"),
    ]


def run(events: int = 4_000, flood: int = 1_000_000) -> list[Row]:
    """Measure; `events` is how many each of ten daemons hears in each round."""
    with tempfile.TemporaryDirectory(prefix="b-") as name:
        folder = Path(name)
        return [
            *asyncio.run(_fan_out(10, events, folder, with_zmq=False)),
            *asyncio.run(_fan_out(50, events // 2, folder, with_zmq=True)),
            *asyncio.run(_fan_out_to_handlers(10, events // 4)),
            *[asyncio.run(_emit(kind, count)) for kind in ("reader", "stuck") for count in (10, 50)],
            *asyncio.run(_flood(flood)),
        ]


if __name__ == "__main__":
    for one in run():
        print(one)
