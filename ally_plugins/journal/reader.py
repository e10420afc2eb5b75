"""Reading records, messages, events and sessions of a journal, which another process may write meanwhile.

Reads in pages: a long read transaction would keep SQLite from folding the write-ahead log into the file.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar

import attrs
import orjson

from ally_plugins.contract.values.errors import JournalError

from .chain import Head, decode_block, genesis
from .leases import LeaseRow, read_leases
from .rows import MESSAGE_COLUMNS, RECORD_COLUMNS, message_from_row, record_from_row
from .schema import BOOKMARK, IN_FORK, connect_read_only, describe_error, read_chain_id
from .values import (
    ACCEPTED,
    DECISION,
    EVENTS,
    HISTORY,
    HISTORY_REPLACE,
    RECEIVED,
    UNLISTED,
    ChainedRecord,
    StoredEvent,
    StoredMessage,
    StoredRecord,
)

__all__ = ["EventBlock", "JournalReader", "SessionSummary", "TimelineRow", "first_since", "naming", "split_event_id"]

_PAGE: Final = 256  # rows fetched at a time, so that a reader of all records holds few of them
_BARE_PAGE: Final = 8192  # of rows without their contents
_BLOCKS_BYTES: Final = (
    1024 * 1024
)  # after which `event_blocks` returns: bounds what a reader that falls behind holds in memory
_RECORD_BYTES: Final = 300  # what a record takes beside its content, about
_SEQ_DIGITS: Final = 18  # of an event's number within its session
_T = TypeVar("_T")
_POLL_S: Final = 0.2  # how often `follow` looks for new records


@attrs.frozen
class SessionSummary:
    """One session, summed up from its records. Times are in Unix ms."""

    id: str
    first_at: int
    last_at: int
    events: int
    messages: int


@attrs.frozen
class EventBlock:
    """Events of one session that one record covers; `content` is None once they are pruned."""

    n: int
    session_id: str
    ref: str
    content: bytes | None = attrs.field(repr=False)

    def __len__(self) -> int:
        """Return how many they are, or were."""
        return _count_events(self.ref)

    def events(self) -> Iterator[StoredEvent]:
        """Yield them in order; none when they are pruned."""
        return iter(()) if self.content is None else decode_block(self.n, self.session_id, self.content)


class TimelineRow(NamedTuple):
    """A record, or a block of events, as it stands in a session; `content` is None where it was removed or not read."""

    n: int
    at: int
    kind: str
    plugin: str | None
    session_id: str | None
    ref: str | None
    key: str | None
    content: str | bytes | None
    hash: bytes

    @property
    def span(self) -> tuple[int, int]:
        """The `seq` of the first event that it covers, and how many there are or were; 0 and 1 for another record."""
        if self.kind != EVENTS:
            return 0, 1
        first, _, last = (self.ref or "").partition("-")
        return int(first), int(last) - int(first) + 1

    def events(self) -> Iterator[StoredEvent]:
        """Yield its events, those that are there. Raises ValueError, KeyError or TypeError where it is damaged."""
        if self.kind == EVENTS and isinstance(self.content, bytes):
            yield from decode_block(self.n, self.session_id or "", self.content)

    def record(self) -> StoredRecord:
        """Return it as a record. Raises ValueError where it is damaged."""
        return record_from_row((*self[:7], self.content, self.hash))


class JournalReader:
    """Reads one journal file. Lives until `close`; may be used by any thread, one query at a time.

    Every method raises JournalError, with what the operator can do, when the file cannot be read or was closed, and
    in a fork of the process that made the reader.
    """

    def __init__(self, path: Path) -> None:
        """Take the path; the file is opened when it is first needed."""
        self.path: Final = path
        # `check_same_thread` is off: SQLite lets threads share a connection by turns, and this makes the turns.
        self._lock: Final = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._pid: Final = os.getpid()
        self._is_closed = False

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Let go of the file; a fork leaves that to the process that has opened it."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._is_closed = True
            self._disconnect()

    def release(self) -> None:
        """Let go of the file until it is read again."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _rows(self, query: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._read(lambda db: db.execute(query, params).fetchall())

    def _read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if os.getpid() != self._pid:  # SQLite: a connection must not be used in a fork; and the lock may be held
            raise JournalError(IN_FORK.format(str(self.path)))
        with self._lock:
            if self._is_closed:
                raise JournalError("the journal is closed")
            try:
                if self._db is None:
                    self._db = connect_read_only(self.path)
                return work(self._db)
            except sqlite3.Error as error:
                raise JournalError(describe_error(error, self.path)) from error

    # --- records

    def records(  # noqa: PLR0913 - what may be asked for, by name
        self,
        *,
        kind: str | Sequence[str] | None = None,
        plugin: str | None = None,
        names: str | None = None,
        session_id: str | None = None,
        ref: str | None = None,
        since: int | None = None,
        after_n: int = 0,
        limit: int | None = None,
        with_events: bool = False,
    ) -> Iterator[StoredRecord]:
        """Yield records in order.

        Event blocks, saved conversations, and who received what, only where `kind` or `with_events` selects them.
        `plugin` selects its own records, `names` also decisions and changes of values that name it. `since` is in Unix
        ms.

        Raises JournalError when the journal cannot be read.
        """
        kinds = (kind,) if isinstance(kind, str) else kind
        where, params = _filters(plugin=plugin, names=names, session_id=session_id, ref=ref)
        if since is not None:
            where, params = [*where, "at >= ?"], [*params, since]
        if kinds is not None:
            where, params = [*where, f"kind IN ({','.join('?' * len(kinds))})"], [*params, *kinds]
        elif not with_events:
            where = [*where, f"kind NOT IN {UNLISTED}"]
        yield from self._paged(" AND ".join(["n > ?", *where]), params, after_n, limit)

    def _paged(self, where: str, params: Sequence[Any], after_n: int, limit: int | None) -> Iterator[StoredRecord]:
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            query = f"SELECT {RECORD_COLUMNS} FROM records WHERE {where} ORDER BY n LIMIT {size}"  # noqa: S608
            page = self._rows(query, (after_n, *params))
            yield from map(record_from_row, page)
            if len(page) < size:
                return
            # By number, not by OFFSET, for which SQLite reads all that came before again.
            after_n = page[-1][0]
            left = None if left is None else left - size

    def records_naming(
        self, ids: Iterable[str], session_id: str | None, first_n: int, last_n: int
    ) -> Iterator[StoredRecord]:
        """Yield the records of a session, from one number to another, that have one of these texts somewhere in them.

        Where a text stands is for the caller to look at: most records are passed over unread, since to read the JSON of
        each takes several times as long.
        """
        texts = [orjson.dumps(each)[1:-1].decode() for each in ids]  # as they stand in JSON, without the quotes
        where, params = _filters(session_id=session_id)
        query = (
            f"SELECT {RECORD_COLUMNS} FROM records WHERE n > ? AND n <= ? AND {' AND '.join(where) or '1'} "  # noqa: S608
            f"AND kind NOT IN {UNLISTED} AND kind <> '{ACCEPTED}' ORDER BY n LIMIT {_PAGE}"
        )
        after_n = first_n - 1
        while page := self._rows(query, (after_n, last_n, *params)):
            for row in page:
                ref, data = row[5], row[7]
                if ref in texts or (isinstance(data, str) and any(text in data for text in texts)):
                    yield record_from_row(row)
            after_n = page[-1][0]

    def timeline(
        self,
        session_id: str | None,
        *,
        after_n: int = 0,
        upto_n: int | None = None,
        kind: str | None = None,
        with_contents: bool = False,
    ) -> Iterator[TimelineRow]:
        """Yield what happened in a session, and in no session, in order: records and blocks of events.

        With None for all sessions. Saved conversations, and who received what, are left out. Without the contents it is
        a million rows a second, and about that of all sessions, since only events have an index by session.
        """
        where, params = ["n > ?", f"kind NOT IN ('{HISTORY}', '{RECEIVED}')"], list[Any]()
        if upto_n is not None:
            where, params = [*where, "n <= ?"], [*params, upto_n]
        if session_id is not None:
            # The plus keeps SQLite at the order of numbers: by any index it would sort, page by page.
            where, params = [*where, "(+session_id = ? OR session_id IS NULL)"], [*params, session_id]
        if kind is not None:
            where, params = [*where, "kind = ?"], [*params, kind]
        data, size = ("data", _PAGE // 4) if with_contents else ("NULL", _BARE_PAGE)
        columns = f"n, at, kind, plugin, session_id, ref, key, {data}, hash"
        query = f"SELECT {columns} FROM records NOT INDEXED WHERE {' AND '.join(where)} ORDER BY n LIMIT {size}"  # noqa: S608 - constants
        while page := self._rows(query, (after_n, *params)):
            yield from itertools.starmap(TimelineRow, page)
            if len(page) < size:
                return
            after_n = page[-1][0]

    def last_session(self) -> str | None:
        """Return the session with the latest record; None when no session has one."""
        # Who received what is written down later than it happened.
        rows = self._rows(
            "SELECT session_id FROM records WHERE session_id IS NOT NULL AND kind <> ? ORDER BY n DESC LIMIT 1",
            (RECEIVED,),
        )
        return str(rows[0][0]) if rows else None

    def last_records(self, limit: int, **filters: Any) -> list[StoredRecord]:
        """Return the last `limit` records that pass the filters (those of `records`, one kind), in order."""
        where, params = _filters(**filters)
        where = [
            *where,
            f"kind <> '{EVENTS}'" if filters.get("kind") else f"kind NOT IN {UNLISTED}",
        ]
        query = f"SELECT {RECORD_COLUMNS} FROM records WHERE {' AND '.join(where)} ORDER BY n DESC LIMIT ?"  # noqa: S608
        return [record_from_row(row) for row in reversed(self._rows(query, (*params, limit)))]

    def kinds(self) -> set[str]:
        """Return every kind of record that there is. It reads the whole journal: 0.1 s for a million records."""
        return {str(kind) for (kind,) in self._rows("SELECT DISTINCT kind FROM records")}

    def follow(
        self, *, stop: threading.Event | None = None, after_n: int | None = None, **filters: Any
    ) -> Iterator[StoredRecord]:
        """Yield records as they are written, from now on (or after record `after_n`), until `stop` is set.

        Blocks its thread, looking for new records five times a second.
        """
        stop = stop or threading.Event()
        last = self.last_n() if after_n is None else after_n
        while not stop.is_set():
            upto = self.last_n()
            # `upto` is read before: what the filters leave out until there is not looked at again, and no record after
            # it is passed over.
            for record in self.records(after_n=last, **filters):
                last = record.n
                yield record
            last = max(last, upto)
            stop.wait(_POLL_S)

    def last_n(self) -> int:
        """Return the number of the last record; 0 when there is none."""
        return int(self._rows("SELECT coalesce(max(n), 0) FROM records")[0][0])

    def first_since(self, at: int) -> int:
        """Return about the number of the first record that is not older than a time (Unix ms), by halving.

        Times rise with the numbers but for the clock's jumps, and the times that replays and hosts bring along.
        """
        query = "SELECT n, at FROM records WHERE n >= ? ORDER BY n LIMIT 1"
        return first_since(at, self.last_n(), lambda n: self._rows(query, (n,)))

    def chain(self) -> str:
        """Return the id of the chain of records, which a new journal has anew."""
        return self._read(read_chain_id)

    def head(self) -> Head:
        """Return how far the chain of records has come."""
        chain = self.chain()
        rows = self._rows("SELECT n, hash FROM records ORDER BY n DESC LIMIT 1")
        n, hash_ = rows[0] if rows else (0, genesis(chain))
        return Head(n, hash_, chain)

    def chained(self, after_n: int, max_bytes: int) -> list[ChainedRecord]:
        """Return the records after one as the chain covers them, up to so many bytes of content; one at least."""
        columns = "n, at, kind, plugin, session_id, ref, key, digest, hash, data"
        query = f"SELECT {columns} FROM records WHERE n > ? ORDER BY n"  # noqa: S608 - constants
        return self._read(lambda db: _some_records(db.execute(query, (after_n,)), max_bytes))

    def record(self, n: int) -> StoredRecord | None:
        """Return one record by its number."""
        rows = self._rows(f"SELECT {RECORD_COLUMNS} FROM records WHERE n = ?", (n,))  # noqa: S608 - constants
        return record_from_row(rows[0]) if rows else None

    def decision(self, decision_id: str) -> StoredRecord | None:
        """Return the record of a decision by its id."""
        return next(self.records(ref=decision_id, kind="decision", limit=1), None)

    # --- messages

    def message(self, message_id: str) -> StoredMessage | None:
        """Return a message by its id."""
        found = self._messages("ref = ? AND kind = ?", (message_id, ACCEPTED))
        return found[0] if found else None

    def find_key(self, plugin: str, session_id: str, key: str) -> StoredMessage | None:
        """Return the message that a plugin sent to a session under an idempotency key."""
        found = self._messages("plugin = ? AND session_id = ? AND key = ?", (plugin, session_id, key))
        return found[0] if found else None

    def pending(self, session_id: str) -> list[StoredMessage]:
        """Return the messages of a session that are still pending, in order."""
        return self._messages("session_id = ? AND state = 'pending'", (session_id,))

    def messages(self, session_id: str | None = None, *, after_n: int = 0) -> Iterator[StoredMessage]:
        """Yield the messages of a session, or of all, in order."""
        where, params = _filters(session_id=session_id, kind=ACCEPTED)
        where = ["n > ?", *where]
        while page := self._messages(" AND ".join(where), (after_n, *params), limit=_PAGE):
            yield from page
            after_n = page[-1].n

    def _messages(self, where: str, params: Sequence[Any], limit: int = -1) -> list[StoredMessage]:
        query = f"SELECT {MESSAGE_COLUMNS} FROM records WHERE {where} ORDER BY n LIMIT ?"  # noqa: S608 - constants
        return [message_from_row(row) for row in self._rows(query, (*params, limit))]

    # --- events

    def events(self, session_id: str, *, after_seq: int = 0, type: str | None = None) -> Iterator[StoredEvent]:  # noqa: A002
        """Yield the events of a session in order, one block in memory at a time; pruned ones are left out."""
        after_n = 0
        query = (
            f"SELECT n, ref, data FROM records WHERE session_id = ? AND kind = '{EVENTS}' AND n > ? "  # noqa: S608
            "ORDER BY n LIMIT 1"
        )
        while rows := self._rows(query, (session_id, after_n)):
            after_n, ref, content = rows[0]
            if content is None or _last_seq(ref) <= after_seq:
                continue
            for event in decode_block(after_n, session_id, content):
                if event.seq > after_seq and (type is None or event.type == type):
                    yield event

    def has_removed_events(self, session_id: str) -> bool:
        """Say whether events of a session were pruned, or purged."""
        query = f"SELECT 1 FROM records WHERE session_id = ? AND kind = '{EVENTS}' AND data IS NULL LIMIT 1"  # noqa: S608
        return bool(self._rows(query, (session_id,)))

    def newest_events(self, session_id: str, type: str) -> Iterator[StoredEvent]:  # noqa: A002
        """Yield the events of a session that are of a type, the last first; pruned ones are left out."""
        before_n = self.last_n() + 1
        query = (
            f"SELECT n, data FROM records WHERE session_id = ? AND kind = '{EVENTS}' AND n < ? "  # noqa: S608
            # `instr` spares decoding most blocks; one that has the word in a text is decoded for nothing.
            "AND instr(data, ?) ORDER BY n DESC LIMIT 1"
        )
        while rows := self._rows(query, (session_id, before_n, type.encode())):
            before_n, content = rows[0]
            yield from reversed([each for each in decode_block(before_n, session_id, content) if each.type == type])

    def event_blocks(self, first_n: int) -> tuple[list[EventBlock], int]:
        """Return blocks of events of all sessions from record `first_n` on, and the record to go on from.

        About a MiB of them at most, or one that is larger. None, and `first_n` itself, when there is nothing yet.
        """
        upto = self.last_n()
        query = (
            # NOT INDEXED: by number; the index of events is in order of sessions
            f"SELECT n, session_id, ref, data FROM records NOT INDEXED WHERE n >= ? AND n <= ? AND kind = '{EVENTS}' "  # noqa: S608
            "ORDER BY n"
        )
        # Up to a number read before, which is where the next call goes on: nothing written meanwhile is passed over.
        blocks = self._read(lambda db: _some_blocks(db.execute(query, (first_n, upto))))
        is_all = not blocks or sum(len(block.content or b"") for block in blocks) < _BLOCKS_BYTES
        return blocks, max(first_n, upto + 1 if is_all else blocks[-1].n + 1)

    def event(self, event_id: str) -> StoredEvent | None:
        """Return an event by its id, `session:seq`."""
        session_id, seq = split_event_id(event_id)
        found = next(self.events(session_id, after_seq=seq - 1), None) if seq else None
        return found if found is not None and found.seq == seq else None

    def last_seq(self, session_id: str) -> int:
        """Return the `seq` of the last event of a session; 0 when there is none."""
        query = f"SELECT ref FROM records WHERE session_id = ? AND kind = '{EVENTS}' ORDER BY n DESC LIMIT 1"  # noqa: S608
        rows = self._rows(query, (session_id,))
        return _last_seq(rows[0][0]) if rows else 0

    def last_replacement(self, session_id: str) -> int:
        """Return the record number after which a saved conversation is read: just before its last replacement, or 0."""
        query = f"SELECT max(n) FROM records WHERE session_id = ? AND kind = '{HISTORY}' AND ref = ?"  # noqa: S608
        return max(int(self._rows(query, (session_id, HISTORY_REPLACE))[0][0] or 0) - 1, 0)

    def sessions_with_history(self) -> list[tuple[str, int, int]]:
        """Return the id, the first and the last time (Unix ms) of each saved conversation, the latest last."""
        query = (
            f"SELECT session_id, min(at), max(at) FROM records WHERE kind = '{HISTORY}' AND session_id IS NOT NULL "  # noqa: S608
            "GROUP BY session_id ORDER BY max(n)"
        )
        return [(session, first, last) for session, first, last in self._rows(query)]

    def bookmark(self, name: str) -> str | None:
        """Return what `Journal.put_bookmark` has kept under a name."""
        rows = self._rows("SELECT value FROM meta WHERE name = ?", (BOOKMARK + name,))
        return str(rows[0][0]) if rows else None

    def bookmarks(self, prefix: str) -> dict[str, str]:
        """Return those whose names begin with a prefix, by what follows it."""
        begin = BOOKMARK + prefix
        # A range and not LIKE, to which `%` and `_` in a name mean more; nothing sorts behind U+10FFFF.
        rows = self._rows("SELECT name, value FROM meta WHERE name >= ? AND name < ?", (begin, begin + "\U0010ffff"))
        return {str(name)[len(begin) :]: str(value) for name, value in rows}

    def leases(self) -> list[LeaseRow]:
        """Return which hosts have which sessions, also those that were left by a host that is dead."""
        return self._read(read_leases)

    def lease(self, session_id: str) -> LeaseRow | None:
        """Return which host has a session; None when none has."""
        return next(iter(self._read(lambda db: read_leases(db, session_id))), None)

    def sessions(self) -> list[SessionSummary]:
        """Return the sessions that have a record, those with the latest last; who received what is recorded later."""
        query = (
            "SELECT session_id, min(at), max(at), group_concat(CASE kind WHEN 'events' THEN ref END), "
            "sum(kind = 'message') FROM records WHERE session_id IS NOT NULL AND kind <> ? "
            "GROUP BY session_id ORDER BY max(at), max(n)"
        )
        return [
            SessionSummary(session, first, last, _count_events(refs or ""), messages)
            for session, first, last, refs, messages in self._rows(query, (RECEIVED,))
        ]


def _filters(names: str | None = None, **columns: str | None) -> tuple[list[str], list[Any]]:
    given = {name: value for name, value in columns.items() if value is not None}
    where, params = [f"{name} = ?" for name in given], list(given.values())
    if names is not None:
        holds = " OR ".join(["instr(data, ?) > 0"] * len(naming(names)))
        where.append(f"(plugin = ? OR (kind IN ('{DECISION}', 'transform') AND ({holds})))")
        params += [names, *naming(names)]
    return where, params


def first_since(at: int, last_n: int, rows_from: Callable[[int], Sequence[tuple[Any, ...]]]) -> int:
    """Return about the number of the first record that is not older than a time (Unix ms), by halving.

    `rows_from` gives the number and the time of the first record from a number on, as one row, or none.
    """
    low, high = 1, last_n + 1
    while low < high:
        middle = (low + high) // 2
        rows = rows_from(middle)
        if rows and rows[0][1] < at:
            low = rows[0][0] + 1
        else:
            high = middle
    return low


def split_event_id(event_id: str) -> tuple[str, int]:
    """Return the session and the `seq` of an event's id, `session:seq`; 0 for what is none."""
    session_id, _, text = event_id.rpartition(":")
    # Anybody's text, and `int` refuses more than 4,300 digits; 18 always fit into 64 bits.
    return session_id, int(text) if text.isdecimal() and len(text) <= _SEQ_DIGITS else 0


def naming(plugin: str) -> tuple[str, ...]:
    """Return what stands in the JSON of a decision or a change that names a plugin, which are records of the host's."""
    return (f'"plugin":"{plugin}"', f'"blocked_by":"{plugin}"')


def _some_blocks(rows: sqlite3.Cursor) -> list[EventBlock]:
    """Take blocks until they are large together; then let go of the rest."""
    blocks: list[EventBlock] = []
    size = 0
    # A statement that has not come to its end keeps its read transaction, and with it the log, from being folded in.
    with closing(rows):
        for row in rows:
            blocks.append(EventBlock(*row))
            size += len(row[3] or b"")
            if size >= _BLOCKS_BYTES:
                break
    return blocks


def _some_records(rows: sqlite3.Cursor, max_bytes: int) -> list[ChainedRecord]:
    found: list[ChainedRecord] = []
    size = 0
    with closing(rows):
        for n, at, kind, plugin, session_id, ref, key, digest, hash_, data in rows:
            content = data.encode() if isinstance(data, str) else data
            size += _RECORD_BYTES + len(content or b"")
            if found and size > max_bytes:
                break
            found.append(ChainedRecord(n, at, kind, plugin, session_id, ref, key, digest, hash_, content))
    return found


def _last_seq(ref: str) -> int:
    return int(ref.partition("-")[2])


def _count_events(refs: str) -> int:
    spans = (ref.split("-") for ref in refs.split(",") if ref)
    return sum(int(last) - int(first) + 1 for first, last in spans)
