from __future__ import annotations

import asyncio
import gc
import sqlite3
import subprocess
import sys
import tracemalloc
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ally_plugins.contract.values.errors import JournalError
from ally_plugins.journal.audit import verify
from ally_plugins.journal.audit_head import read_head
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import Record

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.usefixtures("no_leaks")
def test_closing_writes_what_is_queued_and_lets_go_of_thread_and_files(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal.open(tmp_path / "journal.db")
        for i in range(500):
            journal.append_soon(Record("x", i))
        journal.append_soon(Record("refusal", 1, "p"), fold="f")
        future = journal.append(Record("y", 1))
        await journal.close()
        assert await future == 501 or future.done()
        await journal.close()

    asyncio.run(main())
    gc.collect()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["audit.head", "journal.db"]
    with JournalReader(tmp_path / "journal.db") as reading:
        assert len(list(reading.records())) == 502
    head = read_head(tmp_path / "audit.head")
    assert head is not None
    assert head.n == 502


def test_after_closing_every_call_says_so(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.db")
    journal.close_blocking()
    with pytest.raises(JournalError, match="closed"):
        journal.append_blocking(Record("x", 1))
    with pytest.raises(JournalError, match="closed"):
        journal.flush_blocking()
    with pytest.raises(JournalError, match="closed"):
        journal.find_key("p", "s", "k")
    with pytest.raises(JournalError, match="closed"):
        journal.prune_blocking(1)
    journal.append_soon(Record("x", 1))
    journal.add_events([("s", 1, 1, "TODO_UPDATE", None, b"{}")])
    assert journal.lost == 2
    assert not journal.healthy


def test_what_was_queued_is_written_when_the_program_ends_without_closing(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from ally_plugins.journal.journal import Journal\nfrom ally_plugins.journal.values import Record\n"
        "j = Journal.open(pathlib.Path(sys.argv[1]))\n"
        "for i in range(100): j.append_soon(Record('x', i))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "journal.db")], check=True, timeout=30)
    with JournalReader(tmp_path / "journal.db") as reading:
        assert len(list(reading.records())) == 100
    assert verify(tmp_path / "journal.db").lag == 0


def test_a_journal_goes_on_where_it_ended(tmp_path: Path) -> None:
    for round_ in range(3):
        journal = Journal.open(tmp_path / "journal.db")
        assert journal.append_blocking(Record("x", round_)) == round_ + 1
        journal.close_blocking()
    assert verify(tmp_path / "journal.db") == verify(tmp_path / "journal.db", tmp_path / "audit.head")
    assert verify(tmp_path / "journal.db").records == 3


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("these are somebody's notes, and long enough to be looked at by SQLite" * 20)
    with pytest.raises(JournalError, match="not a journal"):
        Journal.open(text)
    assert text.read_text().startswith("these are")
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE t(x)")
    with pytest.raises(JournalError, match="not a journal"):
        Journal.open(other)
    with pytest.raises(JournalError, match="not a journal"):
        JournalReader(other).last_n()


def test_a_journal_of_a_newer_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Journal.open(path).close_blocking()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match=r"version 99, .* upgrade"):
        Journal.open(path)


def test_a_folder_that_cannot_be_made_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be written"):
        Journal.open(tmp_path / "file" / "journal.db")
    with pytest.raises(JournalError, match="cannot be opened"):
        JournalReader(tmp_path / "none" / "journal.db").last_n()


def test_a_journal_that_is_shorter_than_its_head_is_not_written_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    for i in range(3):
        journal.append_blocking(Record("x", i))
    journal.close_blocking()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM records WHERE n = 3")
    with pytest.raises(JournalError, match=r"ends at record 2, but .* has seen 3; .* audit verify"):
        Journal.open(path)
    path.unlink()
    with pytest.raises(JournalError, match="not the one"):
        Journal.open(path)


def test_a_head_that_was_taken_away_is_written_down(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    journal.append_blocking(Record("x", 1))
    journal.close_blocking()
    (tmp_path / "audit.head").unlink()
    Journal.open(path).close_blocking()
    with JournalReader(path) as reading:
        assert [r.data for r in reading.records(kind="journal")] == [{"state": "head_missing"}]


@pytest.mark.slow
def test_memory_stays_flat_while_a_hundred_thousand_events_pass(tmp_path: Path) -> None:
    body = b'{"toolName":"bash","arguments":{"command":"ls"}}'

    async def main() -> int:
        journal = Journal.open(tmp_path / "journal.db")
        tracemalloc.start()
        peak = 0
        for start in range(1, 100_001, 1000):
            journal.add_events([("s", seq, 1, "TOOL_CALL_START", None, body) for seq in range(start, start + 1000)])
            if start % 10_000 == 1:
                await journal.flush()
                peak = max(peak, tracemalloc.get_traced_memory()[0])
        await journal.flush()
        tracemalloc.stop()
        assert journal.lost == 0
        assert journal.last_seq("s") == 100_000
        await journal.close()
        return peak

    assert asyncio.run(main()) < 4_000_000
