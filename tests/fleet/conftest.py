"""A real server with what `fleet init` wrote, homes that publish to it, and hosts that share a plugin."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from ally_plugins import Daemon
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.values import Record
from tests.kit.fleets import Server, shared
from tests.kit.hosts import make_record, new_host

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ally_plugins import Host, PluginRecord

HOMES = ("laptop", "build-1")
WORKERS = {"worker-1": ("p",), "worker-2": ("p",)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that runs."""
    made = Server(tmp_path / "fleet", HOMES, WORKERS)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """The journal of one home."""
    made = Journal.open(tmp_path / "journal.db")
    yield made
    made.close_blocking()


def write(journal: Journal, first: int, count: int) -> None:
    """Write records that say their number."""
    for number in range(first, first + count):
        journal.append_soon(Record("note", 1000 + number, "writer", data={"number": number}))
    journal.flush_blocking()


FOLDER = str(Path(__file__).parent)


def record(name: str = "p", target: str = "Guard", **options: Any) -> PluginRecord:
    """Return a plugin of `shared_plugin` as its worker's operator has placed it."""
    daemon = Daemon.python(f"shared_plugin:{target}", env={"PYTHONPATH": FOLDER})
    made = make_record(name, daemon=daemon, **options)
    return evolve(made, config=evolve(made.config, placement="sandbox"))


def host(server: Server, name: str = "laptop", **options: Any) -> Host:
    """Return a host that has the plugin `p` shared."""
    mine = shared(record(**options))
    return new_host({"p": (mine.daemon, mine)}, fleet=server.file(name))


@contextlib.asynccontextmanager
async def going(work: Any) -> AsyncIterator[None]:
    """Have something run meanwhile; it must not have failed."""
    task = asyncio.ensure_future(work)
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
