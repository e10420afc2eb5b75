"""A real server with what `fleet init` wrote, and homes that publish to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ally_plugins.journal.journal import Journal
from ally_plugins.journal.values import Record
from tests.kit.fleets import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
