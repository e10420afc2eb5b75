"""A thousand homes at one server and one collector, each with a connection and a key, and a recording that it replays.

The recordings are journals of real hosts, each of several sessions. First every home's grows as many records a second
as is said; then all homes have a backlog at once, as after an outage. The exit code is 1 where a record was lost,
altered or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import define
from fleet_ground import Usage, arrived, collecting, programs, server, show, spread, wait_kept, wait_ready
from fleet_guard import Guard

from ally_plugins import Host, ToolCall, ToolCallEnd, ToolCallStart
from ally_plugins.fleet.answers import Answers
from ally_plugins.fleet.connection import connected
from ally_plugins.fleet.credentials import read_credentials
from ally_plugins.fleet.publisher import Publisher
from ally_plugins.fleet.readings import fleet_statistics
from ally_plugins.fleet.store import open_store
from ally_plugins.journal.chain import Head, genesis
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import ChainedRecord, StoredRecord

if TYPE_CHECKING:
    from subprocess import Popen

_RECORDINGS: Final = 8
_PUBLISHERS: Final = 4  # processes, each with a part of the homes
_AT_ONCE: Final = 16  # homes of one process that connect at a time
_LOOK_S: Final = 1.0
_IDLE_S: Final = 12.0  # in which every home says once that it is there
_LAST_S: Final = 600.0  # that the collector may take for the backlog
_RECORD_BYTES: Final = 300  # beside its content, as the journal counts


def _name(number: int) -> str:
    return f"home-{number}"


# --- recordings


async def _record(folder: Path, records: int) -> None:
    """Have a host do tool calls under a gate until it has recorded as much."""
    async with Host("simulation", home=folder, discover=False, plugins={"guard": Guard}) as host:
        reader, number = JournalReader(folder / "journal.db"), 0
        while reader.last_n() < records:
            session = host.session()
            for _ in range(20):
                number += 1
                arguments = {"command": f"grep -rn 'pattern {number}' src | head -{number}", "cwd": "/home/me/project"}
                call = ToolCall("bash", arguments, f"call-{number}")
                session.emit(ToolCallStart(tool_name="bash", arguments=arguments, call_id=call.call_id))
                await session.gate_tool_call(call)
                session.emit(ToolCallEnd(tool_name="bash", call_id=call.call_id, success=True, output="found\n" * 20))
                await session.drained()
                await session.safe_point("step")
        reader.close()


@define
class Recording:
    """A journal as far as it has been replayed; what `Publisher` reads. `rate` is in records a second."""

    path: Path
    records: Sequence[ChainedRecord]
    name: str
    rate: float
    phase: float
    paced: int
    """How many records come at that rate; the others are the backlog."""
    began: float | None = None
    has_backlog: bool = False

    def limit(self) -> int:
        """Return how many records there are by now."""
        if self.has_backlog:
            return len(self.records)
        return 0 if self.began is None else min(self.paced, int((time.time() - self.began) * self.rate + self.phase))

    def chain(self) -> str:
        """Return the id of the chain."""
        return self.name

    def head(self) -> Head:
        """Return how far it has come."""
        n = self.limit()
        return Head(n, self.records[n - 1].hash if n else genesis(self.name), self.name)

    def record(self, n: int, /) -> StoredRecord | None:
        """Return one record; of its content nothing."""
        if not 0 < n <= self.limit():
            return None
        each = self.records[n - 1]
        return StoredRecord(
            each.n, each.at, each.kind, each.plugin, each.session_id, each.ref, each.key, None, each.hash.hex()
        )

    def chained(self, after_n: int, max_bytes: int, /) -> list[ChainedRecord]:
        """Return the records after one, up to so many bytes."""
        found: list[ChainedRecord] = []
        for each in self.records[after_n : self.limit()]:
            max_bytes -= _RECORD_BYTES + len(each.content or b"")
            if found and max_bytes < 0:
                break
            found.append(each)
        return found


def _read(folder: Path, number: int, length: int) -> tuple[Path, str, list[ChainedRecord]]:
    path = folder / f"recording-{number}" / "journal.db"
    with JournalReader(path) as reader:
        return path, reader.chain(), reader.chained(0, 2**40)[:length]


# --- the publishers of some homes, in a process of their own


async def _publish(folder: Path, first: int, count: int, rate: float, paced: int, length: int, of: int) -> None:
    read = [_read(folder, number, length) for number in range(_RECORDINGS)]
    homes = []
    for number in range(first, first + count):
        path, chain, records = read[number % _RECORDINGS]
        homes.append(Recording(path, records, chain, rate, number / of, paced))
    gate, ready = asyncio.Semaphore(_AT_ONCE), asyncio.Semaphore(0)

    async def follow(number: int, recording: Recording) -> None:
        who = read_credentials(folder / "fleet" / f"{_name(number)}.toml")
        await gate.acquire()
        answers = Answers()
        async with connected(who, answers.give_up) as client:
            gate.release()
            ready.release()
            await Publisher(client, answers, who, recording).follow()

    following = [asyncio.create_task(follow(first + at, each)) for at, each in enumerate(homes)]
    for _ in homes:
        await ready.acquire()
    print("ready", flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).split():
        for each in homes:
            each.began, each.has_backlog = float(line[1]), line[0] == "rest"
    for task in following:
        task.cancel()
    await asyncio.wait(following)


# --- the whole


def _tell(publishers: Sequence[Popen[str]], word: str, began: float) -> None:
    for each in publishers:
        assert each.stdin is not None
        each.stdin.write(f"{word} {began}\n")
        each.stdin.flush()


def _watch(
    parts: Mapping[str, Sequence[int]], seconds: float, place: Path, lag: Any = None
) -> tuple[dict[str, dict[str, float]], list[float]]:
    usage, lags = {part: Usage(pids) for part, pids in parts.items()}, list[float]()
    deadline = time.monotonic() + seconds
    with open_store(str(place)) as store:
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(_LOOK_S, left))
            for each in usage.values():
                each.look()
            if lag is not None:
                lags += lag({each.name: each.head.n if each.head else 0 for each in store.homes()})
    return {part: each.result() for part, each in usage.items()}, lags


def run(homes: int, seconds: float, rate: float, backlog: int, level: str) -> dict[str, dict[str, Any]]:
    """Run it all, and return the figures by part."""
    names, paced = [_name(number) for number in range(homes)], int(seconds * rate)
    length = paced + backlog
    with tempfile.TemporaryDirectory() as where, programs() as start:
        root = Path(where)
        for number in range(_RECORDINGS):
            asyncio.run(_record(root / f"recording-{number}", length))
        with server(root / "fleet", names, {}, level) as nats:
            place = root / "fleet.db"
            collector = collecting(start, root / "fleet", place)
            publishers, connecting = [], time.monotonic()
            shares = [range(homes)[at::_PUBLISHERS] for at in range(_PUBLISHERS)]
            firsts = [sum(map(len, shares[:at])) for at in range(_PUBLISHERS)]
            for first, share in zip(firsts, shares, strict=True):
                given = ("publish", where, first, len(share), rate, paced, length, homes)
                publishers.append(start(Path(__file__), *given))
            wait_ready(publishers)
            connecting = time.monotonic() - connecting
            parts = {"server": [nats.pid], "collector": [collector.pid], "publishers": [p.pid for p in publishers]}
            idle, _ = _watch(parts, _IDLE_S, place)
            began = time.time()
            _tell(publishers, "go", began)

            def lag(heads: Mapping[str, int]) -> list[float]:
                now, found = time.time(), []
                for number, name in enumerate(names):
                    n = heads.get(name, 0) + 1
                    due = began + (n - number / homes) / rate
                    found.append(max(now - due, 0.0) * 1000 if n <= paced else 0.0)
                return found

            busy, lags = _watch(parts, seconds, place, lag)
            wait_kept(place, dict.fromkeys(names, paced), _LAST_S)
            burst = {part: Usage(pids) for part, pids in parts.items()}
            at = time.monotonic()
            _tell(publishers, "rest", began)
            wait_kept(place, dict.fromkeys(names, length), _LAST_S)
            took = time.monotonic() - at
            for usage in burst.values():
                usage.look()
            after = {part: usage.result() for part, usage in burst.items()}
            read = [_read(root, number, length)[2] for number in range(_RECORDINGS)]
            hashes = [{each.n: each.hash.hex() for each in records} for records in read]
            written = {name: hashes[number % _RECORDINGS] for number, name in enumerate(names)}
            records = arrived(root / "fleet", place, written)
            asked = _ask(place)
            sizes = {
                "server": _bytes((root / "fleet" / "jetstream").rglob("*")),
                "store": _bytes(root.glob("fleet.db*")),
            }
    left = backlog * homes
    return {
        "run": {"homes": homes, "seconds": seconds, "records_a_second_of_each": rate, "backlog_of_each": backlog,
                "connected_in_s": connecting},
        "lag": {f"{name}_ms": value for name, value in spread(lags).items()},
        "backlog": {"records": left, "s": took, "records_a_second": left / took},
        "records": records,
        "disk": {f"{part}_bytes_a_record": size / max(records["kept"], 1) for part, size in sizes.items()},
        "asked": asked,
        **{f"{part}, {phase}": figures[part] for phase, figures in
           (("idle", idle), ("paced", busy), ("backlog", after)) for part in figures},
    }  # fmt: skip


def _ask(place: Path) -> dict[str, float]:
    with open_store(str(place)) as store:
        began = time.monotonic()
        store.homes()
        status = time.monotonic() - began
        fleet_statistics(store, since=0)
        return {"status_ms": status * 1000, "stats_s": time.monotonic() - began - status}


def _bytes(files: Any) -> int:
    return sum(each.stat().st_size for each in files if each.is_file())


def main() -> None:
    """Run it as the options say, and print the figures."""
    if sys.argv[1:2] == ["publish"]:
        folder, first, count, rate, paced, length, of = sys.argv[2:]
        asyncio.run(_publish(Path(folder), int(first), int(count), float(rate), int(paced), int(length), int(of)))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--homes", type=int, default=1000, help="how many homes (1000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long their journals grow (60)")
    parser.add_argument("--rate", type=float, default=0.5, help="records a second of each home meanwhile (0.5)")
    parser.add_argument("--backlog", type=int, default=300, help="records that each home has then at once (300)")
    parser.add_argument(
        "--level", choices=("body", "metadata"), default="body", help="whether contents go along (body)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    found = run(given.homes, given.seconds, given.rate, given.backlog, given.level)
    show(f"{given.homes} homes at one server and one collector", found, as_json=given.json)
    sys.exit(1 if any(found["records"][name] for name in ("lost", "altered", "doubled", "findings")) else 0)


if __name__ == "__main__":
    main()
