"""Removing old records of a fleet: from the beginning of each chain, and what is removed is noted with its last hash.

What stays can be verified from there. A home of which something was found wrong keeps all: it is evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from .store import FleetStore

__all__ = ["Pruned", "prune"]

_AT_ONCE = 10_000
"""Records of one transaction: some 0.1 s, in which a collector waits."""


@attrs.frozen
class Pruned:
    """How many records of each home were removed, and which homes keep theirs, since something was found wrong."""

    removed: Mapping[str, int]
    kept: tuple[str, ...]


def prune(store: FleetStore, before: int) -> Pruned:
    """Remove the records before the first of each chain that is not older than a time (Unix ms). Blocks.

    Raises the store's errors; what was removed by then is noted, and the next call goes on.
    """
    kept = {each.home for each in store.findings()}
    removed: dict[str, int] = {}
    there = set()
    for home, chain in store.query("SELECT DISTINCT home, chain FROM records WHERE at < ?", (before,)):
        there.add(home)
        if home not in kept:
            removed[home] = removed.get(home, 0) + sum(_remove(store, home, chain, before))
    return Pruned({name: count for name, count in sorted(removed.items()) if count}, tuple(sorted(there & kept)))


def _remove(store: FleetStore, home: str, chain: str, before: int) -> Iterator[int]:
    where, place = "FROM records WHERE home = ? AND chain = ?", (home, chain)
    first_kept = f"SELECT n {where} AND at >= ? ORDER BY n LIMIT 1"
    last = f"SELECT max(n) FROM (SELECT n {where} AND n < ? ORDER BY n LIMIT {_AT_ONCE}) AS oldest"  # noqa: S608 - constants
    [(end,)] = store.query(first_kept, (*place, before)) or store.query(f"SELECT max(n) + 1 {where}", place)
    while (last_n := store.query(last, (*place, end))[0][0]) is not None:
        store.begin()
        try:
            count = store.remove(home, chain, last_n)
            store.commit()
        except BaseException:
            store.roll_back()
            raise
        yield count
