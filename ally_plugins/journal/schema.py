"""The journal's file: its tables, how it is opened, and SQLite's errors as texts for an operator."""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from ally_plugins.contract.values.errors import JournalError

from .migrations import VERSION, check_version, migrate, run_steps, version_of
from .owned_files import check_file

__all__ = [
    "BOOKMARK",
    "BUSY_TIMEOUT_S",
    "IN_FORK",
    "connect",
    "connect_read_only",
    "describe_error",
    "is_in_memory",
    "new_memory_path",
    "read_chain_id",
    "switch_to_wal",
]

# How long a writer waits for another host's batch; SQLite's own default in Python, and what most programs use.
BUSY_TIMEOUT_S: Final = 5.0
BOOKMARK: Final = "bookmark:"  # before the name of a bookmark in `meta`; older versions leave such rows alone
IN_FORK: Final = "the journal {!r} was opened by the process of which this one is a fork; open it anew here"
_APPLICATION_ID: Final = 0x416C6C79  # "Ally": file(1) and `connect` tell a journal from other SQLite files
_MEMORY: Final = Path(":memory:")
_STATEMENT_CACHE: Final = 64  # the sixteen inserts of `store`, which are long, and all else that it executes
_BESIDE: Final = ("-wal", "-shm", "-journal")

# Those of version 1; what came later is in `migrations`. No STRICT, no RETURNING: Python 3.11 is found with SQLite
# 3.34. `state` is NULL for what is not a message.
_TABLES: Final = (
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE records(
        n INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, plugin TEXT, session_id TEXT, ref TEXT,
        key TEXT, data, digest BLOB NOT NULL, hash BLOB NOT NULL, state TEXT, settled_at INTEGER)""",
    "CREATE INDEX records_by_ref ON records(ref) WHERE ref IS NOT NULL",
    "CREATE INDEX messages_pending ON records(session_id, n) WHERE state = 'pending'",
    "CREATE INDEX events_by_session ON records(session_id, n) WHERE kind = 'events'",
)


def new_memory_path() -> Path:
    """Return what stands for the path of a journal that is in the memory of this process alone."""
    return _MEMORY / f"ally-{secrets.token_hex(8)}"


def is_in_memory(path: Path) -> bool:
    """Say whether a path stands for a journal in memory, which is no file."""
    return path.parent == _MEMORY


def _uri(path: Path, mode: str) -> str:
    # All connections of a process to one name share a database in memory, which ends with the last of them.
    return f"file:{path.name}?mode=memory&cache=shared" if is_in_memory(path) else f"{path.absolute().as_uri()}?{mode}"


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """Open the journal for writing. Creates it, readable by its owner only, when it is not there and `create` says so.

    One of an older version is brought to today's first. Raises sqlite3.Error or OSError as they come (see
    `describe_error`), JournalError when the file is no journal, or one that this program cannot write.
    """
    check_files(path)
    if create and not is_in_memory(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # one that is there stays closed: its locks would go with the descriptor
            # By the target's name: through a link O_EXCL makes nothing.
            os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    connection = _try_connect(path, create=create)
    if connection is None:
        migrate(path, BUSY_TIMEOUT_S)
        connection = _try_connect(path, create=False)
    if connection is None:
        raise JournalError(f"the journal {str(path)!r} was replaced while it was migrated; try again")
    return connection


def _try_connect(path: Path, *, create: bool) -> sqlite3.Connection | None:
    """Open the journal for writing; None when it is of an older version."""
    connection = sqlite3.connect(
        _uri(path, "mode=rw"),
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,  # Python begins no transaction: a batch is one statement, or begins its own
        check_same_thread=False,  # opened in the caller's thread, used in the writer's
        cached_statements=_STATEMENT_CACHE,
    )
    try:
        if _prepare(connection, path, create=create):
            return connection
    except BaseException:
        connection.close()
        raise
    # Here, since `migrate` waits until nobody has the file open.
    connection.close()
    return None


def check_files(path: Path, *, is_own: bool = True) -> None:
    """Check every file that SQLite would open. Raises JournalError for one that is no regular file, or not this user's.

    SQLite would block on a pipe. The journal may be a link, to a disk with more room; its -wal and the like may not.
    """
    if is_in_memory(path):
        return
    real = Path(os.path.realpath(path))
    for file in (path, *(real.with_name(real.name + suffix) for suffix in _BESIDE)):
        try:
            check_file(file, follow=file is path, is_own=is_own)
        except OSError as error:
            reason = error.strerror or str(error)
            raise JournalError(f"the journal's file {str(file)!r} cannot be used: {reason}") from error


def _prepare(connection: sqlite3.Connection, path: Path, *, create: bool) -> bool:
    """Set up a connection and the tables of a new journal; return False when the journal is of an older version."""
    # Before BEGIN: within a transaction the mode stays as it is.
    switch_to_wal(connection)
    # In WAL mode the default of many builds loses the last commits with the power; we answer for what we accepted.
    connection.execute(f"PRAGMA synchronous = {'OFF' if is_in_memory(path) else 'FULL'}")
    # Otherwise a WAL that one large batch has made keeps its size for ever.
    connection.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
    # The write lock at once: two that read first and then both want to write would fail as busy without waiting.
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _create_or_check(connection, path, create=create)
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return version == VERSION


def switch_to_wal(connection: sqlite3.Connection) -> None:
    """Have a file written through a log. Blocks while another process does so: SQLite does not wait for this lock."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # The low byte is the primary code.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _create_or_check(connection: sqlite3.Connection, path: Path, *, create: bool) -> int:
    """Create the tables where there are none; return the version."""
    if version_of(connection) == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        if not create:
            raise JournalError(f"the journal {str(path)!r} was emptied while it was in use; restore it")
        _create(connection)
    _check_kind(connection, path)
    return version_of(connection)


def _create(connection: sqlite3.Connection) -> None:
    for statement in _TABLES:
        connection.execute(statement)
    run_steps(connection, 1)
    connection.execute("INSERT INTO meta VALUES ('chain', ?)", (secrets.token_hex(16),))
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open the journal for reading only; another process may write it meanwhile.

    One of an older version is read as it is. Raises JournalError.
    """
    check_files(path, is_own=False)
    try:
        return _try_read_only(_uri(path, "mode=ro"), path)
    except sqlite3.OperationalError as error:
        # In a folder that cannot be written, a WAL database without a WAL can be read as immutable only. The WAL of a
        # linked journal lies beside the file itself.
        if path.exists() and not Path(os.path.realpath(path) + "-wal").exists():
            with suppress(sqlite3.Error):
                return _try_read_only(_uri(path, "mode=ro&immutable=1"), path)
        raise JournalError(describe_error(error, path)) from error
    except sqlite3.Error as error:
        raise JournalError(describe_error(error, path)) from error


def _try_read_only(uri: str, path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        if is_in_memory(path):
            # The address of a database in memory has no read-only form.
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA read_uncommitted = ON")  # or it and the writer would refuse one another
        _check_kind(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_kind(connection: sqlite3.Connection, path: Path) -> None:
    """Raise JournalError unless the file is a journal of a version that is known."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise JournalError(f"{str(path)!r} is an SQLite file, but not a journal; move it away")
    check_version(version_of(connection), path)


def read_chain_id(connection: sqlite3.Connection) -> str:
    """Return the chain's id. Raises JournalError when the journal has none."""
    with closing(connection.execute("SELECT value FROM meta WHERE name = 'chain'")) as rows:
        row = rows.fetchone()
    if row is None:
        raise JournalError("the journal has lost its chain id; restore it from a backup")
    return str(row[0])


def describe_error(error: Exception, path: Path) -> str:
    """Return what an error means for the journal at `path`, and what the operator can do about it."""
    where = repr(str(path))
    name = getattr(error, "sqlite_errorname", "") or ""
    if isinstance(error, JournalError):
        return str(error)
    for prefix, text in _ERROR_TEXTS.items():
        # By prefix: extended codes, such as SQLITE_IOERR_WRITE, begin as their primary one.
        if name.startswith(prefix):
            return text.format(where)
    if isinstance(error, PermissionError):
        return _ERROR_TEXTS["SQLITE_READONLY"].format(where)
    return f"the journal {where} cannot be written: {str(error) or type(error).__name__}"


_ERROR_TEXTS: Final = {
    "SQLITE_FULL": "the disk that holds the journal {} is full; make room, and the journal goes on by itself",
    "SQLITE_READONLY": "the journal {} cannot be written; give its file and folder back to this user",
    "SQLITE_CANTOPEN": "the journal {} cannot be opened; check that its file and folder exist and belong to this user",
    "SQLITE_BUSY": f"the journal {{}} was locked for more than {BUSY_TIMEOUT_S:g} s by another program; end that one",
    "SQLITE_IOERR": "the disk that holds the journal {} fails; when it works again, the journal goes on by itself",
    "SQLITE_CORRUPT": "the journal {} is damaged; see `ally-plugins audit verify`, then restore it or move it away",
    "SQLITE_NOTADB": "{} is not a journal, or its first page is damaged; restore it or move it away",
}
