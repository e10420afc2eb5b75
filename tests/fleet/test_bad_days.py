"""What machines of a fleet go through: cables that are pulled, clocks that are wrong, disks that are full."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Deny, Host, SessionError, ToolCall
from ally_plugins.fleet.collector import collect
from ally_plugins.fleet.publisher import publish
from ally_plugins.fleet.store import FleetStore, open_store
from ally_plugins.host.sockets.leftovers import temporary_folder
from ally_plugins.journal.audit import verify
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import EVENTS, HISTORY
from tests.kit.commands import PROGRAM, run_command
from tests.kit.fleets import Server, WorkerProgram, serving, shared, tls_at
from tests.kit.hosts import new_host
from tests.kit.namespaces import MIDDLE, Network, SmallDisk
from tests.kit.waiting import go, until

from .conftest import going, host, record, write

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
def cabled(network: Network, tmp_path: Path) -> Iterator[Server]:
    """A server that all of them reach."""
    listen = tls_at(tmp_path, MIDDLE, 4222)
    serves = dict.fromkeys(WORKERS, (PLUGIN,))
    made = Server(tmp_path / "fleet", ["host-a"], serves, listen=listen, prefix=network.prefix())
    with network.entered():
        made.start()
    yield made
    made.kill()


def start_worker(cabled: Server, network: Network, name: str, tmp_path: Path) -> WorkerProgram:
    """Have a worker serve, on a machine of its own."""
    return WorkerProgram(cabled, name, tmp_path / name, PLUGIN, (*network.prefix(name), *PROGRAM))


def place_shared(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a home the one of this process, whose host has the plugin shared."""
    monkeypatch.setenv("ALLY_HOME", str(home))
    run_command("enable", PLUGIN, "--place", "shared", "--yes")
    shutil.copy(server.file("host-a"), home / "fleet.toml")


@pytest.fixture
def sharing_home(cabled: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a host that is on a machine of its own."""
    place_shared(cabled, tmp_path / "host-a", monkeypatch)
    return tmp_path / "host-a"


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
    network: Network, cabled: Server, sharing_home: Path, tmp_path: Path
) -> None:
    who, journal = cabled.who("host-a"), sharing_home / "journal.db"
    sent: list[Head] = []

    def all_sent() -> bool:
        with JournalReader(journal) as reader:
            return bool(sent) and sent[-1] == reader.head()

    async def main() -> None:
        with open_store(str(tmp_path / "fleet.db"), create=True) as store:
            await collect(cabled.who("collector"), store, once=True)  # makes the stream
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

    with start_worker(cabled, network, "worker-1", tmp_path), network.entered("host-a"):
        go(main())
    with network.entered(), open_store(str(tmp_path / "fleet.db"), create=True) as store:
        go(collect(cabled.who("collector"), store, once=True))
        [state] = store.homes()
        assert state.head == sent[-1]
        assert numbers(store) == list(range(1, sent[-1].n + 1))
        assert store.findings() == []


@pytest.mark.slow
@pytest.mark.usefixtures("sharing_home")
def test_when_the_worker_is_cut_off_the_call_is_denied_and_the_other_takes_the_next_and_back_it_takes_its_own(
    network: Network, cabled: Server, tmp_path: Path
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
        go(main({name: ending.enter_context(start_worker(cabled, network, name, tmp_path)) for name in WORKERS}))
    with temporary_folder("box-"):
        pass  # what a killed worker has left is removed


# --- the disk is full ---


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """What the server keeps its streams on."""
    (tmp_path / "fleet").mkdir()
    made = SmallDisk(tmp_path / "fleet" / "jetstream", 64)
    yield made
    made.close()


@pytest.mark.slow
def test_when_the_servers_disk_is_full_homes_wait_gates_go_on_and_each_record_comes_once_there_is_room(
    disk: SmallDisk, journal: Journal, tmp_path: Path
) -> None:
    server = Server(tmp_path / "fleet", ["laptop"], {"worker-1": ("p",)}, prefix=disk.prefix)
    log = tmp_path / "server.log"
    with (server.folder / "server.conf").open("a") as conf:
        conf.write(f"log_file: {json.dumps(str(log))}\n")
    server.start()
    file = server.file("laptop")
    sent: list[Head] = []
    file.write_text(file.read_text().replace('"metadata"', '"body"'))

    async def main() -> None:
        await collect(server.who("collector"), store, once=True)  # makes the stream
        publishing = publish(server.who("laptop"), journal.path, on_sent=sent.append)
        async with serving(server.who("worker-1"), [record()]), host(server) as one, going(publishing):
            session = one.session()
            write(journal, 0, 100)
            await until(lambda: sent and sent[-1].n == 100)
            await asyncio.to_thread(disk.fill)
            write(journal, 100, 5000)
            await until(lambda: "no space left on device" in log.read_text())
            assert (await session.gate_tool_call(CALL)).is_allowed
            assert sent[-1].n == 100
            await asyncio.to_thread(disk.empty)
            # Once it could not write it takes no more, with room neither, until it is started again.
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await until(lambda: sent[-1].n == 5100)
            await until(lambda: one.plugins["p"].is_running)
            assert (await session.gate_tool_call(CALL)).is_allowed
        await collect(server.who("collector"), store, once=True)

    with open_store(str(tmp_path / "fleet.db"), create=True) as store:
        try:
            go(main())
        finally:
            server.kill()
        assert numbers(store) == list(range(1, 5101))
        assert store.findings() == []


# --- a clock is wrong ---

SKEWED = """
import runpy, sys, time
off, true, true_ns = int(sys.argv[1]), time.time, time.time_ns
time.time, time.time_ns = lambda: true() + off, lambda: true_ns() + off * 10**9
sys.argv = sys.argv[1:]
runpy.run_module("ally_plugins", run_name="__main__", alter_sys=True)
"""
"""`python -c SKEWED SECONDS ...`: the program, where all that it reads of the machine's clock is off by so much."""


@pytest.mark.parametrize("step", [pytest.param(3600, marks=pytest.mark.smoke), -3600])
def test_a_clock_that_is_set_an_hour_on_or_back_ends_no_link_and_gives_no_session_away(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    async def main() -> None:
        path = tmp_path / "journal.db"
        mine = shared(record())
        made = [
            new_host({"p": (mine.daemon, mine)}, fleet=server.file("laptop"), journal=Journal.open(path)),
            new_host(journal=Journal.open(path)),
        ]
        async with serving(server.who("worker-1"), [record()]) as worker, made[0] as one, made[1] as two:
            session, links = one.session("conversation"), [*worker.links]
            assert (await session.gate_tool_call(CALL)).is_allowed
            set_clock(monkeypatch, step)
            assert (await session.gate_tool_call(CALL)).is_allowed
            assert not (await session.gate_tool_call(ToolCall("rm"))).is_allowed
            assert [*worker.links] == links
            with pytest.raises(SessionError, match="is open in another host"):
                two.session("conversation")
        assert verify(path).problem is None

    go(main())


@pytest.mark.slow
@pytest.mark.parametrize(("home_off", "others_off"), [(3600, -3600), (-3600, 3600)])
def test_with_clocks_that_are_two_hours_apart_gates_are_asked_and_records_are_kept_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home_off: int, others_off: int
) -> None:
    server = Server(tmp_path / "fleet", ["host-a"], {"worker-1": (PLUGIN,)})
    server.start()
    home, file = tmp_path / "host-a", str(tmp_path / "fleet.db")
    place_shared(server, home, monkeypatch)
    program = (sys.executable, "-c", SKEWED, str(others_off))
    collector = [*program, "fleet", "collect", str(server.file("collector")), "--into", file, "--once"]
    secret = ToolCall("bash", {"command": "export AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzzzzzzzz"})

    async def main() -> None:
        async with Host() as host:
            session = host.session()
            for _ in range(5):
                assert (await session.gate_tool_call(CALL)).is_allowed
                assert not (await session.gate_tool_call(secret)).is_allowed
            assert host.plugins[PLUGIN].counts.crashes == 0
        await publish(server.who("host-a"), home / "journal.db", once=True)

    try:
        subprocess.run(collector, check=True)  # makes the stream
        with WorkerProgram(server, "worker-1", tmp_path / "worker-1", PLUGIN, program):
            set_clock(monkeypatch, home_off)
            go(main())
        subprocess.run(collector, check=True)
        shown = subprocess.run([*program, "fleet", "status", file, "--json"], check=True, capture_output=True).stdout
    finally:
        server.kill()
    [state] = json.loads(shown)["homes"]
    assert (state["silent"], state["findings"]) == (False, 0)
    with open_store(file) as store, JournalReader(home / "journal.db") as reader:
        assert numbers(store) == list(range(1, reader.head().n + 1))
        decided = [each.at for _, each in store.records(kinds=["decision"])]
        assert len(decided) == 10
        assert all(abs(at / 1000 - time.time()) < 600 for at in decided)  # by the home's own clock, as this one is


def set_clock(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Have all that this process reads of the machine's clock be off by so much."""
    true, true_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: true() + seconds)
    monkeypatch.setattr(time, "time_ns", lambda: true_ns() + seconds * 10**9)
