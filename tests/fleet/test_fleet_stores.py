"""The records of a fleet in a file and in PostgreSQL: the same questions have the same answers."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.fleet import pruning
from ally_plugins.fleet.batches import Held
from ally_plugins.fleet.collector import collect
from ally_plugins.fleet.credentials import read_credentials
from ally_plugins.fleet.pruning import Pruned, prune
from ally_plugins.fleet.publisher import publish
from ally_plugins.fleet.readings import chains_with, fleet_statistics
from ally_plugins.fleet.store import FleetStore, HomeState, Noted, SqliteStore, open_store
from ally_plugins.journal.audit import Problem
from ally_plugins.journal.chain import Head, encode_block
from ally_plugins.journal.explanation import explain
from ally_plugins.journal.values import ChainedRecord
from tests.kit.commands import run_command
from tests.kit.fleets import Server
from tests.kit.postgres import Postgres
from tests.kit.waiting import go, until

from .conftest import write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ally_plugins.journal.journal import Journal


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server that runs."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def database(postgres: Postgres) -> str:
    """An empty database."""
    import psycopg

    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS fleet WITH (FORCE)")
        connection.execute("CREATE DATABASE fleet")
    return postgres.url(name="fleet")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where records go."""
    if request.param == "sqlite":
        return str(tmp_path / "fleet.db")
    found: str = request.getfixturevalue("database")
    return found


def record(n: int, kind: str = "note", **fields: object) -> ChainedRecord:
    given = {"at": 1000 + n, "plugin": "p", "session_id": "s", "ref": None, "key": None, "content": b'{"a":1}'}
    given |= fields
    return ChainedRecord(n=n, kind=kind, digest=b"d%d" % n, hash=b"h%d" % n, **given)  # type: ignore[arg-type]


def fill(store: FleetStore) -> None:
    store.begin()
    store.add("laptop", Head(3, b"h3", "c1"), [record(1), record(2, "decision", plugin="q"), record(3, "events")], 50)
    store.add("build-1", Head(1, b"h1", "c2"), [record(1, at=1002, content=None)], 60)
    store.add_findings("laptop", "c1", [Problem("altered", 2, "record 2 is another")], 70)
    store.note_alive("laptop", 5, 80)
    store.commit()


def test_what_is_kept_is_there_for_a_reader(place: str) -> None:
    with open_store(place, create=True) as store:
        fill(store)
    with open_store(place) as store:
        assert store.homes() == [
            HomeState("build-1", Head(1, b"h1", "c2"), 60, 0, 0),
            HomeState("laptop", Head(3, b"h3", "c1"), 80, 2, 1),
        ]
        assert (
            store.findings() == store.findings("laptop") == [Noted("laptop", "altered", 2, "record 2 is another", 70)]
        )
        assert store.findings("build-1") == []
        assert store.head("laptop") == Head(3, b"h3", "c1")
        assert store.head("nobody") is None
        assert (store.hash_of("laptop", "c1", 2), store.hash_of("laptop", "c1", 4)) == (b"h2", None)


def test_the_last_records_come_in_order_of_time_and_as_asked(place: str) -> None:
    with open_store(place, create=True) as store:
        fill(store)

        def found(**filters: object) -> list[tuple[str, int]]:
            return [(home, each.n) for home, each in store.records(**filters)]  # type: ignore[arg-type]

        assert found() == [("laptop", 1), ("build-1", 1), ("laptop", 2)]  # without events
        assert found(limit=1) == [("laptop", 2)]
        assert found(kinds=("events",)) == [("laptop", 3)]
        assert found(home="build-1") == [("build-1", 1)]
        assert found(plugin="q") == [("laptop", 2)]
        voted = b'{"votes":[{"plugin":"guard","verdict":"deny"}]}'
        store.add("laptop", Head(4, b"h4", "c1"), [record(4, "decision", plugin=None, content=voted, at=900)], 50)
        assert found(names="guard") == [("laptop", 4)]
        assert found(names="q") == [("laptop", 2)]
        assert found(since=1002) == [("build-1", 1), ("laptop", 2)]
        [(_, without), (_, with_data)] = list(store.records(since=1002))
        assert (without.data, with_data.data, with_data.hash) == (None, {"a": 1}, b"h2".hex())


def test_what_comes_again_changes_nothing_and_what_is_rolled_back_is_not_there(place: str) -> None:
    with open_store(place, create=True) as store:
        fill(store)
        fill(store)
        assert (len(list(store.records())), len(store.findings())) == (3, 1)
        store.begin()
        store.add("laptop", Head(4, b"h4", "c1"), [record(4)], 90)
        store.roll_back()
        assert store.head("laptop") == Head(3, b"h3", "c1")


def test_a_chain_is_asked_and_all_are_added_up(place: str) -> None:
    voted = b'{"kind":"tool_call","votes":[{"plugin":"guard","verdict":"deny","elapsed_ms":2}],"cause":"s:3"}'
    block = encode_block([("s", seq, seq, "T", None, b'{"seq":%d}' % seq) for seq in (3, 4)])
    accepted, settled = b'{"role":"user","body":{"content":"12345678"}}', b'{"state":"delivered","ids":["m-1"]}'
    records = [
        record(1, "events", plugin=None, ref="3-4", content=block),
        record(2, "decision", plugin=None, ref="d-1", content=voted),
        record(3, "message", ref="m-1", content=accepted),
        record(4, "message_state", plugin=None, content=settled),
    ]
    with open_store(place, create=True) as store:
        for home in ("laptop", "build-1"):
            store.add(home, Head(4, b"h4", "c"), records, 1)
        assert [each.home for each in chains_with(store, "d-1")] == ["build-1", "laptop"]
        [reading] = chains_with(store, "s:4", "laptop")
        assert chains_with(store, "s:5") == []
        assert [event.seq for event in reading.events("s")] == [3, 4]
        found = explain(reading, "d-1")
        assert found is not None
        assert [event.id for event in found.causes] == ["s:3"]
        message = reading.message("m-1")
        assert message is not None
        assert (message.state, message.settled_at) == ("delivered", 1004)
        assert (reading.first_since(1003), reading.first_since(9999)) == (3, 5)
        plugins = fleet_statistics(store, since=0).plugins
        assert (plugins["p"].messages, plugins["p"].tokens) == (2, 4)
        assert plugins["guard"].hooks["ally_gate_tool_call"].denied == 2
        only = fleet_statistics(store, since=1003, home="laptop").plugins
        assert {name: each.messages for name, each in only.items()} == {"p": 1}


@pytest.mark.parametrize("version", [1, 2])
def test_what_an_older_collector_kept_is_brought_up_to_date_by_the_next_and_read_by_nobody_before(
    place: str, version: int
) -> None:
    with open_store(place, create=True) as store:
        fill(store)
        downgrade(store, version)
    with pytest.raises(ConfigError, match=rf"version {version}.*collect"):
        open_store(place)
    with open_store(place, create=True) as store:
        assert len(list(store.records())) == 3
        store.note_alive("laptop", 5, 90, Held("a", "b", "1"))
    with open_store(place) as store:
        assert [each.held for each in store.homes()] == [None, Held("a", "b", "1")]


@pytest.mark.parametrize("version", [0, 1])
def test_two_that_bring_the_same_records_up_to_date_at_once_both_have_them(place: str, version: int) -> None:
    if version:
        with open_store(place, create=True) as store:
            fill(store)
            downgrade(store, version)
    count = 8
    together = Barrier(count)

    def open_one(_: int) -> int:
        together.wait()
        with open_store(place, create=True) as store:
            return len(list(store.records()))

    with ThreadPoolExecutor(count) as threads:
        assert set(threads.map(open_one, range(count))) == {3 if version else 0}


def test_a_home_that_was_retired_is_in_the_fleet_no_more_until_it_is_heard(place: str) -> None:
    with open_store(place, create=True) as store:
        fill(store)
    with open_store(place, writes=True) as store:
        assert not store.retire("nobody", "sold")
        assert store.retire("laptop", "sold")
        before = store.now_ms()
        found = {each.name: (each.is_retired, each.retired) for each in store.homes()}
        assert found == {"build-1": (False, ""), "laptop": (True, "sold")}
        store.note_alive("laptop", 6, before + 60_000)
        assert [each.is_retired for each in store.homes()] == [False, False]
        assert store.retire("laptop", None)
        assert [each.retired_at for each in store.homes()] == [None, None]


def test_a_home_that_is_expected_and_was_never_heard_is_there(place: str) -> None:
    with open_store(place, create=True) as store:
        fill(store)
        store.expect(["laptop", "attic"])
        assert [(each.name, each.seen_at) for each in store.homes()] == [("attic", 0), ("build-1", 60), ("laptop", 80)]


def test_old_records_go_from_the_beginning_of_a_chain_and_what_stays_can_be_verified(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_AT_ONCE", 2)
    with open_store(place, create=True) as store:
        fill(store)  # something is wrong with the laptop
        # One of an earlier time after a later one: it stays, or the chain would have a hole.
        times = [1, 2, 3, 900, 4, 950]
        store.add("desk", Head(6, b"h6", "c3"), [record(n, at=at) for n, at in enumerate(times, 1)], 50)
    with open_store(place, writes=True) as store:
        assert prune(store, 500) == Pruned({"desk": 3}, ())
        assert sorted(each.n for _, each in store.records(home="desk")) == [4, 5, 6]
        assert prune(store, 2000) == Pruned({"build-1": 1, "desk": 3}, ("laptop",))
        assert {home for home, _ in store.records()} == {"laptop"}
        noted = store.query("SELECT home, n, hash, records FROM prunings ORDER BY id")
        assert [(home, n, bytes(hash_), count) for home, n, hash_, count in noted if home == "desk"] == [
            ("desk", 2, b"h2", 2),
            ("desk", 3, b"h3", 1),
            ("desk", 5, b"h5", 2),
            ("desk", 6, b"h6", 1),
        ]
        assert store.head("desk") == Head(6, b"h6", "c3")  # from which the next is verified
        assert prune(store, 2000) == Pruned({}, ("laptop",))


def downgrade(store: FleetStore, version: int) -> None:
    """Make it what an older version had."""
    changes = [f"ALTER TABLE homes DROP COLUMN {each}" for each in ("events", "retired_at", "retired")]
    changes.append("DROP TABLE prunings")
    if version == 1:
        changes += ["DROP INDEX events_by_session", "ALTER TABLE homes DROP COLUMN held"]
    if isinstance(store, SqliteStore):
        changes.append(f"PRAGMA user_version = {version}")
    else:
        changes.append(f"COMMENT ON TABLE records IS 'records of a fleet of ally-plugins, version {version}'")
    for change in changes:
        store._execute(change)


@pytest.mark.long
@pytest.mark.parametrize("off", [-3600, 3600])
def test_who_is_silent_does_not_depend_on_the_clock_of_who_asks_a_database(
    database: str, off: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: true() + off * 10**9)
    with open_store(database, create=True) as store:
        store.note_alive("laptop", 1, store.now_ms())
        store.note_alive("build-1", 1, store.now_ms() - 600_000)
    shown = json.loads(run_command("fleet", "status", database, "--json", code=1).stdout)
    assert {each["home"]: each["silent"] for each in shown["homes"]} == {"laptop": False, "build-1": True}


@pytest.mark.slow
def test_the_collectors_of_two_servers_keep_what_their_homes_send_in_one_place(
    server: Server, journal: Journal, place: str, tmp_path: Path
) -> None:
    other = Server(tmp_path / "other", ["desktop"])
    other.start()
    write(journal, 0, 300)

    async def main(stores: list[FleetStore]) -> None:
        both = [(server, "laptop", stores[0]), (other, "desktop", stores[1])]
        for each, _, store in both:
            await collect(each.who("collector"), store, once=True)
        for _ in range(3):
            await asyncio.gather(*[publish(each.who(name), journal.path, once=True) for each, name, _ in both])
            await asyncio.gather(*[collect(each.who("collector"), store, once=True) for each, _, store in both])
            write(journal, 0, 100)

    try:
        with open_store(place, create=True) as first, open_store(place, create=True) as second:
            go(main([first, second]))
            assert {(each.name, each.head and each.head.n) for each in first.homes()} == {
                ("laptop", 500),
                ("desktop", 500),
                ("build-1", None),
            }
            assert first.findings() == []
            assert len(list(first.records())) == 1000
    finally:
        other.kill()


@pytest.mark.long
def test_a_database_is_named_without_its_password_and_what_is_wrong_with_it(database: str, postgres: Postgres) -> None:
    import psycopg

    with pytest.raises(ConfigError, match="holds no records of a fleet; expected 'records of a fleet"):
        open_store(database)
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_store(postgres.url(name="nowhere"))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE records(a INTEGER)")
    with pytest.raises(ConfigError, match="holds no records of a fleet"):
        open_store(database, create=True)
    for url in ("postgresql://me:hunter2@db/fleet", "postgresql://me@db/fleet?password=hunter2"):
        error = run_command("fleet", "status", url, code=2).stderr
        assert "PGPASSWORD" in error
        assert "hunter2" not in error


@pytest.mark.long
def test_a_collector_goes_on_where_it_was_when_the_database_comes_back(
    server: Server, journal: Journal, database: str, postgres: Postgres
) -> None:
    who = read_credentials(server.folder / "collector.toml")

    async def main(store: FleetStore) -> None:
        await collect(who, store, once=True)  # the stream is there from now on
        collecting = asyncio.create_task(collect(who, store))
        write(journal, 0, 20)
        await publish(read_credentials(server.folder / "laptop.toml"), journal.path, once=True)
        await until(lambda: _count(database) == 20)
        await asyncio.to_thread(postgres.stop)
        write(journal, 20, 20)
        await publish(read_credentials(server.folder / "laptop.toml"), journal.path, once=True)
        await asyncio.sleep(0.5)  # so that it meets the database that is gone; it waits longer than this for it
        assert not collecting.done()
        await asyncio.to_thread(postgres.start)
        await until(lambda: _count(database) == 40)
        collecting.cancel()
        await asyncio.wait([collecting])

    with open_store(database, create=True) as store:
        go(main(store))
        assert store.findings() == []
        numbers = [each.n for _, each in store.records(kinds=("note",))]
        assert numbers == sorted(set(numbers))


def _count(database: str) -> int:
    with open_store(database) as store:
        return len(list(store.records(kinds=("note",))))
