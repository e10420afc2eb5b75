from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.contract.values.errors import JournalError
from ally_plugins.journal import schema, writer
from ally_plugins.journal.audit import verify
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.store import Batch, Store, Written
from ally_plugins.journal.values import PendingMessage, Record
from tests.kit.waiting import until, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts, limits and removed files are Linux's here")


def message(number: int, content: str = "hello") -> PendingMessage:
    body = {"role": "user", "content": content}
    return PendingMessage(f"m{number}", "s", "p", 1, "user", "steer", trigger_turn=False, body=body)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("SKIPPED: a full disk needs root, to mount a small one")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("SKIPPED: a full disk needs a mount, and this machine does not let us")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_an_answer_in_words_and_recovery_is_automatic(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    ballast = small_disk / "ballast"

    async def main() -> list[int]:
        journal = Journal.open(path)
        accepted = [await journal.accept(message(i, "x" * 1000)) for i in range(20)]
        fill(ballast)
        with pytest.raises(JournalError, match=r"disk that holds the journal '.*' is full; make room"):
            await accept_until_it_fails(journal, accepted)
        assert not journal.healthy
        assert journal.reason is not None
        with pytest.raises(JournalError, match="is full"):
            journal.accept(message(5000))
        with pytest.raises(JournalError, match="is full"):
            await journal.flush()
        journal.append_soon(Record("refusal", 1, "p", "s", None, {"kept": True}))
        journal.add_events([("s", 1, 1, "USER_MESSAGE", None, b'{"kept":true}')])
        assert [m.id for m in journal.pending("s")] == [f"m{i}" for i in range(len(accepted))]

        ballast.unlink()
        await until(lambda: journal.healthy)
        accepted.append(await journal.accept(message(9000)))
        await journal.flush()
        assert journal.lost == 0
        assert [r.data for r in journal.reader.records(kind="refusal")] == [{"kept": True}]
        assert [e.seq for e in journal.reader.events("s")] == [1]
        (note,) = journal.reader.records(kind="journal")
        assert note.data is not None
        assert (note.data["state"], note.data["lost"]) == ("recovered", 0)
        assert "is full" in note.data["reason"]
        stored = list(journal.reader.messages("s"))
        assert [m.n for m in stored] == accepted
        await journal.close()
        return accepted

    accepted = asyncio.run(main())
    assert len(accepted) == len(set(accepted))
    assert verify(path).problem is None


async def accept_until_it_fails(journal: Journal, accepted: list[int]) -> None:
    while True:
        number = len(accepted)
        accepted.append(await journal.accept(message(number, "x" * 1000)))


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_an_answer_in_words(tmp_path: Path) -> None:
    code = f"""
import asyncio, pathlib, resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from journal_child import message
from ally_plugins.journal.journal import Journal
from ally_plugins.contract.values.errors import JournalError

async def main():
    journal = Journal.open(pathlib.Path(sys.argv[1]))
    await journal.accept(message("first"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    count = 1
    try:
        while True:
            await journal.accept(message("m" + str(count)))
            count += 1
    except JournalError as error:
        print(count, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    while not journal.healthy:
        await asyncio.sleep(0.01)
    await journal.accept(message("last"))
    await journal.close()

asyncio.run(main())
"""
    path = tmp_path / "journal.db"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, timeout=60, capture_output=True, text=True
    )
    count, _, text = done.stdout.partition(" ")
    assert "the journal" in text
    with JournalReader(path) as reading:
        assert len(list(reading.messages("s"))) == int(count) + 1
    assert verify(path).problem is None


def test_a_locked_journal_is_an_answer_in_words_and_goes_on_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", 0.1)

    async def main() -> None:
        journal = Journal.open(tmp_path / "journal.db")
        await journal.accept(message(1))
        with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(JournalError, match=r"was locked .* by another program"):
                await journal.accept(message(2))
            other.execute("ROLLBACK")
        await until(lambda: journal.healthy)
        await journal.accept(message(3))
        assert [m.id for m in journal.pending("s")] == ["m1", "m3"]
        await journal.close()

    asyncio.run(main())
    assert verify(tmp_path / "journal.db").ok


@pytest.mark.slow
def test_a_removed_journal_accepts_nothing_until_it_is_put_back(tmp_path: Path) -> None:
    path, away = tmp_path / "journal.db", tmp_path / "away"
    away.mkdir()

    def move(source: Path, target: Path) -> None:
        for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
            if (source / name).exists():
                (source / name).rename(target / name)

    async def main() -> None:
        journal = Journal.open(path)
        await journal.accept(message(1))
        move(tmp_path, away)
        with pytest.raises(JournalError, match=r"was removed or replaced while it was in use"):
            await journal.accept(message(2))
        assert not path.exists(), "made anew, without what it held"
        await asyncio.sleep(2 * writer._PROBE_S)
        assert not journal.healthy
        assert not path.exists()
        move(away, tmp_path)
        await until(lambda: journal.healthy)
        await journal.accept(message(3))
        assert [m.id for m in journal.pending("s")] == ["m1", "m3"]
        await journal.close()

    asyncio.run(main())
    assert verify(path).ok


def test_a_journal_replaced_by_an_emptier_one_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"

    async def main() -> None:
        other = Journal.open(tmp_path / "other" / "journal.db")
        await other.close()
        journal = Journal.open(path)
        await journal.accept(message(1))
        await until(lambda: " 1 " in (tmp_path / "audit.head").read_text())
        shutil.copy(tmp_path / "other" / "journal.db", tmp_path / "copy.db")
        (tmp_path / "copy.db").rename(path)
        with pytest.raises(JournalError, match="removed or replaced"):
            await journal.accept(message(2))
        for name in ("journal.db-wal", "journal.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        await until(lambda: "is not the one" in (journal.reason or ""))
        await journal.close()

    asyncio.run(main())


def test_while_the_disk_fails_memory_is_bounded_and_what_is_lost_is_counted_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_SOON_BYTES", 100_000)
    path, away = tmp_path / "journal.db", tmp_path / "away"

    async def main() -> None:
        journal = Journal.open(path)
        await journal.flush()
        path.rename(away)
        with pytest.raises(JournalError):
            await journal.accept(message(1))
        for seq in range(1, 10_001):
            journal.add_events([("s", seq, 1, "TODO_UPDATE", None, b"{}")])
        lost = journal.lost
        assert 9_000 < lost < 10_000
        away.rename(path)
        await until(lambda: journal.healthy)
        await journal.flush()
        assert [e.seq for e in journal.reader.events("s")] == list(range(1, 10_001 - lost))
        (note,) = journal.reader.records(kind="journal")
        assert note.data is not None
        assert note.data["lost"] == lost
        for seq in range(1, 100):
            journal.add_events([("s", seq, 1, "TODO_UPDATE", None, b"{}")])
        await journal.flush()
        assert journal.lost == lost
        await journal.close()

    asyncio.run(main())
    assert verify(path).ok


def test_pruning_while_the_disk_fails_is_an_answer_in_words(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    journal.append_blocking(Record("x", 1, data={"a": 1}))
    path.rename(tmp_path / "away")
    with pytest.raises(JournalError, match="removed or replaced"):
        journal.prune_blocking(1000)
    with pytest.raises(JournalError, match="removed or replaced"):
        journal.prune_blocking(1000)
    (tmp_path / "away").rename(path)
    wait_until(lambda: journal.healthy)
    assert journal.prune_blocking(1000) == 1
    journal.close_blocking()
    assert verify(path).ok


def test_a_head_that_cannot_be_written_lags_and_is_written_when_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal.open(tmp_path / "journal.db")
    head = tmp_path / "audit.head"
    head.unlink()
    head.mkdir()
    with caplog.at_level("WARNING"):
        for i in range(3):
            journal.append_blocking(Record("x", i))
            time.sleep(0.06)  # longer than the head may wait
    assert len([record for record in caplog.records if "audit.head" in record.getMessage()]) == 1
    assert journal.healthy
    head.rmdir()
    journal.close_blocking()
    assert verify(tmp_path / "journal.db").lag == 0


def test_a_bad_entry_and_a_failing_disk_at_once_lose_and_double_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, away = tmp_path / "journal.db", tmp_path / "away"
    write, calls = Store.write, 0

    def write_until_it_is_gone(store: Store, batch: Batch) -> Written:
        nonlocal calls
        calls += 1
        if calls == 3:  # the whole batch, the first entry by itself, then this
            path.rename(away)
        return write(store, batch)

    async def main() -> None:
        journal = Journal.open(path)
        monkeypatch.setattr(Store, "write", write_until_it_is_gone)
        for at in (1, 2, 2**70, 4):
            journal.append_soon(Record("x", at))
        with pytest.raises(JournalError):
            await journal.flush()
        away.rename(path)
        await until(lambda: journal.healthy)
        await journal.flush()
        assert [record.at for record in journal.reader.records(kind="x")] == [1, 2, 4]
        assert journal.lost == 1
        assert journal._writer._soon_bytes == 0
        await journal.close()

    asyncio.run(main())
    assert verify(path).ok


@pytest.mark.slow
def test_what_waits_for_a_journal_that_cannot_be_understood_is_written_when_it_can(tmp_path: Path) -> None:
    path, away = tmp_path / "journal.db", tmp_path / "away"

    async def main() -> None:
        journal = Journal.open(path)
        await journal.flush()
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('lease_epoch', 'x')")
        path.rename(away)
        with pytest.raises(JournalError):
            await journal.flush()
        for at in range(3):
            journal.append_soon(Record("x", at))
        away.rename(path)
        await until(lambda: "invalid literal" in (journal.reason or ""))
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("DELETE FROM meta WHERE name = 'lease_epoch'")
        await until(lambda: journal.healthy)
        await journal.flush()
        assert [record.at for record in journal.reader.records(kind="x")] == [0, 1, 2]
        assert (journal.lost, journal._writer._soon_bytes) == (0, 0)
        await journal.close()

    asyncio.run(main())
    assert verify(path).ok


def test_a_batch_that_fails_for_another_reason_than_the_disk_is_answered_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        monkeypatch.undo()
        raise MemoryError("no memory for the answers")

    async def main() -> None:
        journal = Journal.open(tmp_path / "journal.db")
        await journal.flush()
        monkeypatch.setattr(writer, "pair_outcomes", fail)
        for at in range(3):
            journal.append_soon(Record("x", at))
        with pytest.raises(JournalError, match="no memory for the answers"):
            await asyncio.wait_for(journal.accept(message(1)), 5)
        assert (journal.lost, journal._writer._soon_bytes) == (3, 0)
        await until(lambda: journal.healthy)
        await journal.accept(message(2))
        # They were written, and are not written again.
        assert [record.at for record in journal.reader.records(kind="x")] == [0, 1, 2]
        (note,) = journal.reader.records(kind="journal")
        assert note.data is not None
        assert (note.data["state"], note.data["lost"]) == ("recovered", 3)
        await journal.close()

    asyncio.run(main())
    assert verify(tmp_path / "journal.db").ok


def test_closing_while_the_disk_fails_ends_and_fails_those_who_wait(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"

    async def main() -> None:
        journal = Journal.open(path)
        await journal.accept(message(1))
        path.rename(tmp_path / "away")
        future = journal.accept(message(2))
        journal.append_soon(Record("refusal", 1))
        await journal.close()
        with pytest.raises(JournalError):
            await future
        assert journal.lost == 1

    before = set(threading.enumerate())
    asyncio.run(main())
    assert set(threading.enumerate()) - before == set()


def test_a_loop_that_is_gone_hurts_nobody(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.db")

    async def main() -> None:
        with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # so that the loop ends before the answer comes
            futures.append(journal.accept(message(1)))

    futures: list[Any] = []
    asyncio.run(main())
    assert journal.append_blocking(Record("x", 1)) == 2
    journal.close_blocking()
    assert verify(tmp_path / "journal.db").records == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes what is read-only")
def test_a_read_only_journal_is_an_error_in_words(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Journal.open(path).close_blocking()
    path.chmod(0o400)
    with pytest.raises(JournalError, match="cannot be written"):
        Journal.open(path)


def test_a_slow_disk_does_not_hold_up_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", 20.0)

    async def main() -> None:
        journal = Journal.open(tmp_path / "journal.db")
        with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            future = journal.accept(message(1))
            for _ in range(100):
                journal.append_soon(Record("x", 1))
                await asyncio.sleep(0)
            other.execute("ROLLBACK")  # a loop that waits for the disk comes here after the patience of the write
        await future
        await journal.close()

    asyncio.run(main())
