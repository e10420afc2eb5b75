"""Accepted messages through the whole bus, against a bare group-commit writer, the journal alone and one commit.

The callers, the table and the disk are the same, and rounds of each are interleaved; the budget is raised, since it is
what would end the measurement. `get_context` has no disk in it: its figure is microseconds against a target of 20.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from ally_plugins import Ally, Host, PluginRecord
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.journal.schema import connect
from ally_plugins.policy.budget import Limits
from ally_plugins.policy.permissions import GrantSet

sys.path.insert(0, str(Path(__file__).parent))
from bench_journal import _BODY, _INSERT, BareWriter, _message

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable

_ROUNDS: Final = 9
_PLENTY: Final = 1_000_000_000
_TEXT: Final = str(_BODY["content"])


class _Talker:
    """A plugin without hooks, as the one that talks; there is nobody else to ask."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally


def _host(home: Path) -> Host:
    grants = GrantSet.everything()
    limits = Limits(messages_per_minute=_PLENTY, context_reads_per_minute=_PLENTY, calls_in_flight=_PLENTY)
    config = PluginConfig(enabled=True, is_decided=True, grants=grants, limits=limits)
    record = PluginRecord.by_code("loop-guard", grants=grants, config=config)
    return Host("bench", home=home, discover=False, plugins={"loop-guard": (_Talker, record)})


async def _rate(call: Callable[[str], Awaitable[Any]], callers: int, each: int, name: str) -> float:
    async def caller(number: int) -> None:
        for i in range(each):
            await call(f"{name}-{number}-{i}")

    await caller(-1)
    start = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(callers)))
    return callers * each / (time.perf_counter() - start)


async def _messages(folder: Path, callers: int, each: int) -> list[dict[str, Any]]:
    bare = BareWriter(folder / f"bare-{callers}.db")
    rates: dict[str, list[float]] = {"bus": [], "journal": [], "bare": []}
    async with _host(folder / f"home-{callers}") as host:
        session = host.session("s")
        ally: Ally = host.plugins["loop-guard"].instance.ally
        for i in range(_ROUNDS):
            calls: dict[str, Callable[[str], Awaitable[Any]]] = {
                "bus": lambda _: ally.add_message("user", _TEXT),
                "journal": lambda id_: host.journal.accept(_message(id_)),
                "bare": bare.accept,
            }
            for name, call in calls.items():
                rates[name].append(await _rate(call, callers, each, f"{name}{i}"))
            session.inbox = type(session.inbox)()  # what waits for a safe point is not what is measured
    bare.close()
    bus, journal, other = (statistics.median(rates[name]) for name in ("bus", "journal", "bare"))
    return [
        _line(f"bus: messages accepted, {callers} callers", bus, other, "messages/s", ">= 0.6"),
        _line(f"bus: the same, against the journal alone, {callers} callers", bus, journal, "messages/s", "-"),
    ]


async def _alone(folder: Path, count: int) -> dict[str, Any]:
    db = connect(folder / "one.db", create=True)
    ours, bare = [], []
    async with _host(folder / "alone") as host:
        host.session("s")
        ally: Ally = host.plugins["loop-guard"].instance.ally
        for i in range(count):
            start = time.perf_counter()
            await ally.add_message("user", _TEXT)
            middle = time.perf_counter()
            commit_one(db, i)
            ours.append(middle - start)
            bare.append(time.perf_counter() - middle)
    db.close()
    one, other = statistics.median(ours) * 1e6, statistics.median(bare) * 1e6
    return _line("bus: one caller alone", one, other, "µs", "<= 1.5")


def commit_one(db: sqlite3.Connection, i: int) -> None:
    """Write one message, and wait for the disk."""
    db.execute("BEGIN IMMEDIATE")
    db.execute(_INSERT, BareWriter._row(i + 1, f"m{i}", orjson.dumps(_BODY).decode()))  # noqa: SLF001 - the same row
    db.execute("COMMIT")


async def _context(folder: Path, count: int) -> dict[str, Any]:
    async with _host(folder / "context") as host:
        host.session("s")
        ally: Ally = host.plugins["loop-guard"].instance.ally
        rounds = []
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            for _ in range(count):
                await ally.get_context(["token_usage"])
            rounds.append((time.perf_counter() - start) / count * 1e6)
    return _line("bus: get_context of a small part", statistics.median(rounds), 20.0, "µs", "<= 1")


def _line(name: str, ours: float, bare: float, unit: str, target: str) -> dict[str, Any]:
    return {"name": name, "ours": ours, "bare": bare, "ratio": ours / bare, "target": target, "unit": unit}


def run() -> list[dict[str, Any]]:
    """Measure; each line has name, ours, bare, ratio, target (of the ratio) and unit."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        folder = Path(name)
        return [
            asyncio.run(_alone(folder, 500)),
            *asyncio.run(_messages(folder, 64, 50)),
            *asyncio.run(_messages(folder, 256, 25)),
            asyncio.run(_context(folder, 2_000)),
        ]


def main() -> None:
    """Print one JSON object."""
    print(json.dumps({"bus": run()}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
