"""Saved conversations: rows that are only ever added, a replacement that counts alone, and what others see of them."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins.journal.audit import verify
from ally_plugins.journal.histories import history_added, history_begun, history_replaced, read_history, saved_sessions
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import Record

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.open(tmp_path / "journal.db")
    yield journal
    journal.close_blocking()


def write(journal: Journal, *records: Record) -> None:
    for record in records:
        journal.append_blocking(record)


def test_messages_come_back_in_order_and_sessions_never_mix(journal: Journal) -> None:
    write(
        journal,
        history_begun("a", 1, {"title": "one"}),
        history_added("a", 2, [{"n": 1}, {"n": 2}]),
        history_begun("b", 3, {"title": "two"}),
        history_added("b", 4, [{"n": 9}]),
        history_added("a", 5, [{"n": 3}]),
    )
    assert read_history(journal.reader, "a") == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert read_history(journal.reader, "b") == [{"n": 9}]
    assert read_history(journal.reader, "nobody") == []


def test_only_what_follows_the_last_replacement_counts(journal: Journal) -> None:
    write(
        journal,
        history_begun("a", 1, {}),
        history_added("a", 2, ["old"] * 3),
        history_replaced("a", 3, ["summary"]),
        history_added("a", 4, ["new"]),
        history_replaced("a", 5, ["summary of both"]),
        history_added("a", 6, ["newest"]),
    )
    assert read_history(journal.reader, "a") == ["summary of both", "newest"]


def test_saved_sessions_are_listed_with_what_was_last_said_of_them_the_latest_last(journal: Journal) -> None:
    write(
        journal,
        history_begun("a", 1, {"title": "one"}),
        history_begun("b", 2, {"title": "two"}),
        history_added("a", 9, ["x"]),
        history_begun("a", 10, {"title": "one", "model": "offline"}),
    )
    found = saved_sessions(journal.reader)
    assert [(one.id, one.first_at, one.last_at, dict(one.about)) for one in found] == [
        ("b", 2, 2, {"title": "two"}),
        ("a", 1, 10, {"title": "one", "model": "offline"}),
    ]


def test_a_conversation_whose_needed_part_was_pruned_is_none_and_not_half_of_it(journal: Journal) -> None:
    now = int(time.time() * 1000)
    write(journal, history_begun("a", 1, {}), history_added("a", 2, ["old"]), history_added("a", now, ["new"]))
    assert journal.prune_blocking(now - 1000) > 0
    assert read_history(journal.reader, "a") is None
    assert saved_sessions(journal.reader) == []
    write(journal, history_replaced("a", now, ["summary"]), history_added("a", now, ["newest"]))
    assert read_history(journal.reader, "a") == ["summary", "newest"]


def test_they_stay_out_of_what_is_read_without_asking_and_the_chain_covers_them(
    journal: Journal, tmp_path: Path
) -> None:
    write(journal, history_begun("a", 1, {"title": "t"}), Record("grant", 2), history_added("a", 3, ["x"]))
    assert [record.kind for record in journal.reader.records()] == ["grant"]
    assert [record.kind for record in journal.reader.last_records(10)] == ["grant"]
    assert len(journal.reader.last_records(10, kind="history")) == 2
    with closing(sqlite3.connect(tmp_path / "journal.db")) as db:
        db.execute('UPDATE records SET data = \'{"messages": ["forged"]}\' WHERE n = 3')
        db.commit()
    assert not verify(tmp_path / "journal.db").ok


def test_a_journal_from_before_there_were_any_gets_the_index_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    for name in ("journal.db", "audit.head"):
        shutil.copyfile(Path(__file__).parent / "version_2" / name, tmp_path / name)
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP INDEX history_by_session")
    with JournalReader(path) as reading:
        assert [session.id for session in saved_sessions(reading)] == ["s-1"]
    Journal.open(path).close_blocking()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT 1 FROM sqlite_master WHERE name = 'history_by_session'").fetchone()
        plan = db.execute(
            "EXPLAIN QUERY PLAN SELECT max(n) FROM records WHERE session_id = 'a' AND kind = 'history' AND ref = 'x'"
        ).fetchall()
    assert "history_by_session" in str(plan) or "records_by_ref" in str(plan)
