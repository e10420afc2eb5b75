"""The notes on disk: one SQLite file, which several hosts on one home may use at once.

Each call opens the file anew: they are few, and come from any thread.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["FullError", "Note", "Notes", "version_of"]

EVERYWHERE: Final = ""
"""The folder of a note that is about none."""

MOST: Final = 500
"""Notes of one folder, and of those that are about none: more is a document, and belongs into a file."""

_WAIT: Final = 15.0  # seconds for another process that is writing
_TURN: Final = threading.Lock()
"""One call of this process at a time: SQLite lets those who wait in by chance, and of twenty one may come too late."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS notes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    folder TEXT NOT NULL,
    text TEXT NOT NULL,
    pinned INTEGER NOT NULL,
    written INTEGER NOT NULL,
    session TEXT,
    UNIQUE (folder, text)
)
"""
_SEEN: Final = "SELECT number, folder, text, pinned, written FROM notes WHERE folder IN (?, '')"


_WRITES_INTO_THE_FILE: Final = 1
_FORMAT_AT, _CHANGES_AT, _CHANGES_END = 18, 24, 28
"""Places in the header of SQLite's file: how it is written, and a counter that each transaction raises. Of one that is
written by way of a log (2) the counter says nothing."""


class FullError(Exception):
    """There are as many notes as there may be; the text says how many, and where."""


@dataclass(frozen=True, slots=True)
class Note:
    """One note. `written` is Unix ms; `folder` is empty for one that is about no folder."""

    number: int
    folder: str
    text: str
    is_pinned: bool
    written: int


class Notes:
    """The notes of one home. Every method may raise sqlite3.Error: the disk, another process, a broken file."""

    def __init__(self, file: Path) -> None:
        self.file: Final = file

    def add(self, folder: str, text: str, *, is_pinned: bool, now: int, session: str | None) -> Note:
        """Write a note down; the same text again is the same note, newly dated. Raises FullError."""
        with self._open() as db:
            found = db.execute("SELECT number FROM notes WHERE folder = ? AND text = ?", (folder, text)).fetchone()
            (count,) = db.execute("SELECT count(*) FROM notes WHERE folder = ?", (folder,)).fetchone()
            if found is None and count >= MOST:
                where = "this folder" if folder else "those for everywhere"
                raise FullError(f"there are {count} notes of {where}, and there may be no more; forget some first")
            db.execute(
                "INSERT INTO notes (folder, text, pinned, written, session) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (folder, text) DO UPDATE SET pinned = excluded.pinned, written = excluded.written",
                (folder, text, is_pinned, now, session),
            )
            row = db.execute(f"{_SEEN} AND folder = ? AND text = ?", (folder, folder, text)).fetchone()
        return _note(row)

    def seen_from(self, folder: str) -> list[Note]:
        """Return the notes of a folder and those for everywhere, the newest first."""
        if not self.file.exists():
            return []
        with self._open() as db:
            rows = db.execute(f"{_SEEN} ORDER BY written DESC, number DESC", (folder,)).fetchall()
        return [_note(row) for row in rows]

    def remove(self, folder: str, number: int) -> Note | None:
        """Strike a note out that is seen from a folder, and return it; None when there is no such note."""
        with self._open() as db:
            row = db.execute(f"{_SEEN} AND number = ?", (folder, number)).fetchone()
            if row is not None:
                db.execute("DELETE FROM notes WHERE number = ?", (number,))
        return _note(row) if row is not None else None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction that writes, from its beginning: no other may come between its steps."""
        with _TURN, closing(sqlite3.connect(self.file, timeout=_WAIT, isolation_level=None)) as db:
            db.execute("PRAGMA secure_delete = ON")  # what is struck out is gone from the file, too
            db.execute("BEGIN IMMEDIATE")
            db.execute(_SCHEMA)
            yield db
            db.execute("COMMIT")  # closing takes back what was not committed


def version_of(file: Path) -> bytes | None:
    """Return what differs whenever the notes do, empty where nobody can say; None where there is no file.

    One look at its header: for the event loop's thread too. Raises OSError.
    """
    try:
        with file.open("rb", buffering=0) as opened:
            header = opened.read(_CHANGES_END)
    except FileNotFoundError:
        return None
    is_told = len(header) == _CHANGES_END and header[_FORMAT_AT] == _WRITES_INTO_THE_FILE
    return header[_CHANGES_AT:] if is_told else b""


def _note(row: tuple[int, str, str, int, int]) -> Note:
    number, folder, text, pinned, written = row
    return Note(number, folder, text, bool(pinned), written)
