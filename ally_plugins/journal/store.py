"""The one connection that writes: a batch becomes one transaction. Threads and futures are left to `writer`."""

from __future__ import annotations

import sqlite3
import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from itertools import chain as flatten
from pathlib import Path
from typing import Any, Final

import attrs
import orjson

from ally_plugins.contract.values.errors import JournalError
from ally_plugins.policy.keeping import DAY_MS, Keeping

from .audit_head import check_head, read_head, write_head
from .chain import Head, digest_of, encode_block, genesis, link
from .contents import WHOLE_KINDS
from .leases import Lease, LeaseTable
from .open_files import OpenFiles
from .rows import MESSAGE_COLUMNS, Row, message_from_row, problem_of
from .schema import BOOKMARK, connect, connect_read_only, is_in_memory, read_chain_id
from .values import EVENTS, JOURNAL, NEVER_PRUNED, PRUNED, SETTLED, EventRow, StoredMessage, encode

__all__ = ["PURGING", "Batch", "Bookmark", "Claim", "Mark", "Release", "Store", "Written", "now_ms"]

# Rows in one statement at most. One statement is one sqlite3_step, and each step gives the GIL away: with a busy loop
# thread, `executemany` with 256 rows took 237 ms against 12 ms for one statement. Its 5,632 parameters are far below
# SQLite's limit of 32,766.
_CHUNK: Final = 512
# How many rows statements are prepared for; others are padded with NULL. Powers of two, and an eighth more, since as
# many callers as a power of two bring a block of events with them.
_SIZES: Final = (1, 2, 4, 8, 9, 16, 18, 32, 36, 64, 72, 128, 144, 256, 288, _CHUNK)
_COLUMNS: Final = "n, at, kind, plugin, session_id, ref, key, data, digest, hash, state"
_WIDTH: Final = 11
_PADDING: Final = (None,) * _WIDTH
# An event block is one content of a record: large enough to cost nothing per event, small enough to be read whole.
_BLOCK_ROWS: Final = 4096
PURGING: Final = "purging:"
"""Before the session in the name of a bookmark that is there while the session is purged."""
_BEGUN: Final = "begun"
RETAINED: Final = "retained"
"""The bookmark of how far contents were removed since they were too old, or too many."""
_RETAIN_ROWS: Final = 4000
"""Records that are looked at for their age at a time, for the same reason as the next."""
_PRUNE_ROWS: Final = 2000  # in one transaction, so that accepted messages wait some ms at most


@attrs.frozen
class Mark:
    """Messages that left the state "pending"; `about` stands in the record of it."""

    ids: Sequence[str]
    state: str
    at: int
    about: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Bookmark:
    """How far a reader has come. No record of the chain: it changes all the time and proves nothing.

    With `is_over` it is removed, if it still has this place.
    """

    name: str
    place: str
    is_over: bool = False


@attrs.frozen
class Claim:
    """A lease that is to be taken."""

    lease: Lease


@attrs.frozen
class Release:
    """A lease that is to be let go."""

    lease: Lease


@attrs.define
class Batch:
    """What one transaction writes: claims, rows, then blocks of events, then marks and bookmarks, then releases.

    Claims come first, so that what is written for a session finds its lease, and releases last.
    """

    rows: list[Row] = attrs.field(factory=list)
    events: list[Sequence[EventRow]] = attrs.field(factory=list)
    marks: list[Mark] = attrs.field(factory=list)
    bookmarks: list[Bookmark] = attrs.field(factory=list)
    claims: list[Claim] = attrs.field(factory=list)
    releases: list[Release] = attrs.field(factory=list)

    @property
    def is_rows_only(self) -> bool:
        """Whether it has nothing but rows and events."""
        return not (self.marks or self.bookmarks or self.claims or self.releases)


@attrs.frozen
class Written:
    """The outcome of a batch.

    `first` is the record number of its first row; those after it follow. `duplicates` has the rows that were not
    written, since their key was taken, by position: the stored message, or the position of the earlier row in it.
    """

    first: int
    duplicates: dict[int, StoredMessage | int]

    def number(self, position: int) -> int:
        """Return the number of the row at a position."""
        if not self.duplicates:
            return self.first + position
        return self.first + position - sum(other < position for other in self.duplicates)


def _insert(count: int) -> str:
    values = ",".join(["(" + ",".join("?" * _WIDTH) + ")"] * count)
    if count == 1:
        return f"INSERT INTO records({_COLUMNS}) VALUES {values}"  # noqa: S608 - constants
    # The padding is left out by its NULL; `column1` is SQLite's name for the first column of VALUES.
    return f"INSERT INTO records({_COLUMNS}) SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL"  # noqa: S608


_INSERTS: Final = {count: _insert(count) for count in _SIZES}


class Store:
    """Writes one journal file. Lives until `close`; used by one thread.

    `head_path` is None for a journal in memory, which nobody can cut. `before_close` has this process's readers let go
    of the file: what they would go on reading may not be it any more.
    """

    def __init__(
        self,
        path: Path,
        head_path: Path | None,
        held: dict[str, Lease],
        *,
        create: bool,
        before_close: Callable[[], object] = lambda: None,
    ) -> None:
        self._before_close: Final = before_close
        self.path: Final = path
        self.head_path: Final = head_path
        # Before the journal's own head, which another host may advance meanwhile.
        recorded = None if head_path is None else read_head(head_path)
        self._db: Final = connect(path, create=create)
        self._is_durable: Final = not is_in_memory(path)
        try:
            self._leases: Final = LeaseTable(self._db, held)
            self._chain: Final = read_chain_id(self._db)
            self._files: Final = OpenFiles(path) if self._is_durable else None
            self.head: Head = self._read_head()
            if head_path is not None:
                check_head(head_path, recorded, self._hash_at, self.head)
                if recorded is None:
                    self._begin_head(head_path)
            # After `check_head`: into a journal that was cut or replaced nothing is written.
            self._leases.restore()
        except BaseException:
            self._db.close()
            raise

    def _begin_head(self, path: Path) -> None:
        # Written at once, so that a missing file always means that somebody removed it.
        if self.head.n:
            note: Row = (now_ms(), JOURNAL, None, None, None, None, encode({"state": "head_missing"}), None)
            self.write(Batch([note]))
        write_head(path, self.head, sync=True)

    def close(self) -> None:
        """Close the connection; the last one to close folds the WAL into the file.

        A WAL that was removed is folded in by all means: this process still has it open, and nobody else could read it.
        """
        self._before_close()
        self._save_wal()  # what is missing otherwise shows when the journal is opened anew (`check_head`)
        self._db.close()

    def _save_wal(self) -> bool:
        """Fold a WAL that was removed into the journal's file; return whether all that was written will be found."""
        if self._files is None or (found := self._files.find_wal()) == "in place":
            return True
        if found == "lost":
            return False
        try:
            return bool(self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
        except sqlite3.Error:
            return False

    def write(self, batch: Batch) -> Written:
        """Write a batch in one transaction: all of it is on disk afterwards, or nothing.

        Builds on the head of the last write without reading it again: `n` is the primary key, so that a batch which
        another process wrote meanwhile shows as a conflict, and only then is the head read, under the write lock. What
        fits into one statement is committed by it (no BEGIN and COMMIT): one sqlite3_step instead of three, each of
        which has to win the GIL back from the loop's thread. Raises LeaseLostError when some of it is for sessions that
        another host has taken; all of it is left out then.
        """
        self._check_in_place()
        written = self._write_batch(batch)
        try:
            self._check_in_place()
        except JournalError:  # it was written to a file that has gone meanwhile
            if not self._save_wal():
                raise
        return written

    def _write_batch(self, batch: Batch) -> Written:
        rows = [*batch.rows, *_blocks(batch.events)]
        if len(rows) <= _CHUNK and batch.is_rows_only:
            # A number that another host has taken, a key, a lost lease: the transaction below finds out which.
            with suppress(sqlite3.IntegrityError):
                return self._write_at_once(rows)
        is_durable = bool(rows or batch.marks or batch.bookmarks)
        try:
            with nullcontext() if is_durable else self._without_sync():
                return self._write_in_transaction(rows, batch)
        except sqlite3.IntegrityError as error:
            if (lost := self._leases.explain(error)) is not None:
                raise lost from error
            raise

    def _write_at_once(self, rows: Sequence[Row]) -> Written:
        first = self.head.n + 1
        if rows:
            params, head = self._chained(rows)
            self._db.execute(*_statement(params))
            self.head = head
        return Written(first, {})

    def _write_in_transaction(self, rows: Sequence[Row], batch: Batch) -> Written:
        head = self.head
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for claim in batch.claims:
                self._leases.claim(claim.lease)
            written = self._write(rows, batch.marks)
            self._write_bookmarks(batch.bookmarks)
            for release in batch.releases:
                self._leases.release(release.lease)
            self._db.execute("COMMIT")
        except BaseException:
            # `_append` has moved it on, to records that are not there now.
            self.head = head
            self._leases.roll_back()
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        # Only now: a lease that is on no disk is not held.
        self._leases.commit()
        return written

    def make_room(self) -> None:
        """Have the next commits write over what is there, if the last ones made the log longer. Takes a millisecond."""
        if self._files is None or not self._files.needs_room:
            return
        # It only makes commits faster: whatever is wrong, the next one finds out.
        with suppress(sqlite3.Error, OSError):
            self._files.make_room(self._write_lock())

    @contextmanager
    def _write_lock(self) -> Generator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def beat(self) -> None:
        """Renew the leases that are held."""
        with self._without_sync():
            self._leases.beat()

    @contextmanager
    def _without_sync(self) -> Generator[None]:
        """Do not wait for the disk, when only leases are written: after a power cut there is no host that has one."""
        if not self._is_durable:
            yield
            return
        # Around the transaction: within one SQLite refuses to change it.
        self._db.execute("PRAGMA synchronous = NORMAL")
        try:
            yield
        finally:
            self._db.execute("PRAGMA synchronous = FULL")

    def release_all(self) -> None:
        """Let all sessions go that are held."""
        self._leases.release_all()

    def _write(self, rows: Sequence[Row], marks: Iterable[Mark]) -> Written:
        self.head = self._read_head()
        duplicates = self._find_duplicates(rows)
        first = self.head.n + 1
        self._append([row for i, row in enumerate(rows) if i not in duplicates] if duplicates else rows)
        for mark in marks:
            self._mark(mark)
        return Written(first, duplicates)

    def _append(self, rows: Sequence[Row]) -> None:
        params, head = self._chained(rows)
        for start in range(0, len(params), _CHUNK):
            self._db.execute(*_statement(params[start : start + _CHUNK]))
        self.head = head

    def _chained(self, rows: Sequence[Row]) -> tuple[list[tuple[Any, ...]], Head]:
        """Link rows to the head; return what is inserted, and the head that follows."""
        n, hash_ = self.head.n, self.head.hash
        params: list[tuple[Any, ...]] = []
        for at, kind, plugin, session_id, ref, key, content, state in rows:
            n += 1
            digest = digest_of(content)
            hash_ = link(hash_, digest, n, at, kind, plugin, session_id, ref, key)
            # Text for json_each, and for people with the sqlite3 shell; a block is no JSON as a whole.
            data = content if kind == EVENTS else content.decode()
            params.append((n, at, kind, plugin, session_id, ref, key, data, digest, hash_, state))
        return params, Head(n, hash_, self._chain)

    def _find_duplicates(self, rows: Sequence[Row]) -> dict[int, StoredMessage | int]:
        """Find rows whose key is taken, by position: the message that has it, or the position of the earlier row."""
        keyed = [(i, (row[2], row[3], row[5])) for i, row in enumerate(rows) if row[5] is not None]
        seen: dict[tuple[str | None, ...], StoredMessage | int] = {}
        duplicates: dict[int, StoredMessage | int] = {}
        for i, place in keyed:
            stored = seen[place] if place in seen else self.find_key(*place)
            if stored is not None:
                duplicates[i] = stored
            seen.setdefault(place, i if stored is None else stored)
        return duplicates

    def find_key(self, plugin: str | None, session_id: str | None, key: str | None) -> StoredMessage | None:
        """Find the message that a plugin sent to a session under a key."""
        query = f"SELECT {MESSAGE_COLUMNS} FROM records WHERE plugin = ? AND session_id = ? AND key = ?"  # noqa: S608
        row = self._db.execute(query, (plugin, session_id, key)).fetchone()
        return row and message_from_row(row)

    def message(self, n: int) -> StoredMessage:
        """Return the message that is record `n`."""
        query = f"SELECT {MESSAGE_COLUMNS} FROM records WHERE n = ?"  # noqa: S608 - constants
        return message_from_row(self._db.execute(query, (n,)).fetchone())

    def _mark(self, mark: Mark) -> None:
        """Settle messages that are still pending, and record exactly those, so that `verify` can compare."""
        # One parameter for any number of ids, so that the statement stays prepared.
        ids = orjson.dumps(list(mark.ids)).decode()
        pending = "ref IN (SELECT value FROM json_each(?)) AND kind = 'message' AND state = 'pending'"
        found = self._db.execute(f"SELECT ref, session_id FROM records WHERE {pending} ORDER BY n", (ids,)).fetchall()  # noqa: S608
        if not found:
            return
        self._db.execute(f"UPDATE records SET state = ?, settled_at = ? WHERE {pending}", (mark.state, mark.at, ids))  # noqa: S608
        sessions = {session for _, session in found}
        session_id = sessions.pop() if len(sessions) == 1 else None
        content = encode({"state": mark.state, "ids": [ref for ref, _ in found], **mark.about})
        self._append([(mark.at, SETTLED, None, session_id, None, None, content, None)])

    def _write_bookmarks(self, bookmarks: Iterable[Bookmark]) -> None:
        for bookmark in bookmarks:
            row = (BOOKMARK + bookmark.name, bookmark.place)
            if bookmark.is_over:
                self._db.execute("DELETE FROM meta WHERE name = ? AND value = ?", row)
                continue
            self._db.execute(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET value = excluded.value", row
            )

    def purge(self, session_id: str, at: int) -> Generator[int]:
        """Remove all content of one session, pending messages too; yield how many records each step has purged.

        What is purged is recorded first, and remembered until it is done: a host goes on with one that was broken off.
        """
        query = "SELECT ref FROM records WHERE session_id = ? AND state = 'pending'"
        pending = [ref for (ref,) in self._db.execute(query, (session_id,))]
        latest = self._db.execute("SELECT max(at) FROM records WHERE session_id = ?", (session_id,)).fetchone()[0]
        # Of the future too, where a clock has gone back.
        about = {"before": max(at, latest or 0) + 1, "session": session_id}
        row: Row = (at, PRUNED, None, None, None, None, encode(about), None)
        marks = [Mark(pending, "expired", at)] if pending else []
        self.write(Batch([row], marks=marks, bookmarks=[Bookmark(PURGING + session_id, _BEGUN)]))
        yield from self._finish_purge(session_id, about, at)

    def _finish_purge(self, session_id: str, about: Mapping[str, Any], at: int) -> Iterator[int]:
        removed = 0
        for step in self._remove_contents("session_id = ?", (session_id,), 0, self.head.n):
            removed += step
            yield step
        row: Row = (at, PRUNED, None, None, None, None, encode({**about, "removed": removed}), None)
        self.write(Batch([row], bookmarks=[Bookmark(PURGING + session_id, _BEGUN, is_over=True)]))

    def go_on_purging(self, at: int) -> Iterator[int]:
        """Finish what `purge` had begun when its program was killed."""
        found = self._db.execute("SELECT name FROM meta WHERE name >= ? AND name < ?", _range(BOOKMARK + PURGING))
        for (name,) in found.fetchall():
            session_id = name.removeprefix(BOOKMARK + PURGING)
            yield from self._finish_purge(session_id, {"before": at + 1, "session": session_id}, at)

    def fold_log(self) -> bool:
        """Fold the write-ahead log into the file, and cut it; return False while a reader or writer prevents that.

        The log has what was removed as it was before.
        """
        with suppress(sqlite3.OperationalError):
            return bool(self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
        return False

    def retain(self, keeping: Keeping, at: int) -> Iterator[int]:
        """Remove the contents that are older, or more, than is to be kept; yield how many records each step has pruned.

        The oldest first, from where the last time ended. Nothing is written where nothing is to be removed.
        """
        before, limit = at - keeping.days * DAY_MS, keeping.megabytes * 1024 * 1024
        while keeping.days and (end := self._end_of_older(start := self._retained(), before)) > start:
            yield from self._retain(start, end, at, "retention")
        if limit and self._used_bytes() > limit:
            # Until a fifth is free, so that the next event is not one too many again.
            while (excess := self._used_bytes() - limit * 4 // 5) > 0 and (start := self._retained()) < self.head.n:
                yield from self._retain(start, self._end_of_bytes(start, excess), at, "size")
        self.fold_log()

    def _retain(self, start: int, end: int, at: int, by: str) -> Iterator[int]:
        where = f"at < ? AND kind NOT IN ({','.join('?' * len(WHOLE_KINDS))})"
        latest = self._db.execute("SELECT max(at) FROM records WHERE n > ? AND n <= ?", (start, end)).fetchone()[0]
        about = {"before": latest + 1, "upto": end, "but": sorted(WHOLE_KINDS), "by": by}
        query = "SELECT ref FROM records WHERE state = 'pending' AND n > ? AND n <= ?"
        pending = [ref for (ref,) in self._db.execute(query, (start, end))]
        row: Row = (at, PRUNED, None, None, None, None, encode(about), None)
        self.write(Batch([row], marks=[Mark(pending, "expired", at)] if pending else []))
        yield from self._remove_contents(where, (latest + 1, *WHOLE_KINDS), start, end)
        self.write(Batch(bookmarks=[Bookmark(RETAINED, str(end))]))

    def _retained(self) -> int:
        """Return the number of the record up to which contents were removed before."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (BOOKMARK + RETAINED,)).fetchone()
        return int(row[0]) if row and row[0].isdecimal() else 0

    def _end_of_older(self, start: int, before: int) -> int:
        """Return the number of the record before the first that is not older, or of one that is far enough."""
        upto = min(start + _RETAIN_ROWS, self.head.n)
        query = "SELECT n FROM records WHERE n > ? AND n <= ? AND at >= ? ORDER BY n LIMIT 1"
        row = self._db.execute(query, (start, upto, before)).fetchone()
        return row[0] - 1 if row else upto

    def _end_of_bytes(self, start: int, count: int) -> int:
        """Return the number of the record up to which there are so many bytes of contents, or that is far enough."""
        end = upto = min(start + _RETAIN_ROWS, self.head.n)
        query = "SELECT n, length(data) FROM records WHERE n > ? AND n <= ? AND data IS NOT NULL ORDER BY n"
        with closing(self._db.execute(query, (start, upto))) as rows:
            for n, size in rows:
                count -= size
                if count <= 0:
                    end = n
                    break
        return end

    def _used_bytes(self) -> int:
        """Return the bytes of the file's pages that hold anything; the others are filled again before it grows."""
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def prune(self, before: int, at: int) -> Iterator[int]:
        """Remove the content of what is older than `before` (Unix ms); yield how many records each step has pruned.

        The record that announces it is written first, so that an interrupted prune verifies too. Pending messages stay.
        """
        self.write(Batch([(at, PRUNED, None, None, None, None, encode({"before": before}), None)]))
        yield from self._remove_contents("at < ?", (before,), 0, self.head.n)
        self.fold_log()  # a reader may hold the old pages; a later checkpoint takes them then

    def _remove_contents(self, where: str, params: Sequence[Any], start: int, end: int) -> Iterator[int]:
        """Remove the contents of the records from behind `start` to `end` that are meant, some in each step."""
        query = (
            f"UPDATE records SET data = NULL WHERE n > ? AND n <= ? AND {where} AND data IS NOT NULL "  # noqa: S608
            "AND kind NOT IN (?, ?, ?) AND (state IS NULL OR state <> 'pending')"
        )
        for first in range(start, end, _PRUNE_ROWS):
            self._check_in_place()
            # Without it the content stays readable in the file's free pages.
            self._db.execute("PRAGMA secure_delete = ON")
            try:
                part = (first, min(first + _PRUNE_ROWS, end))
                yield self._db.execute(query, (*part, *params, *NEVER_PRUNED)).rowcount
            finally:
                with suppress(sqlite3.Error):  # a connection that has failed, or was closed
                    self._db.execute("PRAGMA secure_delete = OFF")

    def _read_head(self) -> Head:
        row = self._db.execute("SELECT n, hash FROM records ORDER BY n DESC LIMIT 1").fetchone()
        return Head(row[0], row[1], self._chain) if row else Head(0, genesis(self._chain), self._chain)

    def _hash_at(self, n: int) -> bytes | None:
        row = self._db.execute("SELECT hash FROM records WHERE n = ?", (n,)).fetchone()
        return bytes(row[0]) if row else None

    def _check_in_place(self) -> None:
        """Raise JournalError when a file of the journal was removed, replaced or cut off."""
        if self._files is None or self._files.check():
            return
        # What the next program would find; our own connection may answer from its memory.
        with closing(connect_read_only(self.path)) as fresh:
            row = fresh.execute("SELECT hash FROM records WHERE n = ?", (self.head.n,)).fetchone()
        if self.head.n and (row is None or row[0] != self.head.hash):
            raise JournalError(f"the journal {str(self.path)!r} was cut off while it was in use; restore it")


def _range(prefix: str) -> tuple[str, str]:
    # Nothing sorts behind U+10FFFF.
    return prefix, prefix + "\U0010ffff"


def now_ms() -> int:
    """Return the time in Unix ms."""
    return time.time_ns() // 1_000_000


def _statement(params: list[tuple[Any, ...]]) -> tuple[str, list[Any]]:
    """Return what inserts some rows, with its parameters."""
    count = _SIZES[bisect_left(_SIZES, len(params))]
    return _INSERTS[count], [*flatten.from_iterable(params), *_PADDING * (count - len(params))]


def _blocks(events: Iterable[Sequence[EventRow]]) -> Iterable[Row]:
    sessions: dict[str, list[EventRow]] = {}
    for rows in events:
        for row in rows:
            sessions.setdefault(row[0], []).append(row)
    for session_id, rows in sessions.items():
        for start in range(0, len(rows), _BLOCK_ROWS):
            part = rows[start : start + _BLOCK_ROWS]
            ref = f"{part[0][1]}-{part[-1][1]}"
            if (problem := problem_of(part[-1][2], session_id)) is not None:
                # Not a JournalError: the entry is at fault, and not the disk (`salvage.is_disk_failure`).
                raise TypeError(problem)
            yield part[-1][2], EVENTS, None, session_id, ref, None, encode_block(part), None
