"""The one file of all homes' records: SQLite, written by one collector and read by whoever asks.

A record is kept as its home sent it, with the hash, so that the chain can be verified again from here. What was found
wrong is kept beside it and never removed: a home whose chain broke once stays marked.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, Self

import attrs
import orjson

from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.journal.chain import Head
from ally_plugins.journal.owned_files import check_file, open_file
from ally_plugins.journal.values import EVENTS, HISTORY, StoredRecord

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.journal.audit import Problem
    from ally_plugins.journal.values import ChainedRecord

__all__ = ["FleetStore", "HomeState", "Noted"]

_APPLICATION_ID: Final = 0x416C6C66  # "Allf", beside the journal's "Ally"
_VERSION: Final = 1
_TABLES: Final = (
    """CREATE TABLE homes(
        name TEXT PRIMARY KEY, chain TEXT, n INTEGER NOT NULL DEFAULT 0, hash BLOB, seen_at INTEGER NOT NULL,
        said_n INTEGER) WITHOUT ROWID""",
    """CREATE TABLE records(
        home TEXT NOT NULL, chain TEXT NOT NULL, n INTEGER NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL,
        plugin TEXT, session_id TEXT, ref TEXT, key TEXT, digest BLOB NOT NULL, hash BLOB NOT NULL, content BLOB,
        PRIMARY KEY (home, chain, n)) WITHOUT ROWID""",
    "CREATE INDEX records_by_time ON records(at)",
    "CREATE INDEX records_by_ref ON records(ref) WHERE ref IS NOT NULL",
    """CREATE TABLE findings(
        id INTEGER PRIMARY KEY, home TEXT NOT NULL, chain TEXT NOT NULL, kind TEXT NOT NULL, record INTEGER NOT NULL,
        text TEXT NOT NULL, at INTEGER NOT NULL, UNIQUE (home, chain, kind, record))""",
)


@attrs.frozen
class HomeState:
    """How one home is. Times are in Unix ms; `lag` is how many records it has said to have beyond those here."""

    name: str
    head: Head | None
    seen_at: int
    lag: int
    findings: int


@attrs.frozen
class Noted:
    """Something that was found wrong with a home's chain, and when (Unix ms)."""

    home: str
    kind: str
    record: int
    text: str
    at: int


class FleetStore:
    """The file. Lives until `close`; used by one thread at a time.

    Raises ConfigError for a file that is none, or of another version.
    """

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

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _prepare(self, *, create: bool) -> None:
        if create:
            self._db.execute("PRAGMA journal_mode = WAL")
            # A message is acknowledged, and may be removed at the server, when it is on disk here.
            self._db.execute("PRAGMA synchronous = FULL")
            if not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in ("BEGIN IMMEDIATE", *_TABLES):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version = {_VERSION}")
                self._db.execute("COMMIT")
        for name, expected in (("application_id", _APPLICATION_ID), ("user_version", _VERSION)):
            found = self._db.execute(f"PRAGMA {name}").fetchone()[0]
            if found != expected:
                what = (
                    f"is of version {found}, expected {_VERSION}" if name == "user_version" else "holds something else"
                )
                raise ConfigError(f"{str(self.path)!r} {what}; expected a file of `fleet collect`", file=str(self.path))

    # --- writing ---

    def head(self, home: str) -> Head | None:
        """Return how far a home's chain has come here."""
        row = self._db.execute(
            "SELECT n, hash, chain FROM homes WHERE name = ? AND hash IS NOT NULL", (home,)
        ).fetchone()
        return None if row is None else Head(*row)

    def hash_of(self, home: str, chain: str, n: int) -> bytes | None:
        """Return the hash of a record that is here."""
        query = "SELECT hash FROM records WHERE home = ? AND chain = ? AND n = ?"
        row = self._db.execute(query, (home, chain, n)).fetchone()
        return None if row is None else bytes(row[0])

    def begin(self) -> None:
        """Begin what `commit` brings to disk as a whole."""
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Bring what was added since `begin` to disk."""
        self._db.execute("COMMIT")

    def roll_back(self) -> None:
        """Forget what was added since `begin`."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def add(self, home: str, head: Head, records: Iterable[ChainedRecord], at: int) -> None:
        """Add records of a home, which come to `head`."""
        rows = [(home, head.chain, *each) for each in records]
        self._db.executemany("INSERT OR IGNORE INTO records VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", rows)
        self._db.execute(
            "INSERT INTO homes(name, chain, n, hash, seen_at) VALUES (?,?,?,?,?) ON CONFLICT(name) DO UPDATE SET "
            "chain = excluded.chain, n = excluded.n, hash = excluded.hash, seen_at = excluded.seen_at",
            (home, head.chain, head.n, head.hash, at),
        )

    def add_findings(self, home: str, chain: str, findings: Iterable[Problem], at: int) -> None:
        """Add what is wrong; what was found before stays as it was."""
        rows = [(home, chain, each.kind, each.record, each.text, at) for each in findings]
        query = "INSERT OR IGNORE INTO findings(home, chain, kind, record, text, at) VALUES (?,?,?,?,?,?)"
        self._db.executemany(query, rows)

    def note_alive(self, home: str, said_n: int, at: int) -> None:
        """Note that a home is there, and how many records it says to have."""
        self._db.execute(
            "INSERT INTO homes(name, seen_at, said_n) VALUES (?,?,?) ON CONFLICT(name) DO UPDATE SET "
            "seen_at = excluded.seen_at, said_n = excluded.said_n",
            (home, at, said_n),
        )

    # --- reading ---

    def homes(self) -> list[HomeState]:
        """Return how each home is, by name."""
        query = (
            "SELECT name, n, hash, chain, seen_at, max(coalesce(said_n, 0) - n, 0), "
            "(SELECT count(*) FROM findings WHERE home = name) FROM homes ORDER BY name"
        )
        return [
            HomeState(name, None if hash_ is None else Head(n, hash_, chain), seen_at, lag, findings)
            for name, n, hash_, chain, seen_at, lag, findings in self._db.execute(query)
        ]

    def findings(self, home: str | None = None) -> list[Noted]:
        """Return what was found wrong, the latest last."""
        query = "SELECT home, kind, record, text, at FROM findings WHERE ? IS NULL OR home = ? ORDER BY id"
        return [Noted(*row) for row in self._db.execute(query, (home, home))]

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

        `filters` are of plugin, session_id and ref. Events and saved conversations come only where `kinds` names them.
        """
        wanted: dict[str, Any] = {"home = ?": home, "at >= ?": since}
        wanted |= {f"{column} = ?": value for column, value in filters.items()}
        where, params = [], []
        for text, value in wanted.items():
            if value is not None:
                where.append(text)
                params.append(value)
        chosen = kinds or (EVENTS, HISTORY)
        where.append(f"kind {'IN' if kinds else 'NOT IN'} ({','.join('?' * len(chosen))})")
        columns = "home, n, at, kind, plugin, session_id, ref, key, content, hash"
        last = f"SELECT {columns} FROM records WHERE {' AND '.join(where)} ORDER BY at DESC, home DESC, n DESC LIMIT ?"  # noqa: S608 - constants
        query = f"SELECT * FROM ({last}) ORDER BY at, home, n"  # noqa: S608 - constants
        with closing(self._db.execute(query, (*params, *chosen, -1 if limit is None else limit))) as rows:
            for name, n, at, kind, plugin, session_id, ref, key, content, hash_ in rows:
                data = None if content is None or kind == EVENTS else orjson.loads(content)
                yield name, StoredRecord(n, at, kind, plugin, session_id, ref, key, data, hash_.hex())
