# ruff: noqa: S608 - the statements are these tests' own text
from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ally_plugins.contract.values.errors import AuditError, JournalError
from ally_plugins.journal.audit import _Check, verify
from ally_plugins.journal.chain import Head, decode_block, digest_of, encode_block, genesis, link
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.schema import read_chain_id
from ally_plugins.journal.values import PendingMessage, Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COLUMNS = ("at", "kind", "plugin", "session_id", "ref", "key", "data", "digest", "hash", "state", "settled_at")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed journal with every kind of record."""
    folder = tmp_path_factory.mktemp("original")

    async def main() -> None:
        journal = Journal.open(folder / "journal.db")
        for i in range(4):
            await journal.append(Record("decision", 100 + i, "p", "s", f"d{i}", {"verdict": "deny", "votes": [i]}))
            journal.add_events([("s", 2 * i + j, 100, "TODO_UPDATE", "p", b'{"todos":[]}') for j in (1, 2)])
            body = {"role": "user", "content": f"hello {i}"}
            message = PendingMessage(
                f"m{i}", "s", "p", 100 + i, "user", "steer", trigger_turn=False, body=body, key=f"k{i}"
            )
            await journal.accept(message)
        await journal.mark_delivered(["m0", "m1"], 500)
        await journal.append(Record("grant", 9000, "p", None, "p", {"grant": "emit_event"}))
        await journal.prune(101)
        await journal.close()

    asyncio.run(main())
    return folder


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return tmp_path / "journal.db"


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def number_of(path: Path, where: str) -> int:
    with closing(sqlite3.connect(path)) as db:
        found: int = db.execute(f"SELECT n FROM records WHERE {where}").fetchone()[0]
    return found


def found_in(path: Path) -> tuple[str, int | None] | None:
    report = verify(path)
    with pytest.MonkeyPatch.context() as patch:
        # The quick look passes what is as it was written, and no more: without it the report is the same.
        patch.setattr(_Check, "check_quickly", lambda _check, _db: False)
        assert verify(path) == report
    problem = report.problem
    return None if problem is None else (problem.kind, problem.record)


def test_an_untouched_journal_verifies(copy: Path) -> None:
    report = verify(copy)
    assert report.ok
    assert (report.records, report.pruned, report.lag) == (15, 6, 0)
    report.raise_if_broken()


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("n", range(1, 16))
def test_one_changed_byte_in_any_column_of_any_record_is_named(copy: Path, column: str, n: int) -> None:
    with closing(sqlite3.connect(copy)) as db, db:
        value = db.execute(f"SELECT {column} FROM records WHERE n = ?", (n,)).fetchone()[0]
        changed = changed_by_a_byte(value)
        db.execute(f"UPDATE records SET {column} = ? WHERE n = ?", (changed, n))
    kinds = {"state"} if column == "state" else {"state", "altered"} if column == "settled_at" else {"altered"}
    found = found_in(copy)
    assert found is not None
    assert found[0] in kinds
    assert found[1] == n


def changed_by_a_byte(value: Any) -> Any:
    if value is None:
        return "x"
    if isinstance(value, int):
        return value + 1
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    return value[:-1] + chr(ord(value[-1]) ^ 64)


@pytest.mark.parametrize("column", ["kind", "plugin", "session_id", "ref", "data"])
def test_a_text_that_became_a_blob_of_the_same_bytes_is_named(copy: Path, column: str) -> None:
    with closing(sqlite3.connect(copy)) as db:
        n = db.execute(f"SELECT min(n) FROM records WHERE typeof({column}) = 'text'").fetchone()[0]
    execute(copy, f"UPDATE records SET {column} = CAST({column} AS BLOB) WHERE n = {n}")
    assert found_in(copy) == ("altered", n)


@pytest.mark.parametrize("column", ["digest", "hash"])
def test_a_blob_that_became_a_text_of_the_same_bytes_is_named(copy: Path, column: str) -> None:
    execute(copy, f"UPDATE records SET {column} = CAST({column} AS TEXT) WHERE n = 3")
    assert found_in(copy) == ("altered", 3)


@pytest.mark.parametrize("value", ["1", "1.5"])
@pytest.mark.parametrize("column", [column for column in COLUMNS if column not in {"state", "settled_at"}])
def test_a_column_that_became_a_number_is_named(copy: Path, column: str, value: str) -> None:
    n = number_of(copy, "kind = 'message_state'")
    execute(
        copy,
        # A changed byte needs no statement, and so no column that makes a text of the number.
        "ALTER TABLE records RENAME TO typed",
        f"CREATE TABLE records(n INTEGER PRIMARY KEY, {', '.join(COLUMNS)})",
        "INSERT INTO records SELECT * FROM typed",
        f"UPDATE records SET {column} = {value} WHERE n = {n}",
    )
    assert found_in(copy) == ("altered", n)


@pytest.mark.parametrize("n", range(1, 15))
def test_a_removed_record_is_named(copy: Path, n: int) -> None:
    execute(copy, f"DELETE FROM records WHERE n = {n}")
    assert found_in(copy) == ("removed", n)


def test_a_removed_record_is_noticed_when_the_others_are_numbered_anew(copy: Path) -> None:
    execute(copy, "DELETE FROM records WHERE n = 6", "UPDATE records SET n = n - 1 WHERE n > 6")
    assert found_in(copy) == ("altered", 6)


@pytest.mark.parametrize(("a", "b"), [(1, 2), (5, 6), (2, 9), (14, 15)])
def test_two_swapped_records_are_named(copy: Path, a: int, b: int) -> None:
    execute(
        copy,
        f"UPDATE records SET n = -1 WHERE n = {a}",
        f"UPDATE records SET n = {a} WHERE n = {b}",
        f"UPDATE records SET n = {b} WHERE n = -1",
    )
    assert found_in(copy) in {("reordered", a), ("altered", a)}
    problem = verify(copy).problem
    assert problem is not None
    if problem.kind == "reordered":
        assert f"record {b}" in problem.text


def test_a_record_that_slipped_in_is_named(copy: Path) -> None:
    columns = "at, kind, plugin, session_id, ref, data, digest, hash"
    execute(copy, f"INSERT INTO records(n, {columns}) SELECT 16, {columns} FROM records WHERE n = 14")
    assert found_in(copy) == ("altered", 16)


@pytest.mark.parametrize("kept", [14, 7, 0])
def test_a_cut_end_is_named_by_the_head(copy: Path, kept: int) -> None:
    execute(copy, f"DELETE FROM records WHERE n > {kept}")
    with pytest.raises(AuditError, match="cut") as caught:
        verify(copy).raise_if_broken()
    assert (caught.value.kind, caught.value.record) == ("cut", kept + 1)


def test_a_head_that_lags_is_no_problem(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as db:
        hash_, chain = db.execute("SELECT hash, value FROM records, meta WHERE n = 9 AND name = 'chain'").fetchone()
    copy.with_name("audit.head").write_text(Head(9, hash_, chain).to_text())
    report = verify(copy)
    assert report.ok
    assert report.lag == 6


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda text: text[:0], "unreadable"),
        (lambda text: text[:-2], "unreadable"),
        (lambda text: text.replace(" 15 ", " fifteen "), "unreadable"),
        (lambda text: text[:-2] + ("0" if text[-2] != "0" else "1") + "\n", "replaced"),
        (lambda text: text.replace(text.split()[2], "0" * 32), "replaced"),
        (lambda text: text.replace(" 15 ", " 16 "), "cut"),
    ],
    ids=["emptied", "cut short", "no number", "other hash", "other chain", "ahead"],
)
def test_an_altered_head_is_noticed(copy: Path, change: Callable[[str], str], kind: str) -> None:
    head = copy.with_name("audit.head")
    head.write_text(change(head.read_text()))
    problem = verify(copy).problem
    assert problem is not None
    assert problem.kind == kind


def test_a_head_that_cannot_be_read_is_no_fault_of_a_record(copy: Path) -> None:
    head = copy.with_name("audit.head")
    head.write_bytes(b"\xff")
    assert found_in(copy) == ("unreadable", None)
    head.unlink()
    head.mkdir()
    assert found_in(copy) == ("unreadable", None)


def test_a_missing_head_is_reported(copy: Path) -> None:
    copy.with_name("audit.head").unlink()
    assert found_in(copy) == ("head_missing", None)


def test_content_that_was_removed_without_being_pruned_is_named(copy: Path) -> None:
    n = number_of(copy, "ref = 'd2'")
    execute(copy, f"UPDATE records SET data = NULL WHERE n = {n}")
    assert found_in(copy) == ("content_removed", n)


@pytest.mark.parametrize("where", ["kind = 'message_state'", "kind = 'pruned'"])
def test_what_pruning_never_removes_may_not_be_missing(copy: Path, where: str) -> None:
    n = number_of(copy, where)
    execute(copy, f"UPDATE records SET data = NULL WHERE n = {n}", "UPDATE records SET at = 1 WHERE n = 0")
    assert found_in(copy) in {("content_removed", n), ("content_removed", 1)}


def test_the_content_of_a_pending_message_may_not_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal.open(path)

    async def main() -> None:
        await journal.accept(PendingMessage("m", "s", "p", 1, "user", "steer", trigger_turn=False, body={}))
        await journal.prune(1000)

    asyncio.run(main())
    journal.close_blocking()
    assert verify(path).ok
    execute(path, "UPDATE records SET data = NULL WHERE ref = 'm'")
    assert found_in(path) == ("content_removed", 1)


def test_a_message_made_pending_again_is_named(copy: Path) -> None:
    execute(copy, "UPDATE records SET state = 'pending', settled_at = NULL WHERE ref = 'm1'")
    assert found_in(copy) == ("state", number_of(copy, "ref = 'm1'"))


def test_a_message_marked_as_delivered_by_hand_is_named(copy: Path) -> None:
    execute(copy, "UPDATE records SET state = 'delivered', settled_at = 500 WHERE ref = 'm3'")
    assert found_in(copy) == ("state", number_of(copy, "ref = 'm3'"))


@pytest.mark.parametrize("kind", ["decision", "events", "message_state", "grant", "pruned"])
@pytest.mark.parametrize("change", ["state = 'delivered'", "state = 'pending'", "settled_at = 500", "state = ''"])
def test_a_state_of_what_is_no_message_is_named(copy: Path, kind: str, change: str) -> None:
    n = number_of(copy, f"kind = '{kind}'")
    execute(copy, f"UPDATE records SET {change} WHERE n = {n}")
    found = found_in(copy)
    assert found == ("state", n)


def test_a_pending_message_with_a_time_at_which_it_was_settled_is_named(copy: Path) -> None:
    execute(copy, "UPDATE records SET settled_at = 500 WHERE ref = 'm3'")
    assert found_in(copy) == ("state", number_of(copy, "ref = 'm3'"))


def forge(path: Path, n: int, content: bytes) -> None:
    """Put other content into a record, and compute all hashes and the head anew, as somebody would who knows how."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE records SET data = ?, digest = ? WHERE n = ?", (content.decode(), digest_of(content), n))
        before = genesis(read_chain_id(db))
        columns = "digest, n, at, kind, plugin, session_id, ref, key"
        for row in db.execute(f"SELECT {columns} FROM records ORDER BY n").fetchall():
            before = link(before, *row)
            db.execute("UPDATE records SET hash = ? WHERE n = ?", (before, row[1]))
    path.with_name("audit.head").unlink()


@pytest.mark.parametrize("kind", ["pruned", "message_state"])
@pytest.mark.parametrize(
    "content",
    [b"{}", b"[]", b"1", b'"x"', b"null", b'{"before": "1", "ids": [], "state": 1}', b'{"before": true, "ids": 1}'],
)
def test_a_forged_record_that_lacks_what_such_records_have_is_named(copy: Path, kind: str, content: bytes) -> None:
    n = number_of(copy, f"kind = '{kind}'")
    forge(copy, n, content)
    assert found_in(copy) == ("altered", n)


def test_a_lost_chain_id_or_table_is_reported_and_not_raised(copy: Path) -> None:
    execute(copy, "DELETE FROM meta")
    problem = verify(copy).problem
    assert problem is not None
    assert problem.kind == "unreadable"
    execute(copy, "DROP TABLE records")
    assert not verify(copy).ok


def test_a_journal_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal"):
        verify(tmp_path / "journal.db")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_byte_of_the_file_is_never_a_crash_nor_silent_in_content(
    original: Path, tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "journal.db"
    content = bytearray((original / "journal.db").read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    shutil.copy(original / "audit.head", tmp_path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    try:
        report = verify(path)
    except JournalError:
        return
    if report.ok:
        # It hit a free page, an index, or what SQLite keeps for itself: every record reads as it was written.
        assert contents(path) == contents(original / "journal.db")


def contents(path: Path) -> list[Any]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as db:
        return db.execute("SELECT n, at, kind, plugin, session_id, ref, key, data FROM records NOT INDEXED").fetchall()


EVENTS = st.lists(
    st.tuples(
        st.just("s"),
        st.integers(1, 2**40),
        st.integers(0, 2**45),
        st.text(st.characters(codec="utf-8")),
        st.none() | st.text(st.characters(codec="utf-8")),
        st.binary(),
    ),
    min_size=1,
)


@given(EVENTS)
def test_a_block_gives_back_the_events_that_it_was_made_of(rows: list[Any]) -> None:
    found = [(e.session_id, e.seq, e.at, e.type, e.origin, e.body) for e in decode_block(1, "s", encode_block(rows))]
    assert found == rows


def test_a_copy_that_fits_does_not_hide_a_head_of_the_same_record_that_does_not(copy: Path) -> None:
    head = copy.with_name("audit.head")
    true = Head.from_text(head.read_text())
    head.write_text(Head(true.n, bytes(32), true.chain).to_text())
    problem = verify(copy, copy=true).problem
    assert problem is not None
    assert (problem.kind, problem.record) == ("replaced", true.n)


def test_who_verifies_is_told_how_far_it_is(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ally_plugins.journal.audit._PROGRESS_EVERY", 2)
    seen: list[int] = []
    records = verify(copy, on_progress=seen.append).records
    assert seen == list(range(2, records + 1, 2))
