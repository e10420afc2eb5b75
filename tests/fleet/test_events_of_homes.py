"""Events of many homes for a plugin that hosts share: with the real server, and by whoever should not get them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import nats
import orjson
import pytest
from attrs import evolve

from ally_plugins import ToolCallEnd
from ally_plugins.catalog.home.folder import Home
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.fleet import event_batches, event_streams, publisher
from ally_plugins.fleet.collector import collect
from ally_plugins.fleet.connection import FleetError, connected
from ally_plugins.fleet.credentials import (
    STREAM,
    acknowledge_subject,
    consume_subject,
    events_stream,
    events_subject,
    records_subject,
)
from ally_plugins.fleet.event_batches import EventBatch, Wanted, is_digest
from ally_plugins.fleet.publisher import publish
from ally_plugins.fleet.store import open_store
from ally_plugins.fleet.subscriptions import HomeSubscriptions, Subscription
from ally_plugins.host.durable.bookmarks import bookmark_of
from ally_plugins.host.durable.offsets import Place
from ally_plugins.journal.reader import JournalReader
from tests.kit.commands import run_command
from tests.kit.fleets import DIGEST, shared
from tests.kit.hosts import new_host
from tests.kit.sites import Site
from tests.kit.waiting import go, until

from .conftest import going
from .homes_events import EventHome, Notes, begun, collecting, consuming, folding, seen, subscription

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from nats.aio.client import Client

    from ally_plugins.fleet.credentials import Credentials
    from tests.kit.fleets import Server

pytestmark = pytest.mark.shared

EVENTS = events_stream("p")
SUBJECT = events_subject("p", DIGEST, "laptop")


def bookmark(home: EventHome) -> str | None:
    """Return how far a home's events were sent, as it is on disk."""
    with JournalReader(home.path) as reading:
        return reading.bookmark(bookmark_of("p"))


# --- what comes ---


@pytest.mark.smoke
def test_a_plugin_gets_the_events_of_all_homes_in_order_and_each_once(server: Server, tmp_path: Path) -> None:
    homes = [EventHome(server, tmp_path, name) for name in ("laptop", "build-1")]
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1"):
            for home in homes:
                home.emit(5)
                await home.send()  # begins here: what was before is no business of the plugin's
            assert notes.counts() == {}
            for home in homes:
                home.emit(700, output="hello")
                await home.send()
            await until(lambda: len(notes.lines()) >= 1400, lambda: str(len(notes.lines())))

    go(main())
    assert notes.counts() == dict.fromkeys(homes[0].ids(6) | homes[1].ids(6), 1)
    for home in homes:
        numbers = [int(id_.rpartition(":")[2]) for id_, *_ in notes.lines() if id_.startswith(home.name)]
        assert numbers == sorted(numbers)
    assert {(tool, output) for _, tool, output in notes.lines()} == {("bash", "hello")}
    # At a worker it has no host that could take a message of its own.
    assert "has no host here" in notes.file("refused.txt").read_text("utf-8")


def test_what_a_home_has_for_a_plugin_waits_in_its_journal_until_there_is_a_worker(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        home = EventHome(server, tmp_path)
        async with collecting(server, tmp_path), going(home.sending()):
            await until(lambda: home.path.exists() and bookmark(home))
            before = bookmark(home)
            home.emit(20)
            await until(lambda: "no worker has asked for the events of 'p' yet" in caplog.text)
            assert bookmark(home) == before
            async with consuming(server, tmp_path / "w1"):
                await seen(notes, 20)
                assert notes.counts() == dict.fromkeys(home.ids(), 1)
            await until(lambda: bookmark(home) != before)

    go(main())


def test_a_subscription_begins_when_a_host_has_the_plugin_shared_and_not_when_somebody_publishes(
    server: Server, tmp_path: Path
) -> None:
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        home = EventHome(server, tmp_path)
        mine = shared(folding())
        home.emit(3)  # before
        with contextlib.closing(home.journal()) as journal:
            async with new_host({"p": (mine.daemon, mine)}, fleet=server.file("laptop"), journal=journal):
                pass  # no worker is there, and nobody publishes
        home.emit(4)
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1"):
            await home.send()
            await seen(notes, 4)
        assert notes.counts() == dict.fromkeys(home.ids(4), 1)

    go(main())


# --- grants ---


def test_a_home_sends_what_it_has_granted_and_nothing_once_that_was_revoked(server: Server, tmp_path: Path) -> None:
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1"):
            home, other = await begun(server, tmp_path, "laptop", "build-1")
            other.subscriptions = [subscription(grants=["events:TOOL_CALL_START"])]
            async with going(home.sending()):
                home.emit(5)
                other.emit(5)
                await other.send()
                await seen(notes, 5)
                home.subscriptions = []
                home.emit(5)
                await asyncio.sleep(0.5)  # some looks of the publisher
                home.subscriptions = [subscription()]  # granted anew: what it was not granted is not lost
                await seen(notes, 10)
            assert notes.counts() == dict.fromkeys(home.ids(2), 1)

    go(main())


def test_at_the_level_metadata_the_names_and_lengths_of_events_leave_a_home_and_no_content(
    server: Server, tmp_path: Path
) -> None:
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1"):
            [home] = await begun(server, tmp_path)
            home.changes = {"level": "metadata"}
            home.emit(1, output="hunter2")
            await home.send()
            await seen(notes, 1)

    go(main())
    [(_, tool, output)] = notes.lines()
    assert tool == "bash"
    assert output.startswith("[not kept: 7 characters")
    assert all(b"hunter2" not in file.read_bytes() for file in server.folder.rglob("*") if file.is_file())


def test_an_event_that_is_larger_than_a_plugin_reads_comes_without_its_contents(server: Server, tmp_path: Path) -> None:
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1"):
            [home] = await begun(server, tmp_path)
            home.emit(1, output="x" * 2_000_000)
            home.emit(40, output="y" * 50_000)
            await home.send()
            await seen(notes, 41)
            assert notes.counts() == dict.fromkeys(home.ids(2), 1)
            assert notes.lines()[0][2].startswith("[not kept: 2,000,000 characters")
            assert {len(output) for _, _, output in notes.lines()[1:]} == {50_000}

    go(main())


def test_events_for_other_files_than_a_worker_runs_wait_for_one_that_runs_them(server: Server, tmp_path: Path) -> None:
    first, second = Notes(tmp_path / "w1"), Notes(tmp_path / "w2")
    other = "e" * 64

    async def main() -> None:
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1"):
            async with consuming(server, tmp_path / "w2", "worker-2", digest=other):
                [home] = await begun(server, tmp_path)
            home.subscriptions = [subscription(digest=other)]
            home.emit(3)
            await home.send()
            home.subscriptions = [subscription()]
            home.emit(4)
            await home.send()
            await seen(first, 4)
            async with consuming(server, tmp_path / "w2", "worker-2", digest=other):
                await seen(second, 3)
            assert first.counts() == dict.fromkeys(home.ids(5), 1)
            assert second.counts() == dict.fromkeys(home.ids(2) - home.ids(5), 1)

    go(main())


# --- what does not come ---


def said_of_events(tmp_path: Path) -> str | None:
    """Return what the home has said to wait of its events."""
    with open_store(str(tmp_path / "collected.db")) as store:
        return next((home.events.get("p") for home in store.homes() if home.name == "laptop"), None)


def test_what_no_worker_takes_waits_at_the_homes_once_the_server_has_enough_and_records_go_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "ALIVE_S", 0.1)
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        async with collecting(server, tmp_path, events_bytes=300_000):
            async with consuming(server, tmp_path / "w1"):
                [home] = await begun(server, tmp_path)
            async with going(home.sending()):
                home.emit(40, output="x" * 20_000)
                await until(lambda: "maximum bytes exceeded" in (said_of_events(tmp_path) or ""))
                home.emit(1)
                async with connected(server.who("collector")) as client:
                    info = await client.jetstream().stream_info(EVENTS)
                assert info.state.bytes <= 300_000
                with open_store(str(tmp_path / "collected.db")) as store:
                    await until(lambda: max(each.head.n for each in store.homes() if each.head) >= 3)
                async with consuming(server, tmp_path / "w1"):
                    await seen(notes, 41)
                await until(lambda: said_of_events(tmp_path) is None)
        assert notes.counts() == dict.fromkeys(home.ids(2), 1)

    go(main())


def test_one_home_does_not_take_the_place_of_the_others(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_streams, "MOST_OF_A_HOME", 2)
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        async with collecting(server, tmp_path):
            async with consuming(server, tmp_path / "w1"):
                busy, other = await begun(server, tmp_path, "laptop", "build-1")
            for home, count in ((busy, 2), (other, 1)):
                for _ in range(count):
                    home.emit(1)
                    await home.send()
            busy.emit(1)
            with pytest.raises(FleetError, match="maximum messages per subject exceeded"):
                await busy.send()
            other.emit(1)
            await other.send()
            async with consuming(server, tmp_path / "w1"):
                await seen(notes, 4)
                await busy.send()
                await seen(notes, 5)

    go(main())


def test_what_was_pruned_before_it_was_sent_is_said_to_the_worker_that_comes_and_for_status(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "ALIVE_S", 0.1)
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1"):
            [home] = await begun(server, tmp_path)
            home.emit(7)
            with contextlib.closing(home.journal()) as journal:
                journal.prune_blocking(2**60)
            home.emit(2)
            async with going(home.sending()):
                await seen(notes, 2)
                await until(lambda: said_of_events(tmp_path) == "7 events were pruned or too large, and not sent")
        assert "p: 7 events of 'laptop' were pruned there or too large, and were never sent" in caplog.text

    go(main())


def test_publishing_once_sends_records_also_where_no_worker_has_asked_for_events(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        home = EventHome(server, tmp_path)
        home.emit(1)
        async with collecting(server, tmp_path):
            await home.send()
            assert "no worker has asked for the events of 'p' yet" in caplog.text
            await until(lambda: "no worker has asked" in (said_of_events(tmp_path) or ""))

    go(main())


# --- trust ---


async def refusals(who: Credentials, attempt: Callable[[Client, str], Awaitable[Any]], subjects: list[str]) -> None:
    """Check that the server refuses each attempt."""
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error).lower())

    client = await nats.connect(who.server, nkeys_seed_str=who.seed, inbox_prefix=who.inbox, error_cb=note)
    for subject in subjects:
        await attempt(client, subject)
        await client.flush()
        wanted = f'to "{subject}"'.lower()
        await until(lambda wanted=wanted: any(wanted in each for each in refused), subject)  # type: ignore[misc]
    await client.close()


def test_nobody_sends_asks_or_acknowledges_in_the_place_of_another(server: Server) -> None:
    api, stranger = "$JS.API", events_stream("q")
    attempts = {
        "laptop": [
            events_subject("p", DIGEST, "build-1"),
            f"{api}.CONSUMER.MSG.NEXT.{EVENTS}.{DIGEST}",
            f"{api}.CONSUMER.CREATE.{EVENTS}.mine",
            f"{api}.CONSUMER.CREATE.{EVENTS}.mine.{SUBJECT}",
            f"{api}.STREAM.CREATE.{EVENTS}",
            f"{api}.STREAM.INFO.{EVENTS}",
            f"{api}.STREAM.PURGE.{EVENTS}",
            f"{api}.STREAM.MSG.GET.{EVENTS}",
            f"{api}.DIRECT.GET.{EVENTS}",
            f"{api}.DIRECT.GET.{EVENTS}.{events_subject('p', DIGEST, 'build-1')}",
            f"$JS.ACK.{EVENTS}.{DIGEST}.1.1.1.1.1",
            consume_subject("worker-1"),
        ],
        "worker-1": [
            SUBJECT,
            records_subject("laptop"),
            f"{api}.CONSUMER.MSG.NEXT.{stranger}.{DIGEST}",
            f"{api}.CONSUMER.MSG.NEXT.{STREAM}.collector",
            f"{api}.CONSUMER.CREATE.{EVENTS}.mine",
            f"{api}.CONSUMER.CREATE.{EVENTS}.mine.{SUBJECT}",
            f"{api}.CONSUMER.DURABLE.CREATE.{EVENTS}.mine",
            f"{api}.CONSUMER.DELETE.{EVENTS}.{DIGEST}",
            f"{api}.STREAM.INFO.{EVENTS}",
            f"{api}.STREAM.DELETE.{EVENTS}",
            f"{api}.STREAM.PURGE.{EVENTS}",
            f"{api}.DIRECT.GET.{EVENTS}.{SUBJECT}",
            f"$JS.ACK.{EVENTS}.{DIGEST}.1.1.1.1.1",
            f"{acknowledge_subject(server.who('worker-2').token, 'p')}.{DIGEST}.1.1.1.1.1",
            f"{acknowledge_subject(server.who('worker-1').token, 'q')}.{DIGEST}.1.1.1.1.1",
            f"$JS.ACK.{STREAM}.collector.1.1.1.1.1",
            consume_subject("worker-2"),
        ],
        "collector": [
            f"{api}.CONSUMER.MSG.NEXT.{EVENTS}.{DIGEST}",
            f"{api}.STREAM.DELETE.{EVENTS}",
            f"{api}.STREAM.PURGE.{EVENTS}",
            f"$JS.ACK.{EVENTS}.{DIGEST}.1.1.1.1.1",
            SUBJECT,
        ],
    }

    async def main() -> None:
        for name, subjects in attempts.items():
            await refusals(server.who(name), lambda client, subject: client.publish(subject, b"{}"), subjects)

    go(main())


def test_nobody_hears_events_as_they_are_sent(server: Server) -> None:
    subjects = [">", "ally.events.>", SUBJECT, "$JS.>", consume_subject("*"), "_INBOX_worker-2.>"]

    async def main() -> None:
        for name in ("laptop", "worker-1"):
            await refusals(server.who(name), lambda client, subject: client.subscribe(subject), subjects)
        # What it hears of workers are their questions alone.
        await refusals(server.who("collector"), lambda client, subject: client.subscribe(subject), subjects[:4])

    go(main())


def batch(session: str = "s", seq: int = 99, home: str = "") -> bytes:
    """Return a message with an event that was made up."""
    data = {"toolName": "forged", "success": True, "output": home}
    event = {"event_type": "TOOL_CALL_END", "event_data": data, "seq": seq, "session_id": session,
             "id": f"{session}:{seq}", "timestamp": 1, "origin": []}  # fmt: skip
    return EventBatch("c", Place(1), Place(2), [orjson.dumps(event)]).to_bytes()


def test_a_home_has_nothing_come_under_the_name_of_another_not_by_answers_of_the_server_either(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes(tmp_path / "w1")
    own, who = events_subject("p", DIGEST, "build-1"), server.who("build-1")

    async def forge() -> None:
        payload = batch()
        async with connected(who) as client:
            # The server answers to whatever subject a question names; from the streams' account none comes back there.
            await client.publish(own, payload, reply=SUBJECT, headers=who.signed(own, payload))
            await client.flush()
            await client.publish(f"$JS.API.DIRECT.GET.{EVENTS}.{own}", b"", reply=SUBJECT)
            await client.flush()
        laptop = server.who("laptop")
        async with connected(laptop) as client:  # as if it could publish there
            for headers in ({}, who.signed(SUBJECT, payload), laptop.signed(own, payload),
                            laptop.signed(SUBJECT, b"x"), server.who("worker-1").signed(SUBJECT, payload),
                            {"Ally-Certificate": "[]"}, {"Ally-Certificate": laptop.certificate}):  # fmt: skip
                await client.jetstream().publish(SUBJECT, payload, headers=headers)

    async def main() -> None:
        async with collecting(server, tmp_path):
            async with consuming(server, tmp_path / "w1"):
                [home] = await begun(server, tmp_path)
            await forge()  # while no worker has taken what is there
            home.emit(3)
            await home.send()  # behind what is none of its own
            async with consuming(server, tmp_path / "w1"):
                await seen(notes, 4)
                await until(lambda: caplog.text.count("a message is refused that came as one of 'laptop'") == 7)

    go(main())
    assert notes.counts() == dict.fromkeys(("laptop/s:2", "laptop/s:3", "laptop/s:4", "build-1/s:99"), 1)


def test_a_record_that_comes_under_the_name_of_another_home_is_noted_and_not_kept(
    server: Server, tmp_path: Path
) -> None:
    own, laptops = records_subject("build-1"), records_subject("laptop")

    async def main() -> None:
        with open_store(str(tmp_path / "fleet.db"), create=True) as store:
            await collect(server.who("collector"), store, once=True)
            homes = [EventHome(server, tmp_path, name) for name in ("build-1", "laptop")]
            for home in homes:
                home.subscriptions = []
                home.emit(3)
            await homes[0].send()
            async with connected(server.who("build-1")) as client:
                await client.publish(own, b"x", reply=laptops, headers={})
                await client.publish(f"$JS.API.DIRECT.GET.{STREAM}.{own}", b"", reply=laptops)
                await client.flush()
            async with connected(server.who("laptop")) as client:  # as if it could publish there
                forged = server.who("build-1").signed(laptops, b"x")
                await client.jetstream().publish(laptops, b"x", headers=forged)
            await homes[1].send()  # behind it
            await collect(server.who("collector"), store, once=True)
            counts = {home.name: home.head.n for home in store.homes() if home.head is not None}
            assert counts["laptop"] == counts["build-1"]
            [found] = [each for each in store.findings() if each.home == "laptop"]
            assert "somebody else's message came under the name of 'laptop'" in found.text

    go(main())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"plugin": "q"}, "may not take the events of 'q'"),
        ({"digest": "e" * 63}, "may not take the events of 'p'"),
        ({"digest": ">"}, "may not take the events of 'p'"),
        ({"certificate": "of worker-2"}, "may not take the events of 'p'"),
        ({"certificate": "[]"}, "the certificate of a worker is none"),
        ({"certificate": "of laptop"}, "may not take the events of 'p'"),
        (None, "expected a plugin, a digest and a certificate"),
    ],
)
def test_a_worker_gets_no_place_that_its_certificate_does_not_name(
    server: Server, tmp_path: Path, change: Mapping[str, str] | None, expected: str
) -> None:
    who = server.who("worker-1")

    async def main() -> None:
        async with collecting(server, tmp_path), connected(who) as client:
            wanted = Wanted("p", DIGEST, who.certificate or "")
            if change is not None:
                certificate = change.get("certificate", wanted.certificate)
                if certificate.startswith("of "):
                    certificate = server.who(certificate.removeprefix("of ")).certificate or ""
                wanted = evolve(wanted, **{**change, "certificate": certificate})
            question = wanted.to_bytes() if change is not None else b"[]"
            answer = None
            while answer is None:
                with contextlib.suppress(nats.errors.NoRespondersError):  # the collector is being started
                    answer = await client.request(consume_subject("worker-1"), question, timeout=10)
            assert expected in orjson.loads(answer.data)["problem"]

    go(main())


def test_what_is_no_batch_of_events_is_refused_and_holds_up_nothing(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes(tmp_path / "w1")
    who = server.who("laptop")
    payloads = [
        b"",
        b"[]",
        b'{"version":1}',
        b'{"version":1,"events":[1]}',
        b'{"version":1,"events":[{"session_id":1,"seq":1}]}',
        b'{"version":1,"events":[{"session_id":"s","seq":1.5}]}',
        b'{"version":1,"events":[{"session_id":"s","seq":1,"deep":' + b"[" * 900 + b"]" * 900 + b"}]}",
    ]

    async def main() -> None:
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1"):
            [home] = await begun(server, tmp_path)
            async with connected(who) as client:
                for payload in payloads:
                    await client.jetstream().publish(SUBJECT, payload, headers=who.signed(SUBJECT, payload))
                # What its plugin cannot read is its plugin's to leave out: it is acknowledged.
                odd = batch().replace(b"TOOL_CALL_END", b"NO_SUCH_TYPE")
                await client.jetstream().publish(SUBJECT, odd, headers=who.signed(SUBJECT, odd))
            home.emit(3)
            await home.send()
            await seen(notes, 3)

    go(main())
    assert caplog.text.count("a message is refused that came as one of 'laptop'") == len(payloads)
    assert notes.counts() == dict.fromkeys(("laptop/s:2", "laptop/s:3", "laptop/s:4"), 1)


def test_events_of_a_version_that_a_worker_does_not_read_stay_and_are_said_once(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes(tmp_path / "w1")
    who = server.who("laptop")
    newer = [batch().replace(b'"version":1', b'"version":2') + b" " * n for n in range(2)]

    async def main() -> None:
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1"):
            [home] = await begun(server, tmp_path)
            async with connected(who) as client:
                for payload in newer:
                    await client.jetstream().publish(SUBJECT, payload, headers=who.signed(SUBJECT, payload))
            home.emit(3)
            await home.send()
            await seen(notes, 3)
            assert notes.counts() == dict.fromkeys(home.ids(2), 1)
            assert caplog.text.count("'laptop' sends events of version 2 of the wire, expected 1, which wait") == 1
            monkeypatch.setattr(event_batches, "_VERSION", 2)  # the worker is brought to that version
            await seen(notes, 5)

    go(main())


def test_a_file_from_before_homes_had_certificates_says_how_to_get_one(server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        async with collecting(server, tmp_path):
            home = EventHome(server, tmp_path)
            home.changes = {"certificate": None}
            home.emit(1)
            with pytest.raises(ConfigError, match="has no certificate; run `ally-plugins fleet init` again"):
                await home.send()

    go(main())


# --- what a home has settled ---


MANIFEST = """
[events]
subscribe = ["TOOL_CALL_END", "TOOL_CALL_START"]
durable = ["TOOL_CALL_END"]
"""


def test_what_a_home_sends_is_what_its_operator_has_settled_at_that_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("ALLY_HOME", str(home))
    site = Site(tmp_path / "site")
    site.plugin("folded", MANIFEST)
    monkeypatch.syspath_prepend(str(site.path))
    given = HomeSubscriptions(Home("ally-plugins", home))
    assert given() == ()
    run_command("enable", "folded", "--place", "shared", "--yes")
    [found] = given()
    assert (found.plugin, found.types) == ("folded", ("TOOL_CALL_END",))
    assert is_digest(found.digest)
    assert found.wants(ToolCallEnd(tool_name="bash"))
    run_command("revoke", "folded", "events:TOOL_CALL_END")
    [found] = given()
    assert not found.wants(ToolCallEnd(tool_name="bash"))
    run_command("place", "folded", "process")
    assert given() == ()
    run_command("place", "folded", "shared")
    run_command("disable", "folded")
    assert given() == ()
    run_command("enable", "folded", "--yes")
    assert len(given()) == 1
    (home / "config.toml").write_text("[plugins.folded\n", "utf-8")
    for _ in range(2):  # nothing of what was settled before
        with pytest.raises(ConfigError):
            given()


def test_a_home_whose_settings_cannot_be_read_sends_no_events_and_its_records_all_the_same(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1"):
            [home] = await begun(server, tmp_path)
            before = bookmark(home)
            home.emit(5)
            problems = [ConfigError("config.toml is torn", path="config.toml")]

            def read() -> list[Subscription]:
                for problem in problems:
                    raise problem
                return home.given()

            sent: list[int] = []
            publishing = publish(home.who, home.path, subscriptions=read, on_sent=lambda head: sent.append(head.n))
            async with going(publishing):
                await until(lambda: sent and "no events are sent: config.toml is torn" in caplog.text)
                assert bookmark(home) == before
                problems.clear()
                await seen(Notes(tmp_path / "w1"), 5)

    go(main())


# --- orders that nobody has given ---


def test_an_answer_of_the_server_is_no_order_to_it_whatever_subject_the_question_has_named(
    server: Server, tmp_path: Path
) -> None:
    """An empty answer would be the order to delete, and one with a record in it, which a home has made, any other."""
    api, nothing = "$JS.API", events_subject("p", "e" * 64, "laptop")
    config = {"durable_name": "spy", "deliver_subject": "_INBOX_laptop.spy", "ack_policy": "none"}
    order = orjson.dumps({"stream_name": STREAM, "config": config})
    orders = [
        f"{api}.{verb}.{each}"
        for stream, consumer in ((EVENTS, DIGEST), (STREAM, "collector"))
        for verb, each in (
            ("STREAM.PURGE", stream),
            ("CONSUMER.DELETE", f"{stream}.{consumer}"),
            ("CONSUMER.CREATE", f"{stream}.spy"),
            ("CONSUMER.DURABLE.CREATE", f"{stream}.spy"),
            ("STREAM.DELETE", stream),
        )
    ]

    async def attack(name: str, questions: list[tuple[str, bytes]]) -> None:
        async with connected(server.who(name)) as client:
            for target in orders:
                for subject, payload in questions:
                    await client.publish(subject, payload, reply=target)
            await client.flush()
            # An answer to a question behind them all says that they were all answered.
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await client.request(questions[0][0], questions[0][1], timeout=1)

    async def main() -> None:
        async with collecting(server, tmp_path):
            async with consuming(server, tmp_path / "w1"):
                [home] = await begun(server, tmp_path)
            home.emit(3)
            await home.send()
            own = events_subject("p", "f" * 64, "laptop")
            async with connected(server.who("laptop")) as client:
                await client.jetstream().publish(own, order)
            get, take = f"{api}.DIRECT.GET.{EVENTS}", f"{api}.CONSUMER.MSG.NEXT.{EVENTS}"
            await attack("laptop", [(f"{get}.{nothing}", b""), (f"{get}.{own}", b""), (own, b"x")])
            await attack(
                "worker-1", [(f"{take}.{'e' * 64}", b'{"no_wait":true}'), (f"{take}.{DIGEST}", b'{"no_wait":1}')]
            )
            async with connected(server.who("collector")) as client:
                jetstream = client.jetstream()
                assert (await jetstream.stream_info(STREAM)).state.messages >= 2
                assert (await jetstream.stream_info(EVENTS)).state.messages >= 2
                for stream, consumer in ((EVENTS, DIGEST), (STREAM, "collector")):
                    assert (await jetstream.consumer_info(stream, consumer)).name == consumer
                    assert (await jetstream.stream_info(stream)).state.consumer_count == 1

    go(main())


def test_an_answer_of_the_server_acknowledges_nothing_that_a_worker_has_before_it(
    server: Server, tmp_path: Path
) -> None:
    async def main() -> None:
        async with collecting(server, tmp_path):
            async with consuming(server, tmp_path / "w1"):
                [home] = await begun(server, tmp_path)
            home.emit(3)
            await home.send()
            who = server.who("worker-1")
            async with connected(who) as worker, connected(server.who("laptop")) as laptop:
                taking = await worker.jetstream().pull_subscribe_bind(durable=DIGEST, stream=EVENTS)
                [message] = await taking.fetch(1, timeout=30)
                empty = f"$JS.API.DIRECT.GET.{EVENTS}.{events_subject('p', 'e' * 64, 'laptop')}"
                await laptop.publish(empty, b"", reply=message.reply)
                with contextlib.suppress(nats.errors.Error, TimeoutError):
                    await laptop.request(empty, b"", timeout=1)  # by its answer the one before was answered
                async with connected(server.who("collector")) as client:
                    assert (await client.jetstream().stream_info(EVENTS)).state.messages == 1
                    place = message.reply.removeprefix(f"$JS.ACK.{EVENTS}.")
                    await worker.publish(f"{acknowledge_subject(who.token, 'p')}.{place}", b"+ACK")
                    while (await client.jetstream().stream_info(EVENTS)).state.messages:
                        await worker.flush()

    go(main())
