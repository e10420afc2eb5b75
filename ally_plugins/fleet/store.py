"""All homes' records in one place, a file of SQLite or a database of PostgreSQL.

One collector writes them, and whoever asks reads.

A record is kept as its home sent it, with the hash, so that the chain can be verified again from here. What was found
wrong is kept beside it and never removed: a home whose chain broke once stays marked.
"""

from __future__ import annotations

import os
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self
from urllib.parse import urlsplit

import attrs
import orjson

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.journal.chain import Head
from ally_plugins.journal.owned_files import check_file, open_file
from ally_plugins.journal.reader import naming
from ally_plugins.journal.schema import switch_to_wal
from ally_plugins.journal.values import DECISION, EVENTS, HISTORY, StoredRecord

from .batches import Held
from .store_tables import APPLICATION_ID, COMMENTS, VERSION, in_postgres, statements_after

if TYPE_CHECKING:
    from psycopg import Connection

    from ally_plugins.journal.audit import Problem
    from ally_plugins.journal.values import ChainedRecord

__all__ = ["FleetStore", "HomeState", "Noted", "open_store", "stored_record"]


@attrs.frozen
class HomeState:
    """How one home is. Times are in Unix ms; `lag` is how many records it has said to have beyond those here.

    `seen_at` is 0 for one that was never heard, and is expected. `held` is what it has said to hold of plugins and
    policy, None where it never did; `events` what it has said to wait of its events, by plugin. `retired` says why the
    operator has taken it out of the fleet, at `retired_at`.
    """

    name: str
    head: Head | None
    seen_at: int
    lag: int
    findings: int
    held: Held | None = None
    events: Mapping[str, str] = FrozenDict()
    retired_at: int | None = None
    retired: str = ""

    @property
    def is_retired(self) -> bool:
        """Whether it is in the fleet no more: it was retired, and not heard since."""
        return self.retired_at is not None and self.seen_at <= self.retired_at


@attrs.frozen
class Noted:
    """Something that was found wrong with a home's chain, and when (Unix ms)."""

    home: str
    kind: str
    record: int
    text: str
    at: int


class FleetStore(ABC):
    """The records of all homes, until `close`; used by one thread at a time. `open_store` opens one."""

    _begin: ClassVar[str] = "BEGIN"
    _holds: ClassVar[str] = "instr(content, ?) > 0"
    """Whether a content holds some bytes."""

    errors: tuple[type[Exception], ...]
    """What is raised while records cannot be kept or read: a full disk, a database that is away."""

    @abstractmethod
    def open_again(self) -> None:
        """Connect anew after one of the `errors`; what was added since `begin` is forgotten. Raises them."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Let go of the file, or of the connection."""

    @abstractmethod
    def _execute(self, query: str, params: Sequence[Any] = ()) -> Any:
        """Run a statement, with `?` for each parameter, and return a cursor."""

    @abstractmethod
    def _execute_many(self, query: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each row."""

    @abstractmethod
    def _is_in_transaction(self) -> bool: ...

    @abstractmethod
    def now_ms(self) -> int:
        """Return the time (Unix ms) that all go by who write and read these records, whatever their own clocks say."""

    # --- writing ---

    def head(self, home: str) -> Head | None:
        """Return how far a home's chain has come here."""
        row = self._execute("SELECT n, hash, chain FROM homes WHERE name = ? AND hash IS NOT NULL", (home,)).fetchone()
        return None if row is None else Head(row[0], bytes(row[1]), row[2])

    def hash_of(self, home: str, chain: str, n: int) -> bytes | None:
        """Return the hash of a record that is here."""
        query = "SELECT hash FROM records WHERE home = ? AND chain = ? AND n = ?"
        row = self._execute(query, (home, chain, n)).fetchone()
        return None if row is None else bytes(row[0])

    def begin(self) -> None:
        """Begin what `commit` brings to disk as a whole."""
        self._execute(self._begin)

    def commit(self) -> None:
        """Bring what was added since `begin` to disk."""
        self._execute("COMMIT")

    def roll_back(self) -> None:
        """Forget what was added since `begin`."""
        if self._is_in_transaction():
            self._execute("ROLLBACK")

    def add(self, home: str, head: Head, records: Iterable[ChainedRecord], at: int) -> None:
        """Add records of a home, which come to `head`."""
        rows = [(home, head.chain, *each) for each in records]
        self._execute_many("INSERT INTO records VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING", rows)
        self._execute(
            "INSERT INTO homes(name, chain, n, hash, seen_at) VALUES (?,?,?,?,?) ON CONFLICT(name) DO UPDATE SET "
            "chain = excluded.chain, n = excluded.n, hash = excluded.hash, seen_at = excluded.seen_at",
            (home, head.chain, head.n, head.hash, at),
        )

    def add_findings(self, home: str, chain: str, findings: Iterable[Problem], at: int) -> None:
        """Add what is wrong; what was found before stays as it was."""
        rows = [(home, chain, each.kind, each.record, each.text, at) for each in findings]
        query = "INSERT INTO findings(home, chain, kind, record, text, at) VALUES (?,?,?,?,?,?) ON CONFLICT DO NOTHING"
        self._execute_many(query, rows)

    def note_alive(
        self,
        home: str,
        said_n: int,
        at: int,
        held: Held | None = None,
        events: Mapping[str, str] = FrozenDict(),
    ) -> None:
        """Note that a home is there, how many records it says to have, what it holds, and which events wait there."""
        self._execute(
            "INSERT INTO homes(name, seen_at, said_n, held, events) VALUES (?,?,?,?,?) ON CONFLICT(name) DO UPDATE SET "
            "seen_at = excluded.seen_at, said_n = excluded.said_n, held = coalesce(excluded.held, homes.held), "
            "events = excluded.events",
            (
                home,
                at,
                said_n,
                None if held is None else orjson.dumps(held.to_data()).decode(),
                orjson.dumps({**events}).decode(),
            ),
        )

    def expect(self, homes: Iterable[str]) -> None:
        """Note homes that there should be."""
        self._execute_many("INSERT INTO homes(name, seen_at) VALUES (?, 0) ON CONFLICT DO NOTHING", [*zip(homes)])

    def retire(self, home: str, why: str | None) -> bool:
        """Note that a home is in the fleet no more, and why, or with None that it is again; False where there is none.

        It is one again where it is heard later.
        """
        at = None if why is None else self.now_ms()
        query = "UPDATE homes SET retired_at = ?, retired = ? WHERE name = ?"
        return bool(self._execute(query, (at, why, home)).rowcount)

    def remove(self, home: str, chain: str, last_n: int) -> int:
        """Remove the records of a chain up to one that is here, note that, and return how many they were."""
        hash_ = self.hash_of(home, chain, last_n)
        query = "DELETE FROM records WHERE home = ? AND chain = ? AND n <= ?"
        count: int = self._execute(query, (home, chain, last_n)).rowcount
        noted = (home, chain, last_n, hash_, count, self.now_ms())
        self._execute("INSERT INTO prunings(home, chain, n, hash, records, at) VALUES (?,?,?,?,?,?)", noted)
        return count

    # --- reading ---

    def homes(self) -> list[HomeState]:
        """Return how each home is, by name."""
        query = (
            "SELECT name, n, hash, chain, seen_at, CASE WHEN coalesce(said_n, 0) > n THEN said_n - n ELSE 0 END, "
            "(SELECT count(*) FROM findings WHERE home = name), held, events, retired_at, retired "
            "FROM homes ORDER BY name"
        )
        return [
            HomeState(
                name,
                None if hash_ is None else Head(n, bytes(hash_), chain),
                seen_at,
                lag,
                findings,
                None if held is None else Held.from_data(orjson.loads(held)),
                {} if events is None else orjson.loads(events),
                retired_at,
                retired or "",
            )
            for name, n, hash_, chain, seen_at, lag, findings, held, events, retired_at, retired in self._execute(query)
        ]

    def query(self, text: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a question, which has `?` for each parameter."""
        rows: list[tuple[Any, ...]] = self._execute(text, params).fetchall()
        return rows

    def findings(self, home: str | None = None) -> list[Noted]:
        """Return what was found wrong, the latest last."""
        where, params = ("", ()) if home is None else ("WHERE home = ?", (home,))
        query = f"SELECT home, kind, record, text, at FROM findings {where} ORDER BY id"  # noqa: S608 - constants
        return [Noted(*row) for row in self._execute(query, params)]

    def has_kind(self, kind: str) -> bool:
        """Say whether there is a record of a kind; for one that there is none of, all are looked at."""
        return bool(self.query("SELECT 1 FROM records WHERE kind = ? LIMIT 1", (kind,)))

    def without_content(self, **filters: Any) -> list[str]:
        """Return which homes have records without their content, as `records` filters them."""
        where, params = self._where(**filters)
        query = f"SELECT DISTINCT home FROM records WHERE {where} AND content IS NULL ORDER BY home"  # noqa: S608 - constants
        return [home for (home,) in self.query(query, params)]

    def records(
        self,
        *,
        home: str | None = None,
        kinds: Sequence[str] = (),
        since: int | None = None,
        limit: int | None = None,
        **filters: str | None,
    ) -> Iterator[tuple[str, StoredRecord]]:
        """Yield the last records of all homes, or of one, in order of time, with the home's name.

        `filters` are of plugin, names (see `JournalReader.records`), session_id and ref. Events and saved conversations
        come only where `kinds` names them.
        """
        where, params = self._where(home=home, kinds=kinds, since=since, **filters)
        columns = "home, n, at, kind, plugin, session_id, ref, key, content, hash"
        last = f"SELECT {columns} FROM records WHERE {where} ORDER BY at DESC, home DESC, n DESC"  # noqa: S608 - constants
        # A number, and no parameter: SQLite has another word for no limit than PostgreSQL.
        last = last if limit is None else f"{last} LIMIT {int(limit)}"
        query = f"SELECT * FROM ({last}) AS found ORDER BY at, home, n"  # noqa: S608 - constants
        with closing(self._execute(query, params)) as rows:
            for name, *row in rows:
                yield name, stored_record(row)

    def _where(
        self,
        *,
        home: str | None = None,
        kinds: Sequence[str] = (),
        since: int | None = None,
        names: str | None = None,
        **filters: str | None,
    ) -> tuple[str, list[Any]]:
        """Return the condition of a question for records, and its parameters."""
        where: list[str] = []
        params: list[Any] = []
        if names is not None:
            holds = " OR ".join([self._holds] * len(naming(names)))
            where.append(f"(plugin = ? OR (kind IN ('{DECISION}', 'transform') AND ({holds})))")
            params += [names, *(each.encode() for each in naming(names))]
        wanted: dict[str, Any] = {"home = ?": home, "at >= ?": since}
        wanted |= {f"{column} = ?": value for column, value in filters.items()}
        for text, value in wanted.items():
            if value is not None:
                where.append(text)
                params.append(value)
        chosen = kinds or (EVENTS, HISTORY)
        where.append(f"kind {'IN' if kinds else 'NOT IN'} ({','.join('?' * len(chosen))})")
        return " AND ".join(where), [*params, *chosen]


def stored_record(row: Sequence[Any]) -> StoredRecord:
    """Return a record as `audit` shows it, from n, at, kind, plugin, session_id, ref, key, content and hash.

    Who has published it may have sent anything: what is no JSON object is shown under `unreadable`.
    """
    n, at, kind, plugin, session_id, ref, key, content, hash_ = row
    data = None if content is None or kind == EVENTS else _object(content)
    return StoredRecord(n, at, kind, plugin, session_id, ref, key, data, bytes(hash_).hex())


def _object(content: bytes) -> dict[str, Any]:
    with suppress(orjson.JSONDecodeError):
        value = orjson.loads(content)
        if isinstance(value, dict):
            return value
    return {"unreadable": bytes(content).decode("utf-8", "replace")}


class SqliteStore(FleetStore):
    """A file of SQLite. Raises ConfigError for one that is none, or of another version."""

    # At once, since a transaction that began with reading cannot wait for another writer.
    _begin = "BEGIN IMMEDIATE"
    errors = (sqlite3.Error,)

    def __init__(self, path: Path, *, create: bool = False, writes: bool = False) -> None:
        self.path: Final = path
        try:
            if create:
                # Its owner's only from the beginning; another user's, or a pipe, in its place is refused.
                os.close(open_file(path, os.O_RDWR | os.O_CREAT))
            else:
                check_file(path, follow=True)
            uri = f"{path.absolute().as_uri()}?mode={'rw' if create or writes else 'ro'}"
            self._db: Final = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(
                f"the records of a fleet {str(path)!r} cannot be opened: {reason}", file=str(path)
            ) from error
        try:
            self._prepare(create=create)
        except sqlite3.Error as error:
            self._db.close()
            raise ConfigError(f"{str(path)!r} cannot be read as records of a fleet: {error}", file=str(path)) from error
        except BaseException:
            self._db.close()
            raise

    @override
    def open_again(self) -> None:
        """Do nothing but to forget what was begun: the file is open."""
        self.roll_back()

    @override
    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @override
    def now_ms(self) -> int:
        """Return this machine's time: a file is written and read on one."""
        return time.time_ns() // 1_000_000

    @override
    def _execute(self, query: str, params: Sequence[Any] = ()) -> Any:
        return self._db.execute(query, params)

    @override
    def _execute_many(self, query: str, rows: Sequence[Sequence[Any]]) -> None:
        self._db.executemany(query, rows)

    @override
    def _is_in_transaction(self) -> bool:
        return self._db.in_transaction

    def _prepare(self, *, create: bool) -> None:
        # A message is acknowledged, and may be removed at the server, when it is on disk here.
        self._db.execute("PRAGMA synchronous = FULL")
        if create:
            switch_to_wal(self._db)
            self._bring_up_to_date()
        application, version = self._marks()
        if (application, version) != (APPLICATION_ID, VERSION):
            what = f"is of version {version}, expected {VERSION}"
            what = what if application == APPLICATION_ID else "holds something else"
            text = f"{str(self.path)!r} {what}; expected a file of `fleet collect`, which brings older ones up to date"
            raise ConfigError(text, file=str(self.path))

    def _bring_up_to_date(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        # Within it: another process may have done this while the lock was waited for.
        application, version = self._marks()
        is_new = not self._db.execute("SELECT 1 FROM sqlite_master").fetchone()
        if is_new or (application == APPLICATION_ID and version < VERSION):
            for statement in statements_after(0 if is_new else version):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        self._db.execute("COMMIT")

    def _marks(self) -> tuple[int, int]:
        application, version = (
            int(self._db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("application_id", "user_version")
        )
        return application, version


class PostgresStore(FleetStore):
    """A database of PostgreSQL, by its URL. Raises ConfigError where it cannot be had, or is of another version.

    The tables lie in the first schema of the connection's search path; another role may be let read them.
    """

    _holds = "position(? in content) > 0"

    def __init__(self, url: str, *, create: bool = False) -> None:
        try:
            import psycopg
        except ImportError:
            text = "records of a fleet in PostgreSQL need the package psycopg: pip install 'ally-plugins[postgres]'"
            raise ConfigError(text, path=_shown(url)) from None
        self.url: Final = url
        self.errors = (psycopg.Error,)
        try:
            self._db = self._connect()
            try:
                self._prepare(create=create)
            except BaseException:
                self._db.close()
                raise
        except psycopg.Error as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            text = f"the records of a fleet {_shown(url)!r} cannot be opened: {reason}"
            raise ConfigError(text, path="--into") from error

    def _connect(self) -> Connection[Any]:
        import psycopg

        # Every reader and writer here begins its transactions itself. A commit waits for the disk, whatever the server
        # does by default: a message is removed at the server of the fleet once it is acknowledged.
        # UTF-8 is said, since a database of no encoding (SQL_ASCII) would answer in bytes.
        options = "-c synchronous_commit=on -c client_encoding=UTF8"
        return psycopg.connect(self.url, autocommit=True, options=options)

    @override
    def open_again(self) -> None:
        """Connect anew."""
        self._db.close()
        self._db = self._connect()

    def _prepare(self, *, create: bool) -> None:
        if create and self._said() != COMMENTS[-1]:
            self._bring_up_to_date()
        if (said := self._said()) != COMMENTS[-1]:
            what = "holds no records of a fleet" if said is None else f"is of another version: {said!r}"
            text = f"the database {_shown(self.url)!r} {what}; expected {COMMENTS[-1]!r}, which `fleet collect` makes"
            raise ConfigError(text, path="--into")

    def _said(self) -> str | None:
        """Return what stands at the table of records; None where there is none, or nothing."""
        found: str | None = self._execute("SELECT obj_description(to_regclass('records'), 'pg_class')").fetchone()[0]
        return found

    def _bring_up_to_date(self) -> None:
        self._execute("BEGIN")
        self._execute("SELECT pg_advisory_xact_lock(?)", (APPLICATION_ID,))
        # After it: another process may have done this while the lock was waited for.
        said = self._said()
        is_new = said is None and self._execute("SELECT to_regclass('records') IS NULL").fetchone()[0]
        if is_new or said in COMMENTS[:-1]:
            for statement in statements_after(0 if said is None else COMMENTS.index(said) + 1):
                self._execute(in_postgres(statement))
            self._execute(f"COMMENT ON TABLE records IS '{COMMENTS[-1]}'")
        self._execute("COMMIT")

    @override
    def close(self) -> None:
        """Let go of the connection."""
        self._db.close()

    @override
    def now_ms(self) -> int:
        """Return the database's time: a reader's clock, an hour ahead, would take every home for silent."""
        now: int = self._execute("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint").fetchone()[0]
        return now

    @override
    def _execute(self, query: str, params: Sequence[Any] = ()) -> Any:
        return self._db.execute(_placed(query), params)

    @override
    def _execute_many(self, query: str, rows: Sequence[Sequence[Any]]) -> None:
        with self._db.cursor() as cursor:
            cursor.executemany(_placed(query), rows)

    @override
    def _is_in_transaction(self) -> bool:
        return self._db.info.transaction_status.name != "IDLE"


def _placed(query: str) -> bytes:
    """Return a statement with its parameters as psycopg places them; ours are constants, and none has a `%`."""
    return query.replace("?", "%s").encode()


def _shown(url: str) -> str:
    """Return a URL without what it says of passwords and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


def is_url(where: str) -> bool:
    """Say whether the records lie in a database, by how its place is written."""
    return where.startswith(("postgresql://", "postgres://"))


def open_store(where: str, *, create: bool = False, writes: bool = False) -> FleetStore:
    """Open the records of a fleet: a file, or a database by its URL.

    `create` makes them where there are none, `writes` changes those that there are, and else they are read.
    Raises ConfigError. A URL with a password in it is refused: command lines are seen by others.
    """
    if not is_url(where):
        return SqliteStore(Path(where), create=create, writes=writes)
    parts = urlsplit(where)
    if parts.password or "password" in parts.query:
        text = "a command line is seen by others, and this URL has a password; put that in ~/.pgpass or PGPASSWORD"
        raise ConfigError(text, path="--into")
    return PostgresStore(where, create=create)
