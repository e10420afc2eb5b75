from __future__ import annotations

import asyncio
import stat
import threading
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.contract.values.errors import JournalError
from ally_plugins.journal.audit import verify
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import DuplicateKeyError, PendingMessage, Record
from tests.kit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    journal = Journal.open(path)
    yield journal
    journal.close_blocking()
    assert verify(path).problem is None


def message(number: int, **changes: Any) -> PendingMessage:
    body = {"role": "user", "content": f"hello {number}"}
    given = PendingMessage(f"m{number}", "s", "p", 1000 + number, "user", "steer", trigger_turn=False, body=body)
    return given._replace(**changes)


def test_a_record_can_be_read_by_another_connection_as_soon_as_its_future_is_done(path: Path, journal: Journal) -> None:
    async def main() -> None:
        n = await journal.append(Record("grant", 5, "p", None, "p", {"grant": "add_message:user"}))
        with JournalReader(path) as reading:
            record = reading.record(n)
            assert record is not None
            assert (record.kind, record.at, record.plugin, record.data) == (
                "grant",
                5,
                "p",
                {"grant": "add_message:user"},
            )

    asyncio.run(main())


def test_an_accepted_message_is_pending_and_keeps_every_field(path: Path, journal: Journal) -> None:
    given = message(1, key="k", fingerprint="f", cause="s:4", trigger_turn=True, deliver_as="follow_up")

    async def main() -> int:
        return await journal.accept(given)

    n = asyncio.run(main())
    with JournalReader(path) as reading:
        (stored,) = reading.pending("s")
    for name in (
        "id",
        "session_id",
        "plugin",
        "role",
        "deliver_as",
        "trigger_turn",
        "body",
        "key",
        "fingerprint",
        "cause",
    ):
        assert getattr(stored, name) == getattr(given, name)
    assert (stored.n, stored.state, stored.accepted_at, stored.settled_at) == (n, "pending", 1001, None)


def test_many_callers_get_numbers_without_gaps_in_the_order_of_their_calls(journal: Journal) -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(journal.accept(message(i)) for i in range(1000)))

    assert asyncio.run(main()) == list(range(1, 1001))
    assert [m.id for m in journal.pending("s")] == [f"m{i}" for i in range(1000)]


def test_records_messages_and_blocking_calls_of_many_threads_share_one_chain(path: Path, journal: Journal) -> None:
    numbers: list[int] = []

    def work(thread: int) -> None:
        for i in range(50):
            numbers.append(journal.append_blocking(Record("grant", i, f"p{thread}")))
            journal.append_soon(Record("context_read", i, f"p{thread}"))

    threads = [threading.Thread(target=work, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.flush_blocking()
    assert len(set(numbers)) == 200
    with JournalReader(path) as reading:
        assert [record.n for record in reading.records()] == list(range(1, 401))


def test_two_loops_in_two_threads_each_get_their_own_answers(journal: Journal) -> None:
    found: dict[str, list[int]] = {}

    def work(name: str) -> None:
        async def main() -> None:
            found[name] = list(await asyncio.gather(*(journal.append(Record(name, i)) for i in range(200))))

        asyncio.run(main())

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("a", "b"):
        assert {record.n for record in journal.reader.records(kind=name)} == set(found[name])


def test_cancelling_the_wait_does_not_take_the_message_back_nor_hurt_its_neighbours(journal: Journal) -> None:
    async def main() -> None:
        first, second = journal.accept(message(1)), journal.accept(message(2))
        first.cancel()
        assert await second == 2
        await journal.flush()

    asyncio.run(main())
    assert [m.id for m in journal.pending("s")] == ["m1", "m2"]


def test_a_key_that_comes_again_brings_the_earlier_message(journal: Journal) -> None:
    async def main() -> None:
        await journal.accept(message(1, key="k", fingerprint="f"))
        with pytest.raises(DuplicateKeyError) as caught:
            await journal.accept(message(2, key="k", fingerprint="other"))
        assert (caught.value.stored.id, caught.value.stored.fingerprint) == ("m1", "f")

    asyncio.run(main())
    found = journal.find_key("p", "s", "k")
    assert found is not None
    assert found.id == "m1"
    assert journal.find_key("p", "s", "other") is None
    assert journal.find_key("q", "s", "k") is None
    assert journal.find_key("p", "t", "k") is None


def test_a_key_that_comes_twice_in_one_batch_is_accepted_once_and_its_neighbours_are_numbered_right(
    journal: Journal,
) -> None:
    async def main() -> list[Any]:
        given = [message(i, key="same" if i in {0, 3, 7} else None) for i in range(10)]
        return await asyncio.gather(*map(journal.accept, given), return_exceptions=True)

    outcomes = asyncio.run(main())
    stored = {m.id: m.n for m in journal.pending("s")}
    assert len(stored) == 8
    for i, outcome in enumerate(outcomes):
        if i in {3, 7}:
            assert isinstance(outcome, DuplicateKeyError)
            assert (outcome.stored.id, outcome.stored.n) == ("m0", stored["m0"])
        else:
            assert outcome == stored[f"m{i}"]


def test_two_plugins_may_use_the_same_key(journal: Journal) -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(journal.accept(message(1, key="k", plugin=plugin)) for plugin in "pq"))

    assert asyncio.run(main()) == [1, 2]


def test_delivered_messages_are_no_longer_pending_and_settling_them_again_changes_nothing(journal: Journal) -> None:
    async def main() -> None:
        await asyncio.gather(*(journal.accept(message(i)) for i in range(4)))
        await journal.mark_delivered(["m0", "m2", "unknown"], 2000)
        await journal.mark(["m2", "m3"], "expired", 3000)

    asyncio.run(main())
    assert [m.id for m in journal.pending("s")] == ["m1"]
    found = {m.id: (m.state, m.settled_at) for m in journal.reader.messages("s")}
    assert found == {
        "m0": ("delivered", 2000),
        "m1": ("pending", None),
        "m2": ("delivered", 2000),
        "m3": ("expired", 3000),
    }
    assert [r.data for r in journal.reader.records(kind="message_state")] == [
        {"state": "delivered", "ids": ["m0", "m2"]},
        {"state": "expired", "ids": ["m3"]},
    ]


def test_a_message_accepted_and_marked_in_one_batch_is_delivered(journal: Journal) -> None:
    async def main() -> None:
        await asyncio.gather(journal.accept(message(1)), journal.mark_delivered(["m1"], 5))

    asyncio.run(main())
    assert journal.pending("s") == []


def test_events_come_back_as_they_were_in_order_and_by_id(journal: Journal) -> None:
    bodies = [b'{"content":"%d\\n\xc3\xa9"}' % i for i in range(10_000)]
    rows = [("s", i + 1, 100 + i, "USER_MESSAGE", "p>q" if i % 3 else None, body) for i, body in enumerate(bodies)]
    for start in range(0, 10_000, 137):
        journal.add_events(rows[start : start + 137])
        journal.add_events([("other", start + 1, 5, "TODO_UPDATE", None, b"{}")])
    journal.flush_blocking()
    found = list(journal.reader.events("s"))
    assert [(e.session_id, e.seq, e.at, e.type, e.origin, e.body) for e in found] == rows
    event = journal.reader.event("s:777")
    assert event is not None
    assert event.body == bodies[776]
    assert journal.reader.event("s:10001") is None
    assert [e.seq for e in journal.reader.events("s", after_seq=9998)] == [9999, 10_000]
    assert journal.last_seq("s") == 10_000
    assert journal.last_seq("nobody") == 0


def test_a_session_id_with_a_colon_is_no_trap_for_event_ids(journal: Journal) -> None:
    journal.add_events([("a:b", 1, 1, "TODO_UPDATE", None, b"{}")])
    journal.flush_blocking()
    event = journal.reader.event("a:b:1")
    assert event is not None
    assert event.id == "a:b:1"
    assert journal.reader.event("no-number") is None
    assert journal.reader.event(f"a:b:{'1' * 5000}") is None
    assert journal.reader.event(f"a:b:{'0' * 5000}1") is None


def test_what_nobody_waits_for_is_written_without_being_asked(journal: Journal) -> None:
    stop = threading.Event()
    journal.append_soon(Record("context_read", 1, "p"))
    assert next(journal.reader.follow(after_n=0, stop=stop)).kind == "context_read"


def test_refusals_of_one_second_are_folded_with_a_count(journal: Journal) -> None:
    for i in range(1000):
        journal.append_soon(Record("refusal", 1000 + i // 2, "p", "s", None, {"reason": "budget"}), fold="budget")
    journal.append_soon(Record("refusal", 2000, "p", "s", None, {"reason": "budget"}), fold="budget")
    journal.append_soon(Record("refusal", 2000, "q", "s", None, {"reason": "budget"}), fold="budget")
    journal.flush_blocking()
    found = [(r.plugin, r.at, (r.data or {})["count"]) for r in journal.reader.records(kind="refusal")]
    assert found == [("p", 1000, 1000), ("p", 2000, 1), ("q", 2000, 1)]


def test_folds_are_bounded_when_every_record_is_different(journal: Journal) -> None:
    for i in range(2500):
        journal.append_soon(Record("refusal", 1000, "p", "s", None, {}), fold=i)
    journal.flush_blocking()
    assert sum(1 for _ in journal.reader.records(kind="refusal")) == 2500


def test_read_only_mappings_and_tuples_are_json_and_a_surrogate_is_an_error_in_words(journal: Journal) -> None:
    n = journal.append_blocking(Record("x", 1, data=MappingProxyType({"a": (1, 2), "b": frozenset({"c"})})))
    record = journal.reader.record(n)
    assert record is not None
    assert record.data == {"a": [1, 2], "b": ["c"]}
    with pytest.raises(JournalError, match="must be JSON"):
        journal.append_blocking(Record("x", 1, data={"a": "\ud800"}))
    with pytest.raises(JournalError, match="must be JSON"):
        journal.append_blocking(Record("x", 1, data={"a": object()}))
    journal.append_soon(Record("x", 1, data={"a": object()}))
    journal.append_soon(Record("x", 1, data={"a": object()}), fold="f")
    journal.append_soon(Record("x", 1), fold=["not hashable"])  # type: ignore[arg-type]
    journal.flush_blocking()
    assert journal.lost == 3


def test_what_one_caller_gives_wrongly_fails_for_that_caller_alone(journal: Journal) -> None:
    async def main() -> list[Any]:
        journal.add_events([("s", 1, 1, "TODO_UPDATE", None, "a text where bytes belong")])  # type: ignore[list-item]
        journal.add_events([("s", 3, None, "TODO_UPDATE", None, b"{}")])  # type: ignore[list-item]
        journal.add_events([("s", 4, 1, "TODO_UPDATE", None, b"{}")])
        return await asyncio.gather(
            *(journal.append(Record("x", at)) for at in (1, 2**70, 3, 2**63 - 1)), return_exceptions=True
        )

    assert [type(outcome) for outcome in asyncio.run(main())] == [int, JournalError, int, int]
    assert journal.healthy
    assert journal.lost == 2
    assert [event.seq for event in journal.reader.events("s")] == [4]


@pytest.mark.parametrize(
    "wrong", [{"at": True}, {"at": 1.0}, {"at": "1"}, {"plugin": 5}, {"ref": b"x"}, {"kind": None}]
)
def test_what_sqlite_would_change_on_the_way_is_refused(journal: Journal, wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"kind": "x", "at": 1, **wrong}
    with pytest.raises(JournalError, match=r"expected|cannot write"):
        journal.append_blocking(Record(**given))


def test_nobody_can_write_the_kinds_that_verify_relies_on(journal: Journal) -> None:
    for kind in ("message", "message_state", "events", "pruned", "journal"):
        with pytest.raises(JournalError, match="the journal's own"):
            journal.append_blocking(Record(kind, 1))


def test_pruning_removes_content_but_not_pending_messages_nor_the_chain(path: Path, journal: Journal) -> None:
    async def main() -> None:
        journal.add_events([("s", 1, 5, "USER_MESSAGE", None, b'{"content":"private words"}')])
        await journal.append(Record("decision", 5, "p", "s", "d1", {"why": "private words"}))
        await asyncio.gather(*(journal.accept(message(i, body={"content": "private words"})) for i in range(3)))
        await journal.mark_delivered(["m0"], 1500)
        await journal.append(Record("decision", 90_000, "p", "s", "d2", {"why": "recent"}))
        assert await journal.prune(50_000) == 3
        assert await journal.prune(50_000) == 0

    asyncio.run(main())
    assert [m.body for m in journal.reader.messages("s")] == [
        None,
        {"content": "private words"},
        {"content": "private words"},
    ]
    decision, recent = journal.reader.decision("d1"), journal.reader.decision("d2")
    assert decision is not None
    assert recent is not None
    assert (decision.data, recent.data) == (None, {"why": "recent"})
    assert list(journal.reader.events("s")) == []
    assert journal.last_seq("s") == 1
    report = verify(path)
    assert report.problem is None
    assert report.pruned == 3


def test_pruned_content_is_gone_from_the_file(path: Path) -> None:
    journal = Journal.open(path)
    for i in range(300):
        journal.append_blocking(Record("x", 1, data={"text": f"private words {i}"}))
    assert journal.prune_blocking(1000) == 300
    journal.close_blocking()
    assert b"private words" not in path.read_bytes()
    assert not path.with_name("journal.db-wal").exists()


def test_only_the_owner_can_read_the_journal(path: Path, journal: Journal) -> None:
    journal.append_blocking(Record("x", 1))
    for name in ("journal.db", "journal.db-wal", "audit.head"):
        assert stat.S_IMODE(path.with_name(name).stat().st_mode) == 0o600


def test_a_journal_in_memory_needs_no_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    Journal.in_memory().close_blocking()


def test_a_journal_in_memory_does_the_same_and_leaves_nothing() -> None:
    async def main() -> Path:
        journal = Journal.in_memory()
        await asyncio.gather(*(journal.accept(message(i)) for i in range(10)))
        assert len(journal.pending("s")) == 10
        assert verify(journal.path).problem is None
        await journal.close()
        return journal.path

    assert not asyncio.run(main()).parent.exists()


class Grim:
    """A value that the disk's layer cannot take, with an error that nobody has foreseen."""

    def __conform__(self, _protocol: Any) -> Any:
        raise RecursionError("no end of it")


@pytest.mark.parametrize("bad", ["p:\ud800", object(), Grim()], ids=["surrogate", "object", "grim"])
@pytest.mark.parametrize("place", [0, 1, 250, 511])
def test_one_bad_event_takes_no_neighbour_along(
    bad: Any, place: int, path: Path, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> int:
        rows: list[Any] = [("s", seq, 1000 + seq, "p:e", None, b"{}") for seq in range(1, 513)]
        rows[place] = ("s", place + 1, 1001, bad, None, b"{}")
        journal.add_events([("other", 1, 1000, "p:e", None, b"{}")])
        journal.add_events(rows)
        journal.add_events([("s", 513, 2000, "p:e", None, b"{}")])
        return await journal.accept(message(1))  # in the same batch

    assert asyncio.run(main()) > 0
    with JournalReader(path) as reading:
        assert [event.seq for event in reading.events("s")] == [seq for seq in range(1, 514) if seq != place + 1]
        assert [event.seq for event in reading.events("other")] == [1]
        assert [each.id for each in reading.pending("s")] == ["m1"]
    assert journal.lost == 1
    assert journal.healthy
    assert f"the journal cannot write the event s:{place + 1}" in caplog.text


@pytest.mark.parametrize("after", [0.0, 0.02, 0.049, 0.06])
@pytest.mark.parametrize("is_kept", [True, False], ids=["in a file", "in memory"])
def test_what_nobody_waits_for_is_written_by_itself_however_soon_it_follows_what_somebody_waited_for(
    tmp_path: Path, *, is_kept: bool, after: float
) -> None:
    journal = Journal.open(tmp_path / "journal.db") if is_kept else Journal.in_memory()

    def written() -> list[int]:
        return [record.at for record in journal.reader.records(kind="soon")]

    for number in range(3):
        journal.append_blocking(Record("waited", number))
        time.sleep(after)  # what is tried is in which of its waits the journal's thread is met
        journal.append_soon(Record("soon", number))
        wait_until(lambda: len(written()) > number)  # noqa: B023 - it is called in this round of the loop
    assert written() == [0, 1, 2]
    journal.close_blocking()
