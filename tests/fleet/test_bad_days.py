"""What machines of a fleet go through: cables that are pulled, clocks that are wrong, disks that are full."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Deny, Host, ToolCall
from ally_plugins.fleet.collector import collect
from ally_plugins.fleet.publisher import publish
from ally_plugins.fleet.store import FleetStore, open_store
from ally_plugins.host.sockets.leftovers import temporary_folder
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import EVENTS, HISTORY
from tests.kit.commands import run_command
from tests.kit.fleets import Server, WorkerProgram, tls_at
from tests.kit.namespaces import MIDDLE, Network
from tests.kit.waiting import go, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ally_plugins import Session
    from ally_plugins.journal.chain import Head

pytestmark = pytest.mark.shared

PLUGIN = "secret-guard"  # of ally_plugins_contrib
WORKERS = ("worker-1", "worker-2")
CALL = ToolCall("bash", {"command": "ls"})


# --- a cable is pulled ---


@pytest.fixture
def network() -> Iterator[Network]:
    """A host and two workers, with the server in the middle."""
    made = Network("host-a", *WORKERS)
    yield made
    made.close()


@pytest.fixture
def server(network: Network, tmp_path: Path) -> Iterator[Server]:
    """A server that all of them reach."""
    listen = tls_at(tmp_path, MIDDLE, 4222)
    serves = dict.fromkeys(WORKERS, (PLUGIN,))
    made = Server(tmp_path / "fleet", ["host-a"], serves, listen=listen, prefix=network.prefix())
    with network.entered():
        made.start()
    yield made
    made.kill()


def start_worker(server: Server, network: Network, name: str, tmp_path: Path) -> WorkerProgram:
    """Have a worker serve, on a machine of its own."""
    return WorkerProgram(server, name, tmp_path / name, PLUGIN, network.prefix(name))


@pytest.fixture
def home(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a host that has the plugin shared."""
    made = tmp_path / "host-a"
    monkeypatch.setenv("ALLY_HOME", str(made))
    run_command("enable", PLUGIN, "--place", "shared", "--yes")
    shutil.copy(server.file("host-a"), made / "fleet.toml")
    return made


def numbers(store: FleetStore) -> list[int]:
    """Return the numbers of all records that came, with those that come only when they are asked for."""
    found = [*store.records(), *store.records(kinds=(EVENTS, HISTORY))]
    return sorted(each.n for _, each in found)


async def reason_of_denial(session: Session) -> str:
    """Return why a call is denied, as it must be."""
    ruling = await session.gate_tool_call(CALL)
    assert isinstance(ruling.verdict, Deny)
    return ruling.reason


@pytest.mark.slow
def test_a_host_that_is_cut_off_denies_until_the_cable_is_in_again_and_each_of_its_records_comes_once(
    network: Network, server: Server, home: Path, tmp_path: Path
) -> None:
    who, journal = server.who("host-a"), home / "journal.db"
    sent: list[Head] = []

    def all_sent() -> bool:
        with JournalReader(journal) as reader:
            return bool(sent) and sent[-1] == reader.head()

    async def main() -> None:
        with open_store(str(tmp_path / "fleet.db"), create=True) as store:
            await collect(server.who("collector"), store, once=True)  # makes the stream
        async with Host() as host:
            session, plugin = host.session(), host.plugins[PLUGIN]
            assert (await session.gate_tool_call(CALL)).is_allowed
            publishing = asyncio.ensure_future(publish(who, journal, on_sent=sent.append))
            await until(all_sent)
            network.cut("host-a")
            assert "does not answer" in await reason_of_denial(session)
            # The kernel goes on trying; it is the questions of the client that nobody answers.
            await until(lambda: "is away" in plugin.reason)
            assert PLUGIN in await reason_of_denial(session)
            assert not all_sent()
            network.mend("host-a")
            await until(lambda: plugin.is_running)
            assert (await session.gate_tool_call(CALL)).is_allowed
            assert plugin.counts.crashes == 0
            await until(all_sent)
            assert not publishing.done()
            publishing.cancel()
            await asyncio.wait([publishing])

    with start_worker(server, network, "worker-1", tmp_path), network.entered("host-a"):
        go(main())
    with network.entered(), open_store(str(tmp_path / "fleet.db"), create=True) as store:
        go(collect(server.who("collector"), store, once=True))
        [state] = store.homes()
        assert state.head == sent[-1]
        assert numbers(store) == list(range(1, sent[-1].n + 1))
        assert store.findings() == []


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_when_the_worker_is_cut_off_the_call_is_denied_and_the_other_takes_the_next_and_back_it_takes_its_own(
    network: Network, server: Server, tmp_path: Path
) -> None:
    async def main(workers: dict[str, WorkerProgram]) -> None:
        async with Host() as host:
            session, plugin = host.session(), host.plugins[PLUGIN]
            supervisor: Any = plugin.supervisor
            assert (await session.gate_tool_call(CALL)).is_allowed
            first = supervisor.process.worker
            [second] = {*WORKERS} - {first}
            network.cut(first)
            assert "does not answer" in await reason_of_denial(session)
            # The server has it in the group until it does not answer its questions either.
            await until(lambda: plugin.is_running)
            assert supervisor.process.worker == second
            assert (await session.gate_tool_call(CALL)).is_allowed
            network.mend(first)
            workers[second].process.kill()
            await until(lambda: plugin.is_running and supervisor.process.worker == first)
            assert (await session.gate_tool_call(CALL)).is_allowed
            assert plugin.counts.crashes == 0

    with ExitStack() as ending, network.entered("host-a"):
        go(main({name: ending.enter_context(start_worker(server, network, name, tmp_path)) for name in WORKERS}))
    with temporary_folder("box-"):
        pass  # what a killed worker has left is removed
