"""Saving what can be saved of a batch that SQLite refused: entry by entry, so that only the bad one is lost.

Whether and when a batch is written is left to `writer`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.errors import JournalError

from .entries import Entry, batch_of
from .store import Batch, Store
from .values import LeaseLostError
from .waiters import pair_outcomes, resolve

if TYPE_CHECKING:
    from .values import EventRow

__all__ = ["is_disk_failure", "write_one_by_one"]

# SQLite errors that one entry's values cause (a key that is taken, a type that cannot be bound), not the disk.
_ENTRY_FAULTS: Final = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    LeaseLostError,  # the session of one entry is another host's
)


def is_disk_failure(error: Exception) -> bool:
    """Return whether the disk or the file is at fault, and nothing can be written; otherwise one entry's values are."""
    return isinstance(error, (sqlite3.Error, OSError, JournalError)) and not isinstance(error, _ENTRY_FAULTS)


def write_one_by_one(store: Store, entries: list[Entry], note_lost: Callable[[Exception], None]) -> Iterator[int]:
    """Write each entry in a transaction of its own; yield the size (bytes) of each that was tried.

    An entry that was tried is removed from `entries`. A bad one fails its waiter, or is passed to `note_lost` when
    nobody waits for it. Raises sqlite3.Error, OSError or JournalError when the disk fails; what is in `entries` then
    has not been written.
    """
    while entries:
        item, waiter, size = entries[0]
        if isinstance(item, list):
            _write_events(store, item, note_lost)
            resolve([(waiter, None)])
        else:
            _write_one(store, entries[0], note_lost)
        del entries[0]
        yield size


def _write_one(store: Store, entry: Entry, note_lost: Callable[[Exception], None]) -> None:
    batch, *waiters = batch_of([entry])
    try:
        written = store.write(batch)
    except Exception as error:
        if is_disk_failure(error):
            raise
        is_lost = isinstance(error, LeaseLostError)
        failure = error if is_lost else JournalError(f"the journal cannot write this: {error}")
        if entry[1] is None:
            note_lost(failure)
        resolve([(entry[1], failure)])
    else:
        resolve(pair_outcomes(store, written, *waiters))


def _write_events(store: Store, rows: list[EventRow], note_lost: Callable[[Exception], None]) -> None:
    """Write events, removing what was tried from `rows`: halves a part that fails, doubles after one that does not."""
    size = len(rows)
    while rows:
        part = rows[:size]
        try:
            store.write(Batch(events=[part]))
        except Exception as error:
            if is_disk_failure(error):
                raise
            if len(part) > 1:
                size = len(part) // 2
                continue
            session_id, seq, *_ = part[0]
            note_lost(JournalError(f"the journal cannot write the event {session_id}:{seq}: {error}"))
        del rows[: len(part)]
        size *= 2
