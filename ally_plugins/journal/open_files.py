"""Whether the files that SQLite has open for a journal are still those that the next program will find.

On POSIX a file that was removed can be written on without an error, and all of it is lost with the process. Opening
and closing them is left to SQLite: a descriptor of our own that is closed would let go of its locks.
"""

from __future__ import annotations

# Strings and `os`, no pathlib: it runs twice a batch, and Path.stat takes twice as long.
# ruff: noqa: PTH116, PTH123
import os
from typing import TYPE_CHECKING, Final, Literal

from ally_plugins.contract.values.errors import JournalError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

__all__ = ["OpenFiles"]

_COMPANIONS: Final = ("-wal", "-shm")

# A commit that makes the log longer has its new length and blocks written by the file system as well: 400 µs where one
# that writes over what is there takes 310 (ext4). So the log is made longer ahead of the commits, by zeros, which
# SQLite takes for no frame; not by `fallocate`, whose blocks the first write of each changes too.
_FILL_FROM: Final = 64 * 1024  # bytes: whoever writes a few records and leaves needs no more
_FILL_STEP: Final = 1024 * 1024  # fifty decisions; some 0.3 ms under the lock
_FILL_UNTIL: Final = 1000 * (4096 + 24)  # as long as a log becomes: then SQLite folds it in, and begins it anew


class OpenFiles:
    """The journal's file and those that SQLite keeps beside it. Made when they are open, lives as long as that."""

    def __init__(self, path: Path) -> None:
        """Remember what they are. Raises OSError when one is not there."""
        real = os.path.realpath(path)  # beside which SQLite keeps the others; the journal itself may be a link to it
        # The first by the name that the next program opens: a link may lead elsewhere by then.
        self._paths: Final = (str(path.absolute()), *(real + suffix for suffix in _COMPANIONS))
        self._given: Final = str(path)
        found = [os.stat(each) for each in self._paths]
        self._identities: Final = [(each.st_dev, each.st_ino) for each in found]
        self._size = found[0].st_size
        self._wal_size = found[1].st_size
        self._is_growing = False

    def check(self) -> bool:
        """Raise JournalError when one was removed, replaced or cut off.

        Returns whether the write-ahead log is as long as before: a shorter one was folded into the journal's file, or
        cut off, which only a reader that has seen nothing yet can tell.
        """
        database, wal, _ = (self._found(position) for position in range(3))
        if database.st_size < self._size:
            raise JournalError(f"the journal {self._given!r} was cut off while it was in use; restore it")
        self._size = database.st_size
        is_whole = wal.st_size >= self._wal_size
        self._is_growing |= wal.st_size > self._wal_size
        self._wal_size = wal.st_size
        return is_whole

    @property
    def needs_room(self) -> bool:
        """Whether commits have made the write-ahead log longer, and are going to."""
        return self._is_growing and _FILL_FROM <= self._wal_size < _FILL_UNTIL

    def make_room(self, locked: AbstractContextManager[object]) -> None:
        """Make the write-ahead log longer by zeros; `locked` holds SQLite's lock for writing while it is entered.

        Raises OSError where that cannot be done, as on a full disk; nothing is lost by that.
        """
        self._is_growing = False
        zeros = bytes(_FILL_STEP)
        # Of a log SQLite locks nothing, so that closing it lets go of nothing.
        with open(self._paths[1], "r+b", buffering=0) as log:
            # Under the lock, or what another host is adding might be written over; no longer than that takes, since a
            # process may be stopped at any time.
            with locked:
                found = os.fstat(log.fileno())
                if not self._is_known(1, found) or found.st_size >= _FILL_UNTIL:
                    return
                log.seek(found.st_size)
                log.write(zeros[: _FILL_UNTIL - found.st_size])
                self._wal_size = os.fstat(log.fileno()).st_size
            # Now, when nobody waits: the next commit would do it.
            os.fsync(log.fileno())

    def _found(self, position: int) -> os.stat_result:
        path = self._paths[position]
        try:
            found = os.stat(path)
        # For whatever reason: what cannot be looked at is nothing to acknowledge by.
        except OSError:
            pass
        else:
            if self._is_known(position, found):
                return found
        way_out = "put it back, or restart" if position == 0 else "nothing is accepted until it is opened anew"
        raise JournalError(f"the journal's file {path!r} was removed or replaced while it was in use; {way_out}")

    def _is_known(self, position: int, found: os.stat_result) -> bool:
        return (found.st_dev, found.st_ino) == self._identities[position]

    def find_wal(self) -> Literal["in place", "gone", "lost"]:
        """Say what became of the write-ahead log; it is lost when it is another one, or the journal's file is."""
        try:
            self._found(0)
            found = os.stat(self._paths[1])
        except FileNotFoundError:
            return "gone"
        except (OSError, JournalError):
            return "lost"
        return "in place" if self._is_known(1, found) else "lost"
