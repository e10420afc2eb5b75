"""A real server of a fleet with what `fleet init` wrote, and workers that serve plugins in this process's loop."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from attrs import evolve

from ally_plugins.fleet.credentials import Credentials, read_credentials
from ally_plugins.fleet.server import Listen, init
from ally_plugins.fleet.worker import MOST_LINKS, Served, Worker
from ally_plugins.runtime.processes.launching import make_launcher
from ally_plugins.runtime.processes.stderrlog import StderrLog
from ally_plugins.runtime.sandbox.support import support
from tests.kit.commands import PROGRAM
from tests.kit.processes import free_port
from tests.kit.waiting import wait_until

if TYPE_CHECKING:
    from ally_plugins import PluginRecord
    from ally_plugins.catalog.home.config import Placement
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.policy.permissions import GrantSet
    from ally_plugins.policy.protected_places import ProtectedPlace
    from ally_plugins.runtime.processes.launcher import Launcher

_PROGRAM = Path(sys.executable).with_name("nats-server")

DIGEST = "d" * 64
"""What stands for a digest of plugins that are given by code, and have no files of their own."""


def has_server() -> bool:
    """Say whether there is a `nats-server` to be run, and what speaks to it."""
    return _PROGRAM.exists() and find_spec("nats") is not None


class Server:
    """A `nats-server` of this test's own."""

    def __init__(
        self,
        folder: Path,
        homes: Sequence[str],
        workers: Mapping[str, Sequence[str]] | None = None,
        *,
        listen: Listen | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.listen = listen or Listen(port=free_port())
        self.port = self.listen.port
        self.homes = homes
        init(folder, homes, self.listen, workers or {})
        self.prefix = prefix
        """What stands before the program: what puts it into another namespace."""
        self.process: subprocess.Popen[bytes] | None = None

    def file(self, name: str) -> Path:
        """Return the credentials file of a home, a worker or the collector."""
        return self.folder / f"{name}.toml"

    def who(self, name: str) -> Credentials:
        """Return the credentials of a home, of a worker or of the collector."""
        return read_credentials(self.file(name))

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [*self.prefix, str(_PROGRAM), "-c", str(self.folder / "server.conf")]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(self._listens, lambda: "the server to listen")

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.listen.host, self.port), 1):
            return True
        return False


def tls_at(folder: Path, host: str, port: int) -> Listen:
    """Return where a server listens with a new certificate. Skips the test where openssl is not here."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not here; not tried: a server with TLS")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subject = ("-subj", "/CN=fleet", "-addext", f"subjectAltName=IP:{host}")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout", key, "-out", cert)
    subprocess.run([*command, *subject], check=True, capture_output=True)
    return Listen(host, port, cert, key, cert)


@contextmanager
def running_server(homes: Sequence[str], workers: Mapping[str, Sequence[str]]) -> Iterator[Server]:
    """Run a server in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "fleet", homes, workers)
        server.start()
        try:
            yield server
        finally:
            server.kill()


class WorkerProgram:
    """`ally-plugins fleet serve PLUGIN` in a home of its own, from the moment in which it serves to the block's end."""

    def __init__(self, server: Server, name: str, home: Path, plugin: str, program: Sequence[str] = PROGRAM) -> None:
        env = {**os.environ, "ALLY_HOME": str(home)}
        subprocess.run([*PROGRAM, "enable", plugin, "--yes"], check=True, env=env, stdout=subprocess.DEVNULL)
        shutil.copy(server.file(name), home / "fleet.toml")
        command = [*program, "fleet", "serve", plugin, "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
        assert self.process.stdout is not None
        self.said = json.loads(self.process.stdout.readline())

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.communicate()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)


class WorkerMachine:
    """What a worker needs of its machine: nothing is kept but what a plugin writes into `folder`."""

    def __init__(self, folder: Path) -> None:
        self.home: Home | None = None
        self.folder = folder
        self.launcher: Launcher = make_launcher()
        self.logs: dict[str, StderrLog] = {}

    def stderr_log(self, plugin: str) -> StderrLog:
        """Return the end of what a plugin has written to stderr."""
        return self.logs.setdefault(plugin, StderrLog(None))

    def protected_places(self) -> tuple[ProtectedPlace, ...]:
        """Return nothing: there is nobody's home."""
        return ()

    def narrowed(self, plugin: str, granted: GrantSet, project: str | None) -> GrantSet:
        """Return all of it."""
        del plugin, project
        return granted

    def data_dir_of(self, plugin: str) -> str:
        """Return a plugin's folder."""
        return self._made("data", plugin)

    def temporary_dir_of(self, plugin: str) -> str:
        """Return another one."""
        return self._made("tmp", plugin)

    def _made(self, kind: str, plugin: str) -> str:
        folder = self.folder / kind / plugin
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)


@asynccontextmanager
async def serving(
    who: Credentials,
    records: Iterable[PluginRecord],
    *,
    digest: str = DIGEST,
    links_per_host: int = MOST_LINKS,
    folder: Path | None = None,
) -> AsyncIterator[Worker]:
    """Have a worker serve plugins that are given by code, as if their files had that digest.

    What they write is in `folder`, or gone at the end.
    """
    with contextlib.ExitStack() as closing:
        machine = WorkerMachine(folder or Path(closing.enter_context(tempfile.TemporaryDirectory())))
        served = {each.name: Served(_at_worker(each), digest) for each in records}
        worker = Worker(who, served, machine, machine, links_per_host=links_per_host)
        try:
            async with worker.serving():
                yield worker
        finally:
            await machine.launcher.close()


def _at_worker(record: PluginRecord) -> PluginRecord:
    """Return a plugin as it is placed at a worker, where it can be in a sandbox."""
    where: Placement = "sandbox" if support().has_filter else "process"
    return evolve(record, config=evolve(record.config, placement=where))


def shared(record: PluginRecord, digest: str = DIGEST) -> PluginRecord:
    """Return a record that is placed shared, by a host whose operator has agreed to files with that digest."""
    assert record.agreement is not None
    return evolve(
        record,
        config=evolve(record.config, placement="shared"),
        agreement=evolve(record.agreement, files=digest),
    )
