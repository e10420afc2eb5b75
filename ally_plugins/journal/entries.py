"""The entries of the writer's queue, and how they become a batch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeAlias

from .rows import Row
from .store import Batch, Bookmark, Claim, Mark, Release
from .values import EventRow
from .waiters import Waiter

__all__ = ["Entry", "Item", "batch_of", "count_of", "split_by_session"]

Item: TypeAlias = (
    Row | list[EventRow] | Mark | Bookmark | Claim | Release | None
)  # None: a flush, which waits for what was queued before it
Entry: TypeAlias = tuple[Item, Waiter | None, int]  # the int is the size in bytes, 0 where somebody waits


def count_of(item: Item) -> int:
    """Return how many records or events an item has."""
    return len(item) if isinstance(item, list) else 1


def batch_of(entries: Iterable[Entry]) -> tuple[Batch, list[Waiter | None], list[Waiter | None]]:
    """Return a batch of the entries, the waiters of its rows (position by position), and the waiters of the rest."""
    batch, waiters, others = Batch(), [], []
    for item, waiter, _ in entries:
        if type(item) is tuple:
            batch.rows.append(item)
            waiters.append(waiter)
            continue
        others.append(waiter)
        if isinstance(item, list):
            batch.events.append(item)
        elif isinstance(item, Mark):
            batch.marks.append(item)
        elif isinstance(item, Bookmark):
            batch.bookmarks.append(item)
        elif isinstance(item, Claim):
            batch.claims.append(item)
        elif isinstance(item, Release):
            batch.releases.append(item)
    return batch, waiters, others


def split_by_session(entries: Iterable[Entry], sessions: Collection[str]) -> tuple[list[Entry], list[Entry]]:
    """Return the entries without what is written for some sessions, and what that is."""
    kept: list[Entry] = []
    taken: list[Entry] = []
    for entry in entries:
        item, waiter, size = entry
        if isinstance(item, list):
            others = [row for row in item if row[0] not in sessions]
            if len(others) < len(item):
                # Size 0: all of it stays with the part that is kept, since it is given back once.
                taken.append(([row for row in item if row[0] in sessions], waiter, 0))
            kept.append((others, waiter, size))
        elif type(item) is tuple and item[3] in sessions:
            taken.append(entry)
        else:
            kept.append(entry)
    return kept, taken
