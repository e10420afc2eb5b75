"""A batch that holds something bad, written apart, so that only that is lost: entry by entry, and event by event.

Whether and when a batch is written is the writer's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.errors import JournalError

from .entries import Entry, batch_of
from .store import Batch, Store
from .waiting import outcomes_of, settle

if TYPE_CHECKING:
    from .values import EventRow

__all__ = ["is_of_the_disk", "write_apart"]

# The fault of one entry, though SQLite says so.
_ENTRY_FAULTS: Final = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
)


def is_of_the_disk(error: Exception) -> bool:
    """Say whether nothing can be written now; else it is the fault of one entry, whatever its values raised."""
    return isinstance(error, (sqlite3.Error, OSError, JournalError)) and not isinstance(error, _ENTRY_FAULTS)


def write_apart(store: Store, entries: list[Entry], note_lost: Callable[[Exception], None]) -> Iterator[int]:
    """Write each entry by itself; what was tried leaves the list, and its size is yielded.

    A bad one fails its waiter, or is told to `note_lost`. Raises what the disk raises; what is in the list then has not
    been written.
    """
    while entries:
        item, waiter, size = entries[0]
        if isinstance(item, list):
            _write_events(store, item, note_lost)
            settle([(waiter, None)])
        else:
            _write_one(store, entries[0], note_lost)
        del entries[0]
        yield size


def _write_one(store: Store, entry: Entry, note_lost: Callable[[Exception], None]) -> None:
    batch, *waiters = batch_of([entry])
    try:
        written = store.write(batch)
    except Exception as error:
        if is_of_the_disk(error):
            raise
        failure = JournalError(f"the journal cannot write this: {error}")
        if entry[1] is None:
            note_lost(failure)
        settle([(entry[1], failure)])
    else:
        settle(outcomes_of(store, written, *waiters))


def _write_events(store: Store, rows: list[EventRow], note_lost: Callable[[Exception], None]) -> None:
    """Write events; what was tried leaves the list. Half of what failed comes next, and twice what went well."""
    size = len(rows)
    while rows:
        part = rows[:size]
        try:
            store.write(Batch(events=[part]))
        except Exception as error:
            if is_of_the_disk(error):
                raise
            if len(part) > 1:
                size = len(part) // 2
                continue
            session_id, seq, *_ = part[0]
            note_lost(JournalError(f"the journal cannot write the event {session_id}:{seq}: {error}"))
        del rows[: len(part)]
        size *= 2
