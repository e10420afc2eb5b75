"""A file of the journal goes away while a host has it open: what is acknowledged is found by the next program.

What that one finds is read from a copy of the folder, without what only the shared memory of this process holds.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ally_plugins.contract.values.errors import JournalError
from ally_plugins.journal.audit import verify
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.store import Batch, Store, Written
from ally_plugins.journal.values import PendingMessage, Record
from tests.kit.waiting import until, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="an open file can be removed on POSIX only")

WAL, SHM, DB = "journal.db-wal", "journal.db-shm", "journal.db"


def message(id_: str) -> PendingMessage:
    return PendingMessage(id_, "s", "p", 1, "user", "steer", trigger_turn=False, body={"role": "user", "content": id_})


def found_by_the_next(folder: Path) -> set[str]:
    """Return the ids of the messages that a program finds when the host is killed now."""
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in (DB, WAL):
        if (folder / name).exists():
            shutil.copyfile(folder / name, copy / name)
    with closing(sqlite3.connect(copy / DB)) as db:
        return {id_ for (id_,) in db.execute("SELECT ref FROM records WHERE kind = 'message'")}


def remove(file: Path) -> None:
    file.unlink()


def move(file: Path) -> None:
    file.rename(file.with_name("moved-away"))


def replace(file: Path) -> None:
    new = file.with_name("new")
    new.write_bytes(b"")
    new.replace(file)


def copy_back(file: Path) -> None:
    new = file.with_name("new")
    shutil.copyfile(file, new)
    new.replace(file)


async def accept_all(journal: Journal, ids: Iterable[str], folder: Path) -> list[str]:
    """Accept what is taken, and check after each that it is there; return what was accepted."""
    accepted = []
    for id_ in ids:
        try:
            await journal.accept(message(id_))
        except JournalError:
            for _ in range(30):  # the journal tries four times a second to go on, where it can
                if journal.healthy:
                    break
                await asyncio.sleep(0.05)
        else:
            accepted.append(id_)
            assert set(accepted) <= found_by_the_next(folder)
    return accepted


@pytest.mark.parametrize("change", [remove, move, replace, copy_back], ids=lambda change: change.__name__)
@pytest.mark.parametrize("names", [[WAL], [SHM], [WAL, SHM]], ids="+".join)
def test_what_is_acknowledged_afterwards_is_found_and_so_is_what_was_before(
    tmp_path: Path, names: list[str], change: Callable[[Path], None]
) -> None:
    folder = tmp_path / "home"

    async def main() -> None:
        journal = Journal.open(folder / DB)
        before = await accept_all(journal, ["b1", "b2", "b3"], folder)
        assert journal.reader.message("b1") is not None
        for name in names:
            change(folder / name)
        with pytest.raises(JournalError, match=rf"the journal's file '.*{names[0]}' was removed or replaced"):
            await journal.accept(message("first"))
        await until(lambda: journal.healthy)
        after = await accept_all(journal, ["a1", "a2", "a3"], folder)
        assert after == ["a1", "a2", "a3"]
        assert found_by_the_next(folder) == {*before, *after}
        assert [each.id for each in journal.pending("s")] == [*before, *after]
        (note,) = journal.reader.records(kind="journal")
        assert note.data is not None
        assert "was removed or replaced" in note.data["reason"]
        await journal.close()

    asyncio.run(main())
    assert verify(folder / DB).ok


@pytest.mark.parametrize(("name", "kept"), [(WAL, []), (DB, ["b1", "a2"])], ids=[WAL, DB])
def test_of_a_file_that_is_emptied_only_what_can_be_put_back_is_gone_on_with(
    tmp_path: Path, name: str, kept: list[str]
) -> None:
    folder = tmp_path / "home"

    async def main() -> None:
        journal = Journal.open(folder / DB)
        await journal.accept(message("b1"))
        await until(lambda: " 1 " in (folder / "audit.head").read_text())
        (folder / name).write_bytes(b"")
        accepted = await accept_all(journal, ["a1", "a2"], folder)
        assert accepted == kept[1:]
        assert journal.healthy is bool(kept)
        assert found_by_the_next(folder) == set(kept) if kept else not accepted
        await journal.close()

    asyncio.run(main())
    assert verify(folder / DB).ok is bool(kept)


def test_a_journal_whose_link_leads_elsewhere_now_accepts_nothing(tmp_path: Path) -> None:
    far, other = tmp_path / "far" / DB, tmp_path / "other" / DB
    for path in (far, other):
        Journal.open(path).close_blocking()
    link = tmp_path / DB
    link.symlink_to(far)
    journal = Journal.open(link)
    journal.append_blocking(Record("x", 1))
    new = tmp_path / "new"
    new.symlink_to(other)
    new.replace(link)
    with pytest.raises(JournalError, match="was removed or replaced"):
        journal.append_blocking(Record("x", 2))
    back = tmp_path / "back"
    back.symlink_to(far)
    back.replace(link)
    wait_until(lambda: journal.healthy)
    journal.append_blocking(Record("x", 3))
    journal.close_blocking()
    assert verify(far, tmp_path / "audit.head").ok
    with JournalReader(far) as reading:
        assert [record.at for record in reading.records(kind="x")] == [1, 3]


@pytest.mark.parametrize(
    ("name", "change"), [(WAL, remove), (SHM, remove), (WAL, replace)], ids=["log", "memory", "replaced"]
)
def test_a_batch_amid_which_a_file_goes_is_found_once_or_was_not_acknowledged(
    tmp_path: Path, name: str, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, is_kept = tmp_path / "home", change is remove
    journal = Journal.open(folder / DB)
    journal.append_blocking(Record("x", 1))
    write = Store._write_batch
    written: list[Batch] = []

    def write_and_change(store: Store, batch: Batch) -> Written:
        result = write(store, batch)
        if batch.rows and not written:
            change(folder / name)
            written.append(batch)
        return result

    async def main() -> None:
        monkeypatch.setattr(Store, "_write_batch", write_and_change)
        journal.add_events([("s", 1, 1, "TODO_UPDATE", None, b"{}")])
        if is_kept:
            await journal.accept(message("amid"))
            assert found_by_the_next(folder) == {"amid"}
        else:
            with pytest.raises(JournalError, match="was removed or replaced"):
                await journal.accept(message("amid"))
        await accept_all(journal, ["a1", "a2"], folder)
        await until(lambda: journal.healthy)
        await journal.flush()
        if is_kept:
            assert [event.seq for event in journal.reader.events("s")] == [1]
            assert [each.id for each in journal.pending("s")].count("amid") == 1

    asyncio.run(main())
    journal.close_blocking()
    assert verify(folder / DB).ok


@pytest.mark.slow
def test_two_hosts_whose_write_ahead_log_goes_lose_nothing_that_they_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "home"

    async def main() -> None:
        first, second = Journal.open(folder / DB), Journal.open(folder / DB)
        await first.accept(message("b1"))
        await second.accept(message("b2"))
        (folder / WAL).unlink()
        accepted = ["b1", "b2"]
        for number in range(6):
            for name, journal in (("first", first), ("second", second)):
                accepted += await accept_all(journal, [f"{name}-{number}"], folder)
        assert {"first-5", "second-5"} <= set(accepted)
        assert set(accepted) <= found_by_the_next(folder)
        await second.close()
        await first.close()

    asyncio.run(main())
    assert verify(folder / DB).ok


def test_a_log_that_another_program_has_folded_in_is_no_fault(tmp_path: Path) -> None:
    first, second = Journal.open(tmp_path / DB), Journal.open(tmp_path / DB)
    for number in range(50):
        first.append_blocking(Record("x", number, data={"filler": "x" * 5000}))
    assert second.prune_blocking(25) == 25
    assert (tmp_path / WAL).stat().st_size < 100_000
    assert first.append_blocking(Record("x", 50)) == 52
    assert first.healthy
    second.close_blocking()
    first.close_blocking()
    assert verify(tmp_path / DB).ok


def test_a_further_reader_goes_on_after_the_log_was_removed(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / DB)
    with journal.new_reader() as reader, JournalReader(tmp_path / DB) as stranger:
        journal.append_blocking(Record("x", 1))
        assert reader.last_n() == stranger.last_n() == 1
        (tmp_path / WAL).unlink()
        (tmp_path / SHM).unlink()
        stranger.close()
        with pytest.raises(JournalError):
            journal.append_blocking(Record("x", 2))
        wait_until(lambda: journal.healthy)
        n = journal.append_blocking(Record("x", 3))
        assert reader.last_n() == n
    journal.close_blocking()
