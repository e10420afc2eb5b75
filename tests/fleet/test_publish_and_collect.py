"""Homes publish what they have committed, and a collector verifies and keeps it: with the real server, on bad days."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sqlite3
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import pytest

from ally_plugins.contract.values.errors import AuditError
from ally_plugins.fleet.answers import ANSWER_S, Answers
from ally_plugins.fleet.batches import Alive, Held, RecordBatch, encode
from ally_plugins.fleet.collector import collect
from ally_plugins.fleet.connection import FleetError, connected
from ally_plugins.fleet.credentials import STREAM, alive_subject, records_subject
from ally_plugins.fleet.publisher import POLL_S, Publisher, publish
from ally_plugins.fleet.store import FleetStore, open_store
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import Record
from tests.kit.waiting import go, until

from .conftest import going, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nats.aio.client import Client

    from tests.kit.fleets import Server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FleetStore]:
    """Where the collector keeps what came."""
    with open_store(str(tmp_path / "fleet.db"), create=True) as made:
        yield made


async def all_collected(server: Server, store: FleetStore) -> None:
    """Collect until nothing more comes."""
    await collect(server.who("collector"), store, once=True)


async def put(client: Client, server: Server, payload: bytes, home: str = "laptop") -> None:
    """Publish something on a home's subject, signed as its own."""
    subject = records_subject(home)
    await client.jetstream().publish(subject, payload, headers=server.who(home).signed(subject, payload))


def numbers(store: FleetStore, home: str = "laptop") -> list[int]:
    """Return the numbers of a home's records, in order of time."""
    return [record.n for _, record in store.records(home=home)]


def kinds(store: FleetStore) -> list[tuple[str, str, int]]:
    """Return what was found wrong."""
    return [(each.home, each.kind, each.record) for each in store.findings()]


# --- trust ---


@pytest.mark.slow
@pytest.mark.parametrize(
    "subject",
    [
        records_subject("build-1"),
        alive_subject("build-1"),
        f"$JS.API.STREAM.DELETE.{STREAM}",
        f"$JS.API.STREAM.PURGE.{STREAM}",
        f"$JS.API.STREAM.MSG.GET.{STREAM}",
        f"$JS.API.DIRECT.GET.{STREAM}.{records_subject('build-1')}",
        f"$JS.API.CONSUMER.CREATE.{STREAM}.mine",
        f"$JS.ACK.{STREAM}.collector.1.1.1.1.1",
        "_INBOX_build-1.1",
    ],
)
def test_a_home_is_heard_on_its_own_subjects_alone(server: Server, subject: str, store: FleetStore) -> None:
    async def main() -> None:
        await all_collected(server, store)
        refused: list[str] = []

        async def note(error: Exception) -> None:
            refused.append(str(error).lower())

        who = server.who("laptop")
        client = await nats.connect(who.server, nkeys_seed_str=who.seed, inbox_prefix=who.inbox, error_cb=note)
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await client.request(subject, b"{}", timeout=0.1)
        await until(
            lambda: any(f'permissions violation for publish to "{subject}"'.lower() in each for each in refused)
        )
        await client.close()

    go(main())


@pytest.mark.parametrize("subject", [">", records_subject("*"), alive_subject("*"), "_INBOX_build-1.>", "_INBOX.>"])
def test_a_home_hears_nothing_of_others(server: Server, subject: str) -> None:
    async def main() -> None:
        refused: list[str] = []

        async def note(error: Exception) -> None:
            refused.append(str(error).lower())

        who = server.who("laptop")
        client = await nats.connect(who.server, nkeys_seed_str=who.seed, inbox_prefix=who.inbox, error_cb=note)
        await client.subscribe(subject)
        wanted = f'permissions violation for subscription to "{subject}"'.lower()
        await until(lambda: any(wanted in each for each in refused))
        await client.close()

    go(main())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DELETE", "PURGE", "MSG.DELETE", "UPDATE"])
def test_a_collector_removes_no_record_from_the_server(server: Server, store: FleetStore, kind: str) -> None:
    async def main() -> None:
        await all_collected(server, store)
        async with connected(server.who("collector")) as client:
            with pytest.raises((nats.errors.Error, TimeoutError)):
                await client.request(f"$JS.API.STREAM.{kind}.{STREAM}", b"{}", timeout=0.2)

    go(main())


def test_who_has_no_key_is_not_let_in(server: Server) -> None:
    async def main() -> None:
        nkeys: Any = import_module("nkeys")
        stranger = nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER).decode()
        who = server.who("laptop")
        with pytest.raises(FleetError, match="does not take 'laptop'"):
            async with connected(type(who)(who.server, who.name, stranger)):
                raise AssertionError

    go(main())


def test_without_a_collector_ever_a_publisher_says_what_is_missing(server: Server, journal: Journal) -> None:
    write(journal, 0, 1)
    with pytest.raises(FleetError, match="does a collector run"):
        go(publish(server.who("laptop"), journal.path, once=True))


# --- what comes ---


def test_what_a_home_has_committed_is_kept_in_order_with_its_chain(
    server: Server, journal: Journal, store: FleetStore
) -> None:
    async def main() -> None:
        await all_collected(server, store)
        write(journal, 0, 700)
        await publish(server.who("laptop"), journal.path, once=True)
        await all_collected(server, store)
        write(journal, 700, 50)
        for _ in range(2):  # the second has nothing to send
            await publish(server.who("laptop"), journal.path, once=True)
        await all_collected(server, store)

    go(main())
    assert numbers(store) == list(range(1, 751))
    [_, home] = store.homes()
    with JournalReader(journal.path) as reading:
        last = reading.record(750)
    assert last is not None
    assert home.head is not None
    assert home.head.hash.hex() == last.hash
    assert kinds(store) == []


def test_of_a_home_at_the_level_metadata_no_content_leaves_it(
    server: Server, journal: Journal, store: FleetStore, tmp_path: Path
) -> None:
    async def main() -> None:
        await all_collected(server, store)
        journal.append_blocking(Record("note", 1, data={"secret": "hunter2"}))
        await publish(server.who("laptop"), journal.path, once=True)
        await all_collected(server, store)

    go(main())
    [(_, record)] = store.records()
    assert (record.kind, record.data) == ("note", None)
    for file in (p for p in (*tmp_path.glob("fleet.db*"), *(tmp_path / "fleet").rglob("*")) if p.is_file()):
        assert b"hunter2" not in file.read_bytes()


@pytest.mark.slow
def test_at_the_level_body_contents_come_but_for_one_that_is_larger_than_a_message(
    server: Server, journal: Journal, store: FleetStore
) -> None:
    file = server.folder / "laptop.toml"
    file.write_text(file.read_text().replace('"metadata"', '"body"'))

    async def main() -> None:
        await all_collected(server, store)
        for text in ("small", "x" * 9_000_000, "small again"):
            journal.append_blocking(Record("note", 1, data={"text": text}))
        await publish(server.who("laptop"), journal.path, once=True)
        await all_collected(server, store)

    go(main())
    found = [record.data for _, record in store.records()]
    assert found == [{"text": "small"}, None, {"text": "small again"}]
    assert kinds(store) == []


# --- bad days ---


@pytest.mark.smoke
@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_loses_nothing_and_doubles_nothing(
    server: Server, journal: Journal, store: FleetStore
) -> None:
    async def main() -> None:
        await all_collected(server, store)
        async with going(collect(server.who("collector"), store)), going(publish(server.who("laptop"), journal.path)):
            for round_ in range(3):
                write(journal, 100 * round_, 50)
                await until(lambda: len(numbers(store)) > 0)
                await asyncio.to_thread(server.kill)
                write(journal, 100 * round_ + 50, 50)
                await asyncio.to_thread(server.start)
            await until(lambda: len(numbers(store)) >= 300)

    go(main())
    assert numbers(store) == list(range(1, 301))
    assert kinds(store) == []


def test_a_server_that_is_slow_is_waited_for_and_one_that_is_gone_is_not(
    server: Server, journal: Journal, store: FleetStore
) -> None:
    async def main() -> None:
        await all_collected(server, store)
        assert server.process is not None
        async with going(collect(server.who("collector"), store)), going(publish(server.who("laptop"), journal.path)):
            write(journal, 0, 1)
            await until(lambda: numbers(store) == [1])
            server.process.send_signal(signal.SIGSTOP)  # as one whose disk is busy: it takes what comes, and is silent
            write(journal, 1, 1)
            await asyncio.sleep(2 * POLL_S)  # so that it has been sent; nobody tells
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            # It was given up with the connection, and not after the time that a slow server has.
            async with asyncio.timeout(ANSWER_S / 2):
                await until(lambda: numbers(store) == [1, 2])

    go(main())
    assert kinds(store) == []


@pytest.mark.slow
def test_a_server_that_has_lost_its_disk_gets_all_from_the_homes_again(
    server: Server, journal: Journal, store: FleetStore
) -> None:
    async def main() -> None:
        await all_collected(server, store)
        async with going(publish(server.who("laptop"), journal.path)):
            write(journal, 0, 30)
            async with going(collect(server.who("collector"), store)):
                await until(lambda: len(numbers(store)) == 30)
            await asyncio.to_thread(server.kill)
            shutil.rmtree(server.folder / "jetstream")
            await asyncio.to_thread(server.start)
            async with going(collect(server.who("collector"), store)):
                write(journal, 30, 10)
                await until(lambda: len(numbers(store)) == 40)

    go(main())
    assert numbers(store) == list(range(1, 41))
    assert kinds(store) == []


@pytest.mark.slow
def test_two_publishers_of_one_home_double_nothing(server: Server, journal: Journal, store: FleetStore) -> None:
    async def main() -> None:
        await all_collected(server, store)
        write(journal, 0, 5000)
        sending = [publish(server.who("laptop"), journal.path, once=True) for _ in range(4)]
        await asyncio.gather(*sending)
        await all_collected(server, store)

    go(main())
    assert numbers(store) == list(range(1, 5001))
    assert kinds(store) == []


@pytest.mark.slow
def test_two_homes_of_one_image_which_have_one_chain_are_both_kept(
    server: Server, journal: Journal, store: FleetStore
) -> None:
    write(journal, 0, 20)

    async def main() -> None:
        await all_collected(server, store)
        for name in ("laptop", "build-1"):
            await publish(server.who(name), journal.path, once=True)
        await all_collected(server, store)

    go(main())
    assert numbers(store, "laptop") == numbers(store, "build-1") == list(range(1, 21))


@pytest.mark.slow
def test_what_was_kept_but_not_acknowledged_comes_again_and_is_no_double(
    server: Server, journal: Journal, store: FleetStore
) -> None:
    async def main() -> None:
        await all_collected(server, store)
        write(journal, 0, 20)
        await publish(server.who("laptop"), journal.path, once=True)
        await all_collected(server, store)

    go(main())
    with JournalReader(journal.path) as reading:
        batch = RecordBatch(reading.chain(), reading.chained(0, 10**6))

    async def again() -> None:
        async with connected(server.who("laptop")) as client:
            await put(client, server, encode(batch, 10**6))
        await all_collected(server, store)

    go(again())
    assert numbers(store) == list(range(1, 21))
    assert kinds(store) == []


@pytest.mark.slow
def test_a_message_that_nothing_can_be_made_of_is_noted_and_holds_up_nobody(
    server: Server, journal: Journal, store: FleetStore
) -> None:
    async def main() -> None:
        await all_collected(server, store)
        write(journal, 0, 3)
        async with connected(server.who("laptop")) as client:
            for payload in (b"", b"\xff", b"[]", b'{"version":1,"chain":"c","records":[[1]]}'):
                await put(client, server, payload)
        await publish(server.who("build-1"), journal.path, once=True)
        await all_collected(server, store)

    go(main())
    assert numbers(store, "build-1") == [1, 2, 3]
    assert kinds(store) == [("laptop", "unreadable", 1)]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["altered", "cut"])
def test_a_journal_that_is_not_what_was_published_is_found_by_its_publisher_and_noted_for_all(
    server: Server, journal: Journal, store: FleetStore, how: str
) -> None:
    write(journal, 0, 10)

    async def main() -> None:
        await all_collected(server, store)
        await publish(server.who("laptop"), journal.path, once=True)
        await all_collected(server, store)
        with contextlib.closing(sqlite3.connect(journal.path)) as db, db:
            if how == "cut":
                db.execute("DELETE FROM records WHERE n > 5")
            else:
                db.execute("UPDATE records SET hash = zeroblob(32) WHERE n = 10")
        for _ in range(2):  # it is said once, though no collector listens
            with pytest.raises(AuditError, match=r"record 10, which was published; nothing more is"):
                await publish(server.who("laptop"), journal.path, once=True)
        async with connected(server.who("collector")) as client:
            assert (await client.jetstream().stream_info(STREAM)).state.messages == 2
        await all_collected(server, store)

    go(main())
    [found] = store.findings()
    assert (found.home, found.kind, found.record) == ("laptop", "replaced", 10)
    assert "record 10, which was published" in found.text
    assert numbers(store) == list(range(1, 11))


@pytest.mark.slow
def test_records_that_were_altered_before_they_were_published_are_found_on_arrival(
    server: Server, journal: Journal, store: FleetStore
) -> None:
    write(journal, 0, 10)
    with contextlib.closing(sqlite3.connect(journal.path)) as db, db:
        db.execute("UPDATE records SET plugin = 'somebody else' WHERE n = 4")

    async def main() -> None:
        await all_collected(server, store)
        await publish(server.who("laptop"), journal.path, once=True)
        await all_collected(server, store)

    go(main())
    assert kinds(store) == [("laptop", "altered", 4)]
    assert numbers(store) == list(range(1, 11))


@pytest.mark.slow
def test_a_new_journal_in_the_place_of_another_is_noted_and_kept_beside_it(
    server: Server, journal: Journal, store: FleetStore, tmp_path: Path
) -> None:
    write(journal, 0, 3)
    other = Journal.open(tmp_path / "other" / "journal.db")
    write(other, 0, 2)
    other.close_blocking()

    async def main() -> None:
        await all_collected(server, store)
        for path in (journal.path, other.path):
            await publish(server.who("laptop"), path, once=True)
        await all_collected(server, store)

    go(main())
    assert kinds(store) == [("laptop", "replaced", 1)]
    assert sorted(numbers(store)) == [1, 1, 2, 2, 3]


@pytest.mark.slow
def test_a_home_that_says_that_it_is_there_is_known_with_what_it_has_still_to_send(
    server: Server, journal: Journal, store: FleetStore
) -> None:
    write(journal, 0, 3)
    with JournalReader(journal.path) as reading:
        head = reading.head()

    async def main() -> None:
        async with going(collect(server.who("collector"), store)), connected(server.who("laptop")) as client:
            said = Alive(head).to_bytes()
            bad = [b'{"version":1,"head":1}', said.replace(b'"held":null', b'"held":{"plugins":[]}')]
            while not any(each.seen_at for each in store.homes()):
                for word in (said, b"garbage", *bad):
                    subject = alive_subject("laptop")
                    await client.publish(subject, word, headers=server.who("laptop").signed(subject, word))
                await client.flush()
                await asyncio.sleep(0.01)

    go(main())
    [_, home] = store.homes()
    assert (home.name, home.head, home.lag, home.findings) == ("laptop", None, 3, 0)
    assert home.held is None


@pytest.mark.slow
def test_a_publisher_says_what_its_home_holds(server: Server, journal: Journal, store: FleetStore) -> None:
    write(journal, 0, 3)
    held = Held("a" * 64, "", "1.2")

    async def main() -> None:
        await all_collected(server, store)
        async with going(collect(server.who("collector"), store)):
            while not [each for each in store.homes() if each.held]:  # nobody keeps it before a collector listens
                await publish(server.who("laptop"), journal.path, once=True, held=lambda: held)

    go(main())
    assert [each.held for each in store.homes()] == [None, held]


@pytest.mark.slow
def test_a_publisher_that_has_nothing_to_send_asks_the_server_nothing(
    server: Server, journal: Journal, store: FleetStore
) -> None:
    write(journal, 0, 3)

    async def main() -> None:
        await all_collected(server, store)
        async with connected(server.who("laptop")) as client:
            with JournalReader(journal.path) as reading:
                publisher = Publisher(client, Answers(), server.who("laptop"), reading)
                await publisher.catch_up()
                sent = client.stats["out_msgs"]
                for _ in range(5):
                    await publisher.catch_up()
                assert client.stats["out_msgs"] == sent
                # Somebody else goes on from there, so what it knows is old, and it finds that out when it sends.
                write(journal, 3, 2)
                await publish(server.who("laptop"), journal.path, once=True)
                write(journal, 5, 2)
                await publisher.catch_up()
        await all_collected(server, store)

    go(main())
    assert numbers(store) == list(range(1, 8))
    assert kinds(store) == []


# --- the end ---


def test_who_is_cancelled_in_the_moment_of_an_answer_is_cancelled() -> None:
    """Until Python 3.12, `wait_for` returns the answer, and the cancellation is gone."""

    async def main() -> None:
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(Answers().wait(asyncio.wait_for(answer, 60)))
        for _ in range(3):
            await asyncio.sleep(0)
        answer.set_result(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    go(main())


def test_a_collector_that_is_cancelled_at_any_moment_of_its_start_ends(server: Server, store: FleetStore) -> None:
    async def main() -> None:
        for number in range(15):
            task = asyncio.create_task(collect(server.who("collector"), store))
            await asyncio.sleep(number / 1000)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    go(main())
