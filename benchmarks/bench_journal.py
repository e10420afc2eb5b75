"""Accepted messages through the journal, against a bare group-commit writer on the same table with the same callers.

The bare writer has a thread, a queue, one transaction a batch with `executemany`, and a future each: no chain, no
check of keys, no second process to be safe from, and it dies of its first error.
"""

from __future__ import annotations

import asyncio
import json
import queue
import statistics
import tempfile
import threading
import time
from asyncio import Future
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from ally_plugins.journal.journal import Journal
from ally_plugins.journal.open_files import OpenFiles
from ally_plugins.journal.schema import connect
from ally_plugins.journal.values import PendingMessage

if TYPE_CHECKING:
    import sqlite3

_ROUNDS: Final = 7
_BODY: Final = {
    "role": "user",
    "content": "bash failed three times with the same arguments; try another way, or ask the person what is meant",
    "metadata": {"sourcePlugin": "loop-guard", "isPluginGenerated": True, "origin": ["loop-guard"]},
}
_INSERT: Final = (
    "INSERT INTO records(n, at, kind, plugin, session_id, ref, key, data, digest, hash, state) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_HASH: Final = b"x" * 32

Accept = Callable[[str], Awaitable[Any]]


class BareWriter:
    """A group-commit writer and nothing else. Lives until `close`."""

    def __init__(self, path: Path) -> None:
        self._db = connect(path, create=True)
        self._queue: queue.SimpleQueue[tuple[str, str, Future[int]] | None] = queue.SimpleQueue()
        self._n = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def accept(self, message_id: str) -> Future[int]:
        """Queue one message, encoded."""
        future: Future[int] = asyncio.get_running_loop().create_future()
        self._queue.put((message_id, orjson.dumps(_BODY).decode(), future))
        return future

    def close(self) -> None:
        """End the thread and close the file."""
        self._queue.put(None)
        self._thread.join()
        self._db.close()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            batch = [item]
            while not self._queue.empty() and (more := self._queue.get()) is not None:
                batch.append(more)
            self._write(batch)

    def _write(self, batch: list[tuple[str, str, Future[int]]]) -> None:
        first, self._n = self._n + 1, self._n + len(batch)
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(_INSERT, [self._row(first + i, *item[:2]) for i, item in enumerate(batch)])
        self._db.execute("COMMIT")
        batch[0][2].get_loop().call_soon_threadsafe(self._resolve, batch, first)

    @staticmethod
    def _row(n: int, message_id: str, text: str) -> tuple[Any, ...]:
        return (n, 1, "message", "loop-guard", "s", message_id, None, text, _HASH, _HASH, "pending")

    @staticmethod
    def _resolve(batch: list[tuple[str, str, Future[int]]], first: int) -> None:
        for n, (_, _, future) in enumerate(batch, first):
            future.set_result(n)


def _message(message_id: str) -> PendingMessage:
    return PendingMessage(message_id, "s", "loop-guard", 1, "user", "steer", trigger_turn=False, body=_BODY)


async def _rate(accept: Accept, callers: int, each: int, name: str) -> float:
    async def call(caller: int) -> None:
        for i in range(each):
            await accept(f"{name}-{caller}-{i}")

    await call(-1)
    start = time.perf_counter()
    await asyncio.gather(*(call(caller) for caller in range(callers)))
    return callers * each / (time.perf_counter() - start)


async def _messages(folder: Path, callers: int, each: int) -> dict[str, Any]:
    journal, bare = Journal.open(folder / f"ours-{callers}.db", head=folder / f"ours-{callers}.head"), None
    bare = BareWriter(folder / f"bare-{callers}.db")
    ours_rates, bare_rates = [], []
    for i in range(_ROUNDS):
        ours_rates.append(await _rate(lambda id_: journal.accept(_message(id_)), callers, each, f"m{i}"))
        bare_rates.append(await _rate(bare.accept, callers, each, f"m{i}"))
    await journal.close()
    bare.close()
    ours, other = statistics.median(ours_rates), statistics.median(bare_rates)
    return _line(f"journal: messages accepted, {callers} callers", ours, other, "messages/s", ">= 0.6")


async def _alone(folder: Path, count: int) -> dict[str, Any]:
    journal = Journal.open(folder / "alone.db", head=folder / "alone.head")
    db = connect(folder / "one.db", create=True)
    ours, bare = [], []
    for i in range(count):
        start = time.perf_counter()
        await journal.accept(_message(f"m{i}"))
        middle = time.perf_counter()
        _commit_one(db, i)
        ours.append(middle - start)
        bare.append(time.perf_counter() - middle)
    await journal.close()
    db.close()
    return _line(
        "journal: one caller alone", statistics.median(ours) * 1e6, statistics.median(bare) * 1e6, "µs", "<= 1.5"
    )


def _files_checked(folder: Path, count: int) -> dict[str, Any]:
    """Compare what it costs to look at the journal's files, before and after a commit, with a commit itself."""
    db = connect(folder / "checked.db", create=True)
    files = OpenFiles(folder / "checked.db")
    checks, commits = [], []
    for i in range(count):
        start = time.perf_counter()
        files.check()
        files.check()
        middle = time.perf_counter()
        _commit_one(db, i)
        checks.append(middle - start)
        commits.append(time.perf_counter() - middle)
    db.close()
    return _line(
        "journal: its files looked at, of a commit",
        statistics.median(checks) * 1e6,
        statistics.median(commits) * 1e6,
        "µs",
        "<= 0.2",
    )


def _commit_one(db: sqlite3.Connection, i: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.execute(_INSERT, BareWriter._row(i + 1, f"m{i}", orjson.dumps(_BODY).decode()))  # noqa: SLF001 - the same row
    db.execute("COMMIT")


async def _events(folder: Path, count: int) -> dict[str, Any]:
    journal = Journal.open(folder / "events.db", head=folder / "events.head")
    said = b'{"event_type":"TOOL_CALL_START","event_data":{"toolName":"bash","arguments":{"command":"ls -la"}},'
    body = said + b'"timestamp":1,"id":"s:1","seq":1,"session_id":"s","origin":[],"turn_id":"t1","call_id":"c1"}'
    rows = [("s", seq, 1, "TOOL_CALL_START", None, body) for seq in range(1, count + 1)]
    start = time.perf_counter()
    for i in range(0, count, 256):
        journal.add_events(rows[i : i + 256])
    await journal.flush()
    rate = count / (time.perf_counter() - start)
    await journal.close()
    return _line("journal: events written (bare: the 100,000 wanted)", rate, 100_000, "events/s", ">= 1")


def _line(name: str, ours: float, bare: float, unit: str, target: str) -> dict[str, Any]:
    return {"name": name, "ours": ours, "bare": bare, "ratio": ours / bare, "target": target, "unit": unit}


def run() -> list[dict[str, Any]]:
    """Measure; each line has name, ours, bare, ratio, target (of the ratio) and unit."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        folder = Path(name)
        return [
            asyncio.run(_alone(folder, 500)),
            _files_checked(folder, 500),
            asyncio.run(_messages(folder, 64, 50)),
            asyncio.run(_messages(folder, 256, 25)),
            asyncio.run(_events(folder, 100_000)),
        ]


def main() -> None:
    """Print one JSON object."""
    print(json.dumps({"journal": run()}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
