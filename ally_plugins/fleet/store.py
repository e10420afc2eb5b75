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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self
from urllib.parse import urlsplit

import attrs
import orjson

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.journal.chain import Head
from ally_plugins.journal.owned_files import check_file, open_file
from ally_plugins.journal.reader import naming
from ally_plugins.journal.values import DECISION, EVENTS, HISTORY, StoredRecord

from .batches import Held

if TYPE_CHECKING:
    from psycopg import Connection

    from ally_plugins.journal.audit import Problem
    from ally_plugins.journal.values import ChainedRecord

__all__ = ["FleetStore", "HomeState", "Noted", "open_store", "stored_record"]

_APPLICATION_ID: Final = 0x416C6C66  # "Allf", beside the journal's "Ally"
_VERSION: Final = 2
_COMMENTS: Final = tuple(f"records of a fleet of ally-plugins, version {number}" for number in (1, _VERSION))
_TABLES: Final = (
    """CREATE TABLE homes(
        name TEXT PRIMARY KEY, chain TEXT, n BIGINT NOT NULL DEFAULT 0, hash BLOB, seen_at BIGINT NOT NULL,
        said_n BIGINT) WITHOUT ROWID""",
    # Not WITHOUT ROWID, as it was in version 1: there SQLite gives a row of a KiB a page of its own.
    """CREATE TABLE records(
        home TEXT NOT NULL, chain TEXT NOT NULL, n BIGINT NOT NULL, at BIGINT NOT NULL, kind TEXT NOT NULL,
        plugin TEXT, session_id TEXT, ref TEXT, key TEXT, digest BLOB NOT NULL, hash BLOB NOT NULL, content BLOB,
        PRIMARY KEY (home, chain, n))""",
    "CREATE INDEX records_by_time ON records(at)",
    "CREATE INDEX records_by_ref ON records(ref) WHERE ref IS NOT NULL",
    """CREATE TABLE findings(
        id INTEGER PRIMARY KEY, home TEXT NOT NULL, chain TEXT NOT NULL, kind TEXT NOT NULL, record BIGINT NOT NULL,
        text TEXT NOT NULL, at BIGINT NOT NULL, UNIQUE (home, chain, kind, record))""",
)
"""In SQLite's words; see `PostgresStore` for the other's. They are those of version 1."""

_TO_VERSION_2: Final = (
    "ALTER TABLE homes ADD COLUMN held TEXT",
    "CREATE INDEX events_by_session ON records(session_id) WHERE kind = 'events'",
)


@attrs.frozen
class HomeState:
    """How one home is. Times are in Unix ms; `lag` is how many records it has said to have beyond those here.

    `held` is what it has said to hold of plugins and policy; None where it never did.
    """

    name: str
    head: Head | None
    seen_at: int
    lag: int
    findings: int
    held: Held | None = None


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

    def note_alive(self, home: str, said_n: int, at: int, held: Held | None = None) -> None:
        """Note that a home is there, how many records it says to have, and what it holds where it says that."""
        self._execute(
            "INSERT INTO homes(name, seen_at, said_n, held) VALUES (?,?,?,?) ON CONFLICT(name) DO UPDATE SET "
            "seen_at = excluded.seen_at, said_n = excluded.said_n, held = coalesce(excluded.held, homes.held)",
            (home, at, said_n, None if held is None else orjson.dumps(held.to_data()).decode()),
        )

    # --- reading ---

    def homes(self) -> list[HomeState]:
        """Return how each home is, by name."""
        query = (
            "SELECT name, n, hash, chain, seen_at, CASE WHEN coalesce(said_n, 0) > n THEN said_n - n ELSE 0 END, "
            "(SELECT count(*) FROM findings WHERE home = name), held FROM homes ORDER BY name"
        )
        return [
            HomeState(
                name,
                None if hash_ is None else Head(n, bytes(hash_), chain),
                seen_at,
                lag,
                findings,
                None if held is None else Held.from_data(orjson.loads(held)),
            )
            for name, n, hash_, chain, seen_at, lag, findings, held in self._execute(query)
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
        where: list[str] = []
        params: list[Any] = []
        wanted: dict[str, Any] = {"home = ?": home, "at >= ?": since}
        if (names := filters.pop("names", None)) is not None:
            holds = " OR ".join([self._holds] * len(naming(names)))
            where.append(f"(plugin = ? OR (kind IN ('{DECISION}', 'transform') AND ({holds})))")
            params += [names, *(each.encode() for each in naming(names))]
        wanted |= {f"{column} = ?": value for column, value in filters.items()}
        for text, value in wanted.items():
            if value is not None:
                where.append(text)
                params.append(value)
        chosen = kinds or (EVENTS, HISTORY)
        where.append(f"kind {'IN' if kinds else 'NOT IN'} ({','.join('?' * len(chosen))})")
        columns = "home, n, at, kind, plugin, session_id, ref, key, content, hash"
        last = f"SELECT {columns} FROM records WHERE {' AND '.join(where)} ORDER BY at DESC, home DESC, n DESC"  # noqa: S608 - constants
        # A number, and no parameter: SQLite has another word for no limit than PostgreSQL.
        last = last if limit is None else f"{last} LIMIT {int(limit)}"
        query = f"SELECT * FROM ({last}) AS found ORDER BY at, home, n"  # noqa: S608 - constants
        with closing(self._execute(query, (*params, *chosen))) as rows:
            for name, *row in rows:
                yield name, stored_record(row)


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

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path: Final = path
        try:
            if create:
                # Its owner's only from the beginning; another user's, or a pipe, in its place is refused.
                os.close(open_file(path, os.O_RDWR | os.O_CREAT))
            else:
                check_file(path, follow=True)
            uri = f"{path.absolute().as_uri()}?mode={'rw' if create else 'ro'}"
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
        if create:
            self._db.execute("PRAGMA journal_mode = WAL")
            # A message is acknowledged, and may be removed at the server, when it is on disk here.
            self._db.execute("PRAGMA synchronous = FULL")
            if not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                self._make((*_TABLES, f"PRAGMA application_id = {_APPLICATION_ID}", "PRAGMA user_version = 1"))
            if self._marks() == (_APPLICATION_ID, 1):
                self._make((*_TO_VERSION_2, f"PRAGMA user_version = {_VERSION}"))
        application, version = self._marks()
        if (application, version) != (_APPLICATION_ID, _VERSION):
            what = f"is of version {version}, expected {_VERSION}"
            what = what if application == _APPLICATION_ID else "holds something else"
            text = f"{str(self.path)!r} {what}; expected a file of `fleet collect`, which brings older ones up to date"
            raise ConfigError(text, file=str(self.path))

    def _make(self, statements: Iterable[str]) -> None:
        for statement in ("BEGIN IMMEDIATE", *statements, "COMMIT"):
            self._db.execute(statement)

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
        query = "SELECT obj_description(to_regclass('records'), 'pg_class')"
        found = self._execute(query).fetchone()[0]
        if found is None and create and self._execute("SELECT to_regclass('records') IS NULL").fetchone()[0]:
            found = self._make(_TABLES, _COMMENTS[0])
        if found == _COMMENTS[0] and create:
            found = self._make(_TO_VERSION_2, _COMMENTS[-1])
        if found != _COMMENTS[-1]:
            what = "holds no records of a fleet" if found is None else f"is of another version: {found!r}"
            text = f"the database {_shown(self.url)!r} {what}; expected {_COMMENTS[-1]!r}, which `fleet collect` makes"
            raise ConfigError(text, path="--into")

    def _make(self, statements: Iterable[str], comment: str) -> str:
        self._execute("BEGIN")
        for statement in statements:
            self._execute(_in_postgres(statement))
        self._execute(f"COMMENT ON TABLE records IS '{comment}'")
        self._execute("COMMIT")
        return comment

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


def _in_postgres(statement: str) -> str:
    words = {"BLOB": "BYTEA", " WITHOUT ROWID": "", "id INTEGER PRIMARY KEY": "id BIGSERIAL PRIMARY KEY"}
    for ours, theirs in words.items():
        statement = statement.replace(ours, theirs)
    return statement


def _shown(url: str) -> str:
    """Return a URL without what it says of passwords and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


def is_url(where: str) -> bool:
    """Say whether the records lie in a database, by how its place is written."""
    return where.startswith(("postgresql://", "postgres://"))


def open_store(where: str, *, create: bool = False) -> FleetStore:
    """Open the records of a fleet: a file, or a database by its URL; `create` makes them where there are none.

    Raises ConfigError. A URL with a password in it is refused: command lines are seen by others.
    """
    if not is_url(where):
        return SqliteStore(Path(where), create=create)
    parts = urlsplit(where)
    if parts.password or "password" in parts.query:
        text = "a command line is seen by others, and this URL has a password; put that in ~/.pgpass or PGPASSWORD"
        raise ConfigError(text, path="--into")
    return PostgresStore(where, create=create)
