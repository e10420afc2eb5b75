"""What waits in the writer's queue, and how it becomes a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from .rows import Row
from .store import Batch, Bookmark, Mark
from .values import EventRow
from .waiting import Waiter

__all__ = ["Entry", "Item", "batch_of", "count_of"]

Item: TypeAlias = Row | list[EventRow] | Mark | Bookmark | None  # None only waits for what came before it
Entry: TypeAlias = tuple[Item, Waiter | None, int]  # the int counts bytes of what nobody waits for


def count_of(item: Item) -> int:
    """Return how many records or events an item is."""
    return len(item) if isinstance(item, list) else 1


def batch_of(entries: Iterable[Entry]) -> tuple[Batch, list[Waiter | None], list[Waiter | None]]:
    """Sort entries into a batch; return with it who waits for its rows, position by position, and who for the rest."""
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
    return batch, waiters, others
