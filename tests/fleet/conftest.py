"""A real server with what `fleet init` wrote, and homes that publish to it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins.fleet.credentials import Credentials, read_credentials
from ally_plugins.fleet.server import Listen, init
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.values import Record
from tests.kit.processes import free_port
from tests.kit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

HOMES = ("laptop", "build-1")


class Server:
    """A `nats-server` of this test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        init(folder, HOMES, Listen(port=self.port))
        self.process: subprocess.Popen[bytes] | None = None

    def who(self, name: str) -> Credentials:
        """Return the credentials of a home, or of the collector."""
        return read_credentials(self.folder / f"{name}.toml")

    def start(self) -> None:
        """Start it, and wait until it listens."""
        program = Path(sys.executable).with_name("nats-server")
        self.process = subprocess.Popen([program, "-c", self.folder / "server.conf"], stderr=subprocess.DEVNULL)
        wait_until(self._listens, lambda: "the server to listen")

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that runs."""
    made = Server(tmp_path / "fleet")
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
