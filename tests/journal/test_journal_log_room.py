"""The write-ahead log is made longer by zeros ahead of the commits; whatever happens then, nothing is lost by it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ally_plugins.contract.values.errors import JournalError
from ally_plugins.journal.audit import verify
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.rows import row_of
from ally_plugins.journal.store import Batch, Store
from ally_plugins.journal.values import Record

RECORDS = 60
KILLED = f"""
import os, signal, sys, time
from pathlib import Path
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.values import Record
journal, log = Journal.open(Path(sys.argv[1])), Path(sys.argv[1] + "-wal")
for i in range({RECORDS}):
    while i == 40 and not log.read_bytes().endswith(bytes(16 * 1024)):
        time.sleep(0.01)  # there is room soon after it was idle
    print(journal.append_blocking(Record("x", i, data={{"text": "a" * 2000}})), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def decision(number: int) -> Batch:
    return Batch([row_of(Record("x", number, data={"text": "a" * 2000}))])


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with closing(Store(path, path.with_name("audit.head"), {}, create=True)) as store:
        yield store


def write_until_it_needs_room(store: Store, path: Path) -> int:
    """Write records until the log is to be made longer; return its length then."""
    for i in range(RECORDS):
        store.write(decision(i))
        if log_of(path).stat().st_size > 64 * 1024:
            return log_of(path).stat().st_size
    raise AssertionError


@pytest.mark.slow
def test_most_commits_find_room_in_the_log_and_do_not_make_it_longer(store: Store, path: Path) -> None:
    lengths: set[int] = set()
    for i in range(4 * RECORDS):
        before = log_of(path).stat().st_size
        store.write(decision(i))
        if (after := log_of(path).stat().st_size) != before:
            lengths.add(after)
        store.make_room()
    assert len(lengths) < RECORDS
    assert verify(path).problem is None


def test_a_log_is_not_made_longer_for_a_few_records(store: Store, path: Path) -> None:
    store.write(decision(1))
    before = log_of(path).stat().st_size
    store.make_room()
    assert log_of(path).stat().st_size == before


@pytest.mark.slow
def test_a_log_never_becomes_longer_than_sqlite_lets_it_grow(store: Store, path: Path) -> None:
    for i in range(600):
        store.write(decision(i))
        store.make_room()
        assert log_of(path).stat().st_size <= 1024 * 4120  # it is folded in by the commit that passes 1000 pages
    assert verify(path).problem is None


def test_nothing_is_written_behind_what_another_host_is_writing(store: Store, path: Path) -> None:
    before = write_until_it_needs_room(store, path)
    store._db.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store.make_room()
        assert log_of(path).stat().st_size == before
        other.execute("ROLLBACK")
    store.write(decision(RECORDS))  # longer once more: now it may
    store.make_room()
    assert log_of(path).stat().st_size >= before + 200 * 1024


@pytest.mark.slow
def test_two_hosts_that_make_room_by_turns_find_one_anothers_records(store: Store, path: Path) -> None:
    with closing(Store(path, path.with_name("audit.head"), {}, create=False)) as other:
        for i in range(4 * RECORDS):
            writer = (store, other)[i % 2]
            writer.write(decision(i))
            # Both, so that each makes room behind what the other has written.
            store.make_room()
            other.make_room()
        with JournalReader(path) as reading:
            assert [record.at for record in reading.records()] == list(range(4 * RECORDS))
    assert verify(path).problem is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_what_was_accepted_is_found_behind_a_log_with_room_whose_host_was_killed(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert log_of(path).read_bytes().endswith(bytes(16 * 1024)), "no room at its end"
    with JournalReader(path) as reading:
        assert [record.n for record in reading.records()] == [*map(int, done.stdout.split())]
    Journal.open(path).close_blocking()  # goes on where it was killed
    assert verify(path).problem is None


def test_a_log_that_is_cut_off_within_what_was_written_is_noticed(store: Store, path: Path) -> None:
    write_until_it_needs_room(store, path)
    store.make_room()
    os.truncate(log_of(path), 32 + 4120)
    with pytest.raises(JournalError):
        store.write(decision(RECORDS))


def test_cutting_off_the_room_alone_loses_nothing(store: Store, path: Path) -> None:
    before = write_until_it_needs_room(store, path)
    store.make_room()
    os.truncate(log_of(path), before)
    store.write(decision(RECORDS))
    with JournalReader(path) as reading:
        assert [record.at for record in reading.records()][-1] == RECORDS


def test_a_log_that_was_replaced_is_left_alone(store: Store, path: Path) -> None:
    write_until_it_needs_room(store, path)
    log_of(path).rename(path.with_name("moved"))
    log_of(path).write_bytes(b"another file")
    store.make_room()
    assert log_of(path).read_bytes() == b"another file"
