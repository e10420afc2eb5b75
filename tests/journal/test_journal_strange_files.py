"""What lies in the place of the journal's files is looked at before it is opened: an error at once, and the way out."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ally_plugins.contract.values.errors import JournalError
from ally_plugins.journal import schema
from ally_plugins.journal.audit import verify
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.schema import connect_read_only
from ally_plugins.journal.values import Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes, owners and modes are POSIX's")
as_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="SKIPPED: only root gives files to others"
)


def pipe(path: Path) -> None:
    beside = path.with_name("pipe")
    os.mkfifo(beside)
    beside.replace(path)  # at once: a writer may be at work


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def endless(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def emptied(path: Path) -> None:
    path.write_text("")


def another(path: Path) -> None:
    path.write_text("ally-audit-head 1 other x y\n")


def link(path: Path) -> None:
    real = path.with_name("elsewhere")
    if path.exists():
        path.rename(real)
    path.symlink_to(real)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    for number in range(3):
        journal.append_blocking(Record("note", number, data={"n": number}))
    journal.close_blocking()
    return path


@pytest.mark.parametrize("make", [pipe, folder, endless, link, emptied, another], ids=lambda make: make.__name__)
def test_a_strange_head_is_an_error_at_once_and_moving_it_away_leads_on(
    path: Path, make: Callable[[Path], None]
) -> None:
    head = path.with_name("audit.head")
    make(head)
    with pytest.raises(JournalError, match=r"audit\.head' cannot be read") as caught:
        Journal.open(path)
    assert f"mv {head} {head}.away" in str(caught.value)
    problem = verify(path).problem
    assert problem is not None
    assert "cannot be read" in problem.text
    head.rename(head.with_name("audit.head.away"))
    Journal.open(path).close_blocking()
    assert verify(path).ok
    with JournalReader(path) as reading:  # that there was none stays on record
        assert any(record.data == {"state": "head_missing"} for record in reading.records())


@pytest.mark.parametrize("make", [pipe, folder, endless], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["journal.db", "journal.db-wal", "journal.db-shm", "journal.db-journal"])
def test_a_strange_file_of_the_journal_is_an_error_at_once(path: Path, make: Callable[[Path], None], name: str) -> None:
    file = path.with_name(name)
    make(file)
    with pytest.raises(JournalError, match="not a regular file; move it away: mv"):
        Journal.open(path)
    with pytest.raises(JournalError, match="not a regular file"), JournalReader(path) as reading:
        list(reading.records())
    problem = verify(path).problem
    assert problem is not None
    assert name in problem.text


@pytest.mark.parametrize("name", ["journal.db", "audit.head"])
def test_what_everybody_can_write_is_read_and_not_written_on(path: Path, name: str) -> None:
    path.with_name(name).chmod(0o666)
    with pytest.raises(JournalError, match="can be written by everybody; mend it: chmod o-w"):
        Journal.open(path)
    assert verify(path).ok  # evidence may come from anywhere
    for file in path.parent.iterdir():  # what SQLite laid beside it meanwhile has its mode
        file.chmod(0o600)
    Journal.open(path).close_blocking()


@as_root
@pytest.mark.parametrize("name", ["journal.db", "audit.head"])
def test_what_another_user_owns_is_read_and_not_written_on(path: Path, name: str) -> None:
    os.chown(path.with_name(name), 65534, -1)
    with pytest.raises(JournalError, match="belongs to the user 65534, expected the user 0 or root"):
        Journal.open(path)
    assert verify(path).ok


def test_a_journal_may_be_a_link_to_a_disk_with_more_room(path: Path, tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    path.rename(tmp_path / "large" / "journal.db")
    path.symlink_to(tmp_path / "large" / "journal.db")
    journal = Journal.open(path)
    journal.append_blocking(Record("note", 9, data={}))
    journal.close_blocking()
    assert verify(path).records == 4


def test_a_linked_journal_that_another_program_locks_is_never_read_without_its_log(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", 0.01)
    (tmp_path / "large").mkdir()
    path.rename(tmp_path / "large" / "journal.db")
    path.symlink_to(tmp_path / "large" / "journal.db")
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        with other:
            other.execute("UPDATE records SET at = 0")  # is in the log alone
        with pytest.raises(JournalError, match="was locked"):
            connect_read_only(path)


def test_a_head_that_becomes_a_pipe_while_the_journal_is_in_use_holds_nobody_up(path: Path) -> None:
    journal = Journal.open(path)
    pipe(path.with_name("audit.head"))
    assert journal.append_blocking(Record("note", 9, data={})) == 4
    journal.close_blocking()
