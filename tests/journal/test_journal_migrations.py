"""Journals that older versions wrote become today's when they are first written, whole or not at all.

Beside this file lies one journal of every older version, written by the code of that version, with its `audit.head`.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ally_plugins import Host, UserMessage
from ally_plugins.contract.values.errors import JournalError
from ally_plugins.journal import migrations, schema
from ally_plugins.journal.audit import verify
from ally_plugins.journal.histories import read_history
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.migrations import MIGRATIONS, VERSION, Migration
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import PendingMessage, Record
from tests.kit.commands import run_command
from tests.kit.waiting import go

HERE = Path(__file__).parent
OLDER = range(1, VERSION)


@pytest.fixture(params=OLDER)
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of the journal of each older version, with its head beside it."""
    return copy_of(request.param, tmp_path)


def copy_of(version: int, folder: Path) -> Path:
    for name in ("journal.db", "audit.head"):
        shutil.copyfile(HERE / f"version_{version}" / name, folder / name)
        (folder / name).chmod(0o600)
    return folder / "journal.db"


def version_of(path: Path) -> int:
    return int(rows(path, "PRAGMA user_version")[0][0])


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def records(path: Path) -> list[tuple[Any, ...]]:
    return rows(path, "SELECT n, at, kind, plugin, session_id, ref, key, data, digest, hash, state FROM records")


def tables(path: Path) -> set[tuple[Any, ...]]:
    return set(rows(path, "SELECT type, name, tbl_name, sql FROM sqlite_master"))


def test_the_steps_are_in_order_and_a_journal_of_every_older_version_is_kept() -> None:
    assert [step.version for step in MIGRATIONS] == list(range(2, VERSION + 1))
    assert [version_of(HERE / f"version_{version}" / "journal.db") for version in OLDER] == list(OLDER)


def test_it_is_brought_to_today_with_all_it_held_and_leaves_no_copy(older: Path) -> None:
    before, meta = records(older), rows(older, "SELECT * FROM meta")
    Journal.open(older).close_blocking()
    assert version_of(older) == VERSION
    assert records(older) == before
    assert rows(older, "SELECT * FROM meta") == meta
    assert verify(older).ok
    assert not list(older.parent.glob("journal.db.*"))


def test_it_has_the_tables_of_a_new_one(older: Path) -> None:
    Journal.open(older).close_blocking()
    new = older.with_name("new") / "journal.db"
    Journal.open(new).close_blocking()
    assert tables(older) == tables(new)


def test_a_host_goes_on_with_it(older: Path) -> None:
    async def main() -> list[str]:
        async with Host("test", home=older.parent, discover=False) as host:
            session = host.session("s-1")
            session.emit(UserMessage(content="on we go"))
            return [message.id for message in host.journal.pending("s-1")]

    with JournalReader(older) as reading:
        pending = [message.id for message in reading.pending("s-1")]
    assert go(main()) == pending
    verify(older).raise_if_broken()


def test_what_version_2_kept_is_found_afterwards(tmp_path: Path) -> None:
    path = copy_of(2, tmp_path)
    Journal.open(path).close_blocking()
    with JournalReader(path) as reading:
        assert read_history(reading, "s-1") == [{"role": "user", "content": "in short"}]
        assert reading.bookmark("durable:guard") == "7:3"
        assert [message.state for message in reading.messages("s-2")] == ["expired", "pending_at_end", "pending"]
        assert [record.data and record.data["verdict"] for record in reading.records(kind="decision")] == [
            "deny", "allow", "allow"
        ]  # fmt: skip


def test_who_only_looks_changes_nothing(older: Path) -> None:
    version = version_of(older)
    with JournalReader(older) as reading:
        assert len(list(reading.records(with_events=True))) > 20
    assert verify(older).ok
    assert version_of(older) == version


def test_while_another_program_has_it_open_it_is_not_touched(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", 0.1)
    version, before = version_of(older), records(older)
    with closing(sqlite3.connect(older)) as other:
        other.execute("SELECT count(*) FROM records").fetchone()
        with pytest.raises(JournalError, match=rf"brought to version {VERSION}, and another program has it open"):
            Journal.open(older)
        assert version_of(older) == version
    Journal.open(older).close_blocking()
    assert version_of(older) == VERSION
    assert records(older) == before


@pytest.mark.slow
def test_hosts_that_start_at_once_on_an_older_one_all_go_on_with_it(older: Path) -> None:
    code = """
import pathlib, sys
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.values import Record
print("ready", flush=True)
sys.stdin.readline()
journal = Journal.open(pathlib.Path(sys.argv[1]))
journal.append_blocking(Record("x", 1))
journal.close_blocking()
"""
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(older)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for host in hosts:
        assert host.stdout is not None
        assert host.stdout.readline() == "ready\n"
    for host in hosts:
        assert host.stdin is not None
        host.stdin.write("go\n")
        host.stdin.flush()
    for host in hosts:
        host.communicate(timeout=60)
    assert [host.returncode for host in hosts] == [0, 0, 0]
    assert verify(older).ok
    assert len([row for row in records(older) if row[2] == "x"]) == 3


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE TABLE meta(x)", "already exists"),
        ("UPDATE records SET hash = x'00' WHERE n = (SELECT max(n) FROM records)", "not the one that was there"),
        ("DELETE FROM records WHERE n = 1", "not the one that was there"),
    ],
    ids=["fails", "alters", "removes"],
)
def test_a_step_that_fails_or_breaks_the_chain_leaves_it_as_it_was_and_a_copy(
    older: Path, statement: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, before = version_of(older), records(older)
    bad = Migration(VERSION + 1, ("CREATE TABLE half_done(x)", statement))
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, bad))
        with pytest.raises(JournalError, match=reason) as caught:
            Journal.open(older)
    copy = older.with_name(f"journal.db.version-{version}")
    assert repr(str(copy)) in str(caught.value)
    assert records(older) == records(copy) == before
    assert version_of(older) == version_of(copy) == version
    assert "half_done" not in str(tables(older))
    assert copy.stat().st_mode & 0o777 == 0o600
    Journal.open(older).close_blocking()
    assert verify(older).ok
    assert not copy.exists()


def test_the_copy_stays_while_what_was_committed_is_not_in_the_file_itself(
    older: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    version, before = version_of(older), records(older)
    run_steps, reading = migrations.run_steps, []

    def go_on_reading(connection: sqlite3.Connection, version: int) -> None:
        run_steps(connection, version)
        cursor = connection.execute("SELECT n FROM records")  # while it is read, a log cannot be written back
        reading.append((cursor, cursor.fetchone()))

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "run_steps", go_on_reading)
        migrations.migrate(older, 0)
    copy = older.with_name(f"journal.db.version-{version}")
    assert repr(str(copy)) in caplog.text
    assert records(copy) == before
    reading.clear()
    assert version_of(older) == VERSION
    Journal.open(older).close_blocking()
    assert verify(older).ok


def test_killed_amid_a_step_it_is_as_it_was_and_the_copy_is_whole(older: Path) -> None:
    version, before = version_of(older), records(older)
    code = """
import os, pathlib, sys
from ally_plugins.journal import migrations
from ally_plugins.journal.journal import Journal

def run_steps(connection, version):
    connection.execute("CREATE TABLE half_done(x)")
    connection.execute("UPDATE records SET data = zeroblob(100000)")
    connection.execute("PRAGMA user_version = 99")
    os._exit(9)

migrations.run_steps = run_steps
Journal.open(pathlib.Path(sys.argv[1]))
"""
    assert subprocess.run([sys.executable, "-c", code, str(older)], check=False).returncode == 9
    assert records(older.with_name(f"journal.db.version-{version}")) == before
    assert records(older) == before
    assert version_of(older) == version
    Journal.open(older).close_blocking()
    assert verify(older).ok
    assert not list(older.parent.glob("journal.db.*"))


def test_without_room_for_the_copy_nothing_is_changed(older: Path) -> None:
    version, before = version_of(older), records(older)
    older.with_name(f"journal.db.version-{version}.new").mkdir()  # a full disk fails at the same place
    with pytest.raises(JournalError):
        Journal.open(older)
    older.with_name(f"journal.db.version-{version}.new").rmdir()
    assert records(older) == before
    assert version_of(older) == version


def test_a_journal_that_is_a_link_is_migrated_where_it_lies(older: Path) -> None:
    far = older.with_name("far")
    far.mkdir()
    older.rename(far / "journal.db")
    older.symlink_to(far / "journal.db")
    Journal.open(older).close_blocking()
    assert older.is_symlink()
    assert version_of(far / "journal.db") == VERSION
    assert [file.name for file in far.iterdir()] == ["journal.db"]


@pytest.mark.parametrize("version", [VERSION + 1, 99, 0, -1])
@pytest.mark.parametrize(
    "words",
    [
        "audit",
        "audit verify",
        "explain m1",
        "export s",
        "prune --older-than 1d --yes",
        "sessions",
        "grant x gate:tool_call",
    ],
)
def test_a_version_that_is_newer_or_unknown_is_refused_by_every_command(home: Path, version: int, words: str) -> None:
    path = home / "journal.db"
    journal = Journal.open(path)
    journal.append_blocking(Record("x", 1))
    journal.close_blocking()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {version}")
    content = path.read_bytes()
    done = run_command(*words.split(), code=3)
    assert f"has version {version}" in done.stderr
    assert ("pip install -U" if version > VERSION else "restore it") in done.stderr
    assert path.read_bytes() == content


def test_a_version_that_is_unknown_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Journal.open(path).close_blocking()
    for version in (0, -7, VERSION + 1):
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA user_version = {version}")
        with pytest.raises(JournalError, match=rf"has version {version}, "):
            Journal.open(path)
        with pytest.raises(JournalError, match=rf"has version {version}, "):
            verify(path)


def test_messages_of_an_older_one_that_are_pending_can_be_settled(tmp_path: Path) -> None:
    path = copy_of(2, tmp_path)

    async def main() -> None:
        journal = Journal.open(path)
        ids = [message.id for message in journal.pending("s-2")]
        assert ids
        await journal.mark_delivered(ids, 5)
        message = PendingMessage("new", "s-2", "talker", 6, "user", "steer", trigger_turn=False, body={"content": "x"})
        await journal.accept(message)
        assert [message.id for message in journal.pending("s-2")] == ["new"]
        await journal.close()

    asyncio.run(main())
    assert verify(path).ok
