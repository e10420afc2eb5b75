"""Records of a home to the server and into the collector's file, and a shared plugin's gate, against bare nats-py.

The bare publisher sends each record as a message of its own and waits for all acknowledgements, up to 256 at once; the
bare collector fetches what ours does and acknowledges it, keeping nothing. The server syncs each acknowledged write.
The gate is that of a plugin in a sandbox at a worker, asked by a session of a host; the bare request is answered by a
nats-py client in a process of its own, of as many bytes; a third is the gate of the same plugin in a sandbox beside the
host. They take turns.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fleet_worker import NAME, record

from ally_plugins import Host, ToolCall
from ally_plugins.fleet.collector import collect
from ally_plugins.fleet.connection import connected
from ally_plugins.fleet.credentials import COLLECTOR, STREAM, hello_subject, read_credentials, records_subject
from ally_plugins.fleet.publisher import publish
from ally_plugins.fleet.server import Listen, init
from ally_plugins.fleet.store import open_store
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import Record

if TYPE_CHECKING:
    from ally_plugins.catalog.home.config import Placement

_RECORDS: Final = 20_000
_BARE: Final = 1_000  # as many take the bare publisher a second or two
_AT_ONCE: Final = 256
_ROUNDS: Final = 3
_TURNS: Final = 20
_CALLS: Final = 100
_PACED_CALLS: Final = 20
_PACE_S: Final = 0.005
_TEXT: Final = "bash failed three times with the same arguments; try another way, or ask the person what is meant"


@contextmanager
def _server(folder: Path) -> Iterator[Path]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    init(folder, ["ours", "bare"], Listen(port=port), {"worker": [NAME], "answerer": [NAME]})
    program = Path(sys.executable).with_name("nats-server")
    with subprocess.Popen([program, "-c", folder / "server.conf"], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.01)
        try:
            yield folder
        finally:
            process.kill()


async def _rate(count: int, work: Awaitable[Any]) -> float:
    began = time.perf_counter()
    await work
    return count / (time.perf_counter() - began)


async def _publish_bare(folder: Path, contents: list[bytes]) -> None:
    async with connected(read_credentials(folder / "bare.toml")) as client:
        stream, subject = client.jetstream(publish_async_max_pending=_AT_ONCE), records_subject("bare")
        await asyncio.gather(*[await stream.publish_async(subject, each) for each in contents])


async def _collect_bare(folder: Path) -> None:
    async with connected(read_credentials(folder / "collector.toml")) as client:
        subscription = await client.jetstream().pull_subscribe(records_subject("*"), durable="bare", stream=STREAM)
        with suppress(TimeoutError):
            while True:
                for message in await subscription.fetch(64, timeout=0.5):
                    await message.ack()


async def _measure(folder: Path, number: int) -> dict[str, tuple[float, float]]:
    ours, collector = read_credentials(folder / "ours.toml"), read_credentials(folder / f"{COLLECTOR}.toml")
    journal = Journal.open(folder / f"journal-{number}.db")
    for each in range(_RECORDS):
        journal.append_soon(Record("note", each, "loop-guard", "s-1", data={"text": _TEXT, "number": each}))
    journal.flush_blocking()
    with JournalReader(journal.path) as reading:
        contents = [each.content or b"" for each in reading.chained(0, 2**40)[:_BARE]]
    with open_store(str(folder / f"fleet-{number}.db"), create=True) as store:
        await collect(collector, store, once=True)  # makes the stream
        published = await _rate(_RECORDS, publish(ours, journal.path, once=True))
        bare = await _rate(_BARE, _publish_bare(folder, contents))
        # The half second in which nothing comes any more is in both.
        collected = await _rate(_RECORDS, collect(collector, store, once=True))
        fetched = await _rate(_BARE, _collect_bare(folder))
    journal.close_blocking()
    return {"published": (published, bare), "collected": (collected, fetched)}


@contextmanager
def _worker(*args: str) -> Iterator[None]:
    program = [sys.executable, str(Path(__file__).with_name("fleet_worker.py")), *args]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.terminate()


def _host(folder: Path, placement: Placement) -> Host:
    mine = record(placement)
    return Host("bench", home=None, discover=False, plugins={NAME: (mine.daemon, mine)}, fleet=folder / "ours.toml")


async def _gates(folder: Path, calls: int, pause: float) -> list[float]:
    """Return the medians, in µs, of the shared gate, of a bare request and of the gate beside the host."""
    question = b"x" * 250  # as long as the gate's request
    host, beside = _host(folder, "shared"), _host(folder, "sandbox")
    async with host, beside, connected(read_credentials(folder / "bare.toml")) as client:
        session, other, call = host.session(), beside.session(), ToolCall("bash", {"command": "ls -la"})
        subject = hello_subject(NAME, "bare", "bare")
        works: list[tuple[list[float], Callable[[], Awaitable[Any]]]] = [
            ([], lambda: session.gate_tool_call(call)),
            ([], lambda: client.request(subject, question)),
            ([], lambda: other.gate_tool_call(call)),
        ]
        for _ in range(_TURNS):
            for times, work in works:
                for _ in range(calls):
                    if pause:
                        await asyncio.sleep(pause)
                    began = time.perf_counter()
                    await work()
                    times.append(time.perf_counter() - began)
        ruling = await session.gate_tool_call(call)
        assert ruling.is_allowed
        assert ruling.decided_by == (NAME,)
    return [statistics.median(times) * 1e6 for times, _ in works]


def _gate_rows() -> list[dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        _server(Path(folder)) as there,
        _worker(str(there / "worker.toml")),
        _worker(str(there / "answerer.toml"), "bare"),
    ):
        ours, bare, near = asyncio.run(_gates(there, _CALLS, 0))
        # What is asked without end finds everybody awake, and none of an agent's gates does.
        paced, bare_paced, _ = asyncio.run(_gates(there, _PACED_CALLS, _PACE_S))
    rows = [
        ("a gate of a shared plugin", ours, bare, "at most 2 x"),
        ("the same, with 5 ms before each", paced, bare_paced, "at most 2 x"),
        ("the same without a pause, against its sandbox beside the host", ours, near, "-"),
    ]
    return [
        {"name": name, "unit": "us", "ours": our, "bare": their, "ratio": our / their, "target": target}
        for name, our, their, target in rows
    ]


def run() -> list[dict[str, Any]]:
    """Measure, and return a row for each figure."""
    rounds = []
    for number in range(_ROUNDS):
        with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as there:
            (there / "ours.toml").write_text((there / "ours.toml").read_text().replace('"metadata"', '"body"'))
            rounds.append(asyncio.run(_measure(there, number)))
    wanted = {"published": "at least 0.6 x", "collected": "at least 5,000 a second"}
    rows = []
    for name, target in wanted.items():
        ours, bare = (statistics.median(each[name][side] for each in rounds) for side in (0, 1))
        row = {"name": f"a fleet's records, {name}", "unit": "/s", "ours": ours, "bare": bare, "ratio": ours / bare}
        rows.append({**row, "target": target})
    rows += _gate_rows()
    return rows


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
