"""The versions of the journal's file, and how one of an older version becomes one of today's.

The steps run in order and in one transaction, while no other program has the file open: what an older one went on
writing, they would not have seen. A copy of the file lies beside it until they have succeeded.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import frozen

from ally_plugins.contract.values.errors import JournalError, JournalVersionError

__all__ = ["MIGRATIONS", "VERSION", "Migration", "check_version", "migrate", "run_steps", "version_of"]

_log: Final = logging.getLogger(__name__)

_RETRY_S: Final = 0.02  # SQLite does not wait for this lock, so we do


@frozen
class Migration:
    """What makes a journal of the version before one of `version`. Hashed columns and contents stay as they are."""

    version: int
    statements: tuple[str, ...]


MIGRATIONS: Final = (
    # Events have the names of `on_event`: the older ones are converted as they are read (`version_1`). A program of
    # version 1 would skip the new ones for durable subscriptions.
    Migration(2, ()),
    # Some journals of version 2 have been written without the first index, some with the second one already.
    Migration(
        3,
        (
            "CREATE INDEX IF NOT EXISTS history_by_session ON records(session_id, n, ref, at) WHERE kind = 'history'",
            # A key was a plugin's for all its sessions; what held for all of them holds for each.
            "DROP INDEX IF EXISTS messages_by_key",
            """CREATE UNIQUE INDEX IF NOT EXISTS messages_by_session_key
                ON records(plugin, session_id, key) WHERE key IS NOT NULL""",
        ),
    ),
    # Which host has a session. A program of version 3 would write for sessions that are another host's.
    Migration(
        4,
        (
            """CREATE TABLE leases(
                session_id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,
                started INTEGER, boot TEXT, namespace TEXT, beat INTEGER NOT NULL) WITHOUT ROWID""",
        ),
    ),
)
"""All steps, in order. A new journal takes them too, from the tables of version 1, so that it equals a migrated one."""

VERSION: Final = MIGRATIONS[-1].version


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of a journal; 0 for a file in which nothing was created yet."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check_version(version: int, path: Path) -> None:
    """Raise JournalVersionError, with the way out, unless a journal of this version can be read."""
    if version > VERSION:
        raise JournalVersionError(
            f"the journal {str(path)!r} has version {version}, written by a newer ally-plugins; this one knows "
            f"{VERSION}: upgrade with `pip install -U ally-plugins`"
        )
    if version < 1:
        raise JournalVersionError(
            f"the journal {str(path)!r} has version {version}, which no ally-plugins has written; restore it from a "
            f"backup, or move it away with its audit.head"
        )


def run_steps(connection: sqlite3.Connection, version: int) -> None:
    """Run what follows `version`, in the transaction that is open."""
    for step in MIGRATIONS:
        if step.version > version:
            for statement in step.statements:
                connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def migrate(path: Path, wait_s: float) -> None:
    """Bring a journal to today's version; nothing is done when another program has just done it.

    Waits `wait_s` seconds at most for others to close the file. Raises JournalError when they do not, or when a step
    fails, sqlite3.Error and OSError when there is no room for the copy; the journal is then as it was.
    """
    # SQLite keeps its log beside the file itself, not beside a link to it; the copy belongs there, too.
    real = Path(os.path.realpath(path))
    with _opened_alone(real, wait_s) as connection:
        version = version_of(connection)
        check_version(version, path)
        if version == VERSION:
            return
        copy = real.with_name(f"{real.name}.version-{version}")
        _copy(connection, copy)
        _migrate(connection, version, f"{str(path)!r} cannot be brought from version {version} to {VERSION}", copy)
        is_whole = _is_written_back(connection)
    if is_whole:
        copy.unlink()
    else:
        _log.warning(
            "the journal %r is of version %d now, and part of it is in the log beside it: the copy %r stays; remove it "
            "once a host has run",
            str(path), VERSION, str(copy),
        )  # fmt: skip


def _migrate(connection: sqlite3.Connection, version: int, failed: str, copy: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        _run_checked(connection, version)
        connection.execute("COMMIT")
    except (sqlite3.Error, JournalError) as error:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise JournalError(
            f"the journal {failed}: {error}; it is as it was, a copy is {str(copy)!r}; go on with the version of "
            "ally-plugins that has written it"
        ) from error


def _is_written_back(connection: sqlite3.Connection) -> bool:
    """Write what was committed into the file itself, and say whether all of it is there now.

    The copy is removed then, and not before: a log that is lost would take the rest along.
    """
    try:
        is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error:  # no room for it, or a disk that fails: committed it is all the same
        return False
    return not is_busy


def _run_checked(connection: sqlite3.Connection, version: int) -> None:
    before = _chain(connection)
    run_steps(connection, version)
    if _chain(connection) != before:
        raise JournalError("the audit chain is not the one that was there before")


def _chain(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    """Return what no step may change: the chain's name, how many records it has, and the last of them."""
    query = "SELECT value, (SELECT count(*) FROM records), n, hash FROM meta LEFT JOIN records WHERE name = 'chain' "
    return connection.execute(f"{query} ORDER BY n DESC LIMIT 1").fetchall()


@contextmanager
def _opened_alone(real: Path, wait_s: float) -> Generator[sqlite3.Connection]:
    deadline = time.monotonic() + wait_s
    while True:
        # Never `rwc`: a file that went away meanwhile would be replaced by an empty one.
        uri = f"{real.as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as connection:
            if _is_alone(connection):
                yield connection
                return
        if time.monotonic() > deadline:
            raise JournalError(
                f"the journal {str(real)!r} must be brought to version {VERSION}, and another program has it open; end "
                "the hosts of this home, then start again"
            )
        time.sleep(_RETRY_S)


def _is_alone(connection: sqlite3.Connection) -> bool:
    """Take a lock on the file that ends with the connection; return False when somebody else has the file open."""
    # SQLite takes this lock at the next read, and keeps it until the connection is closed.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        # The low byte is the primary code: SQLITE_BUSY_RECOVERY and the like are busy, too.
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


def _copy(connection: sqlite3.Connection, copy: Path) -> None:
    """Copy the journal, readable by its owner only. A copy that is there is replaced once this one is whole."""
    new = copy.with_name(f"{copy.name}.new")
    new.unlink(missing_ok=True)
    try:
        # Made here, since SQLite would make it with the bits that the umask leaves.
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(new)) as target:
            connection.backup(target)
        # Only now: a copy that was broken off must not take the place of a whole one.
        new.replace(copy)
    finally:
        # After a success too: `new` has another name by then, and what SQLite left beside it is nobody's.
        for file in _with_companions(new):
            file.unlink(missing_ok=True)


def _with_companions(file: Path) -> Iterable[Path]:
    return (file, *(file.with_name(file.name + suffix) for suffix in ("-wal", "-shm", "-journal")))
