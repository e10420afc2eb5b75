"""What a journal keeps: a session that is purged, what is too old or too much, and one that keeps no contents."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import orjson

from ally_plugins.cli.shell.journal_rows import KINDS
from ally_plugins.journal import store as stores
from ally_plugins.journal.audit import verify
from ally_plugins.journal.contents import WHOLE_KINDS, is_not_kept
from ally_plugins.journal.histories import history_added, history_begun, read_history
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.store import Store, now_ms
from ally_plugins.journal.values import PendingMessage, Record
from ally_plugins.policy.keeping import DAY_MS, Keeping
from tests.kit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pytest

SECRET = "the-words-of-a-person"  # noqa: S105 - a test's
NOTHING = Keeping(days=0, megabytes=0)


def event(session: str, seq: int, **data: Any) -> tuple[str, int, int, str, str | None, bytes]:
    params = {
        "event_type": "USER_MESSAGE",
        "event_data": {"content": SECRET, **data},
        "seq": seq,
        "session_id": session,
    }
    return (session, seq, now_ms(), "USER_MESSAGE", None, orjson.dumps(params))


def message(id_: str, session: str = "s", **body: Any) -> PendingMessage:
    said = {"role": "user", "content": f"{SECRET} {id_}", "metadata": {}, **body}
    return PendingMessage(id_, session, "p", now_ms(), "user", "steer", trigger_turn=False, body=said)


def decision(session: str = "s", at: int | None = None) -> Record:
    data = {"kind": "tool_call", "subject": "bash", "verdict": "deny", "reason": "no", "votes": [], "cause": "c1",
            "decided_on": {"value": {"arguments": {"command": SECRET, "pin": 4711}}}}  # fmt: skip
    return Record("decision", now_ms() if at is None else at, None, session, f"d-{session}", data)


def fill(journal: Journal, sessions: Iterable[str] = ("s", "other")) -> None:
    async def main() -> None:
        for session in sessions:
            for seq in range(1, 6):
                journal.add_events([event(session, seq)])
                await journal.append(decision(session))
                await journal.accept(message(f"{session}-{seq}", session))
            await journal.mark_delivered([f"{session}-1"], now_ms())
            journal.append_soon(history_begun(session, now_ms(), {"title": SECRET, "folder": "/p"}))
            journal.append_soon(history_added(session, now_ms(), [{"text": SECRET}]))
        await journal.append(Record("grant", now_ms(), "p", None, "p", {"grant": "emit_event"}))
        await journal.flush()

    asyncio.run(main())


def bytes_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


def contents_of(path: Path, session: str) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT kind FROM records WHERE session_id = ? AND data IS NOT NULL", (session,))
        return [kind for (kind,) in rows if kind != "message_state"]


# --- purge


def test_of_a_purged_session_no_file_has_a_word_and_the_chain_holds(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    fill(journal, ["s"])
    assert SECRET.encode() in bytes_in(tmp_path)
    assert journal.purge_blocking("s") > 10
    assert journal.fold_log_blocking()
    assert SECRET.encode() not in bytes_in(tmp_path)  # while it is open: pages and log
    assert journal.reader.bookmarks("purging:") == {}
    assert [each.state for each in journal.reader.messages("s")] == ["delivered", *["expired"] * 4]
    journal.close_blocking()
    assert SECRET.encode() not in bytes_in(tmp_path)
    assert verify(path).ok


def test_a_purge_leaves_other_sessions_and_what_the_operator_has_settled(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    fill(journal)
    journal.purge_blocking("s")
    journal.close_blocking()
    assert contents_of(path, "s") == []
    assert {"decision", "events", "message", "history"} <= {*contents_of(path, "other")}
    with JournalReader(path) as reading:
        (grant,) = reading.records(kind="grant")
        purged = [record.data for record in reading.records(kind="pruned")]
    assert grant.data == {"grant": "emit_event"}
    assert [(data["session"], "removed" in data) for data in purged if data is not None] == [("s", False), ("s", True)]


def test_a_purge_while_hosts_write_breaks_no_chain_and_removes_all_that_came_before_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    hosts = [Journal.open(path), Journal.open(path)]
    fill(hosts[0])
    stop, written = threading.Event(), threading.Semaphore(0)

    def write(journal: Journal, session: str) -> None:
        while not stop.is_set():
            journal.append_blocking(decision(session))
            written.release()

    threads = [threading.Thread(target=write, args=each) for each in zip(hosts, ("s", "other"), strict=True)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        written.acquire()
    purging = Journal.open(path)
    before = purging.reader.last_n()
    purging.purge_blocking("s")
    for _ in range(20):
        written.acquire()
    stop.set()
    for thread in threads:
        thread.join()
    for journal in (purging, *hosts):
        journal.close_blocking()
    assert verify(path).problem is None
    with JournalReader(path) as reading:
        kept = [record for record in reading.records(kind="decision", session_id="s") if record.data is not None]
        assert all(record.n > before for record in kept)
        assert all(record.data is not None for record in reading.records(kind="decision", session_id="other"))


def test_a_purge_that_was_killed_in_the_middle_is_finished_by_the_next_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_PRUNE_ROWS", 4)
    path, killed = tmp_path / "a" / "journal.db", tmp_path / "b"
    journal = Journal.open(path)
    fill(journal)
    journal.close_blocking()
    store = Store(path, path.with_name("audit.head"), {}, create=False)
    steps = store.purge("s", now_ms())
    next(steps), next(steps)
    shutil.copytree(path.parent, killed)  # as a kill leaves the files
    steps.close()
    store.close()

    path = killed / "journal.db"
    assert verify(path).ok
    assert contents_of(path, "s") != []
    opened = Journal.open(path, keeping=NOTHING)
    wait_until(lambda: contents_of(path, "s") == [] and not opened.reader.bookmarks("purging:"))
    assert verify(path).ok
    assert {"decision", "events", "message", "history"} <= {*contents_of(path, "other")}
    opened.close_blocking()


def test_while_somebody_reads_what_was_there_before_a_purge_does_not_say_that_the_log_is_clean(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.db")
    fill(journal, ["s"])
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM records").fetchone()
        journal._writer._store._db.execute("PRAGMA busy_timeout = 0")  # type: ignore[union-attr]
        journal.purge_blocking("s")
        assert not journal.fold_log_blocking()
    assert journal.fold_log_blocking()
    assert SECRET.encode() not in bytes_in(tmp_path)
    journal.close_blocking()


def test_what_a_purge_does_not_name_may_not_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    fill(journal)
    journal.purge_blocking("s")
    journal.append_blocking(decision("s"))
    journal.close_blocking()
    for where in ("session_id = 'other' AND kind = 'decision'", "kind = 'grant'"):
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path, copy, ignore=lambda *_: ["copy"])
        with closing(sqlite3.connect(copy / "journal.db")) as db, db:
            db.execute(f"UPDATE records SET data = NULL WHERE {where}")  # noqa: S608 - the test's own
        problem = verify(copy / "journal.db").problem
        assert problem is not None
        assert problem.kind == "content_removed"
        shutil.rmtree(copy)
    with closing(sqlite3.connect(path)) as db, db:  # one that was written after it
        db.execute("UPDATE records SET data = NULL WHERE kind = 'decision' AND n = (SELECT max(n) FROM records)")
    problem = verify(path).problem
    assert problem is not None
    assert problem.kind == "content_removed"


# --- too old, too much


def test_a_host_removes_contents_that_are_older_than_is_to_be_kept_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    old = now_ms() - 31 * DAY_MS
    for _ in range(3):
        journal.append_blocking(decision("old", old))
    journal.append_blocking(Record("grant", old, "p", None, "p", {"grant": "emit_event"}))
    journal.append_blocking(decision("new"))
    journal.close_blocking()
    opened = Journal.open(path, keeping=Keeping())
    wait_until(lambda: contents_of(path, "old") == [])
    opened.close_blocking()
    assert contents_of(path, "new") == ["decision"]
    with JournalReader(path) as reading:
        (grant,) = reading.records(kind="grant")
        (said,) = reading.records(kind="pruned")
    assert grant.data == {"grant": "emit_event"}
    assert said.data is not None
    assert (said.data["by"], said.data["upto"]) == ("retention", 4)
    assert "grant" in said.data["but"]
    assert verify(path).ok
    # Nothing is written where nothing is to be removed.
    again = Journal.open(path, keeping=Keeping())
    again.append_blocking(decision("new"))
    again.close_blocking()
    with JournalReader(path) as reading:
        assert len([*reading.records(kind="pruned")]) == 1


def test_a_grant_that_is_removed_with_old_contents_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    old = now_ms() - 31 * DAY_MS
    journal.append_blocking(Record("grant", old, "p", None, "p", {"grant": "emit_event"}))
    journal.append_blocking(decision("old", old))
    journal.close_blocking()
    opened = Journal.open(path, keeping=Keeping())
    wait_until(lambda: contents_of(path, "old") == [])
    opened.close_blocking()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE records SET data = NULL WHERE kind = 'grant'")
    problem = verify(path).problem
    assert problem is not None
    assert (problem.kind, problem.record) == ("content_removed", 1)


def test_a_journal_that_is_too_large_loses_its_oldest_contents_and_grows_no_more(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    large = "x" * 100_000
    sizes = []
    for turn in range(4):
        journal = Journal.open(path, keeping=Keeping(megabytes=1))
        for i in range(10):
            journal.append_blocking(Record("action", now_ms(), "p", f"s{turn}", f"{turn}-{i}", {"arguments": large}))
        journal.close_blocking()
        sizes.append(path.stat().st_size)
    journal = Journal.open(path, keeping=Keeping(megabytes=1))
    wait_until(lambda: contents_of(path, "s2") == [])
    journal.close_blocking()
    assert contents_of(path, "s0") == []
    assert contents_of(path, "s3") != []
    assert max(sizes) < 4 * 1024 * 1024
    assert verify(path).ok


# --- no contents


def test_of_each_kind_of_record_it_is_settled_whether_it_may_hold_a_conversation() -> None:
    may_hold_one = {
        "action", "action_end", "answer", "crash", "decision", "events", "history", "message", "question", "refusal",
        "task", "task_end", "tool_call", "transform",
    }  # fmt: skip
    assert may_hold_one == KINDS - WHOLE_KINDS  # a new one belongs here, or to `WHOLE_KINDS`


def test_a_journal_without_contents_has_no_word_of_anybody_and_tells_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal.open(path, keeping=Keeping(content="metadata"))
    fill(journal, ["s"])
    journal.append_soon(Record("action", now_ms(), "p", "s", "a1", {"arguments": {"name": SECRET, SECRET: [4711]}}), 1)
    journal.close_blocking()
    assert SECRET.encode() not in bytes_in(tmp_path)
    assert b"4711" not in bytes_in(tmp_path)
    with JournalReader(path) as reading:
        made = reading.decision("d-s")
        (user, *_) = reading.events("s")
        stored = reading.message("s-1")
        assert read_history(reading, "s") is None
    assert made is not None
    assert made.data is not None
    assert (made.data["subject"], made.data["verdict"], made.data["reason"]) == ("bash", "deny", "no")
    command = made.data["decided_on"]["value"]["arguments"]["command"]
    assert command.startswith(f"[not kept: {len(SECRET)} characters, ")
    assert user.value()["event_data"]["content"] == command  # equal texts have equal digests
    assert stored is not None
    assert stored.body is not None
    assert is_not_kept(stored.body["content"])
    assert verify(path).ok


def test_two_journals_have_other_digests_of_one_text(tmp_path: Path) -> None:
    found = set()
    for name in ("a", "b"):
        journal = Journal.open(tmp_path / name / "journal.db", keeping=Keeping(content="metadata"))
        journal.append_blocking(decision())
        (record,) = journal.reader.records(kind="decision")
        assert record.data is not None
        found.add(record.data["decided_on"]["value"]["arguments"]["command"])
        journal.close_blocking()
    assert len(found) == 2
