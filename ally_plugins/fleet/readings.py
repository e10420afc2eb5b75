"""Asking the records of a fleet what a journal is asked: one home's chain what led to something, all what plugins cost.

A record whose content stayed at its home is told apart from one that says nothing: an answer without it would be wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import orjson

from ally_plugins.journal.chain import decode_block
from ally_plugins.journal.reader import first_since, split_event_id
from ally_plugins.journal.rows import message_from_row
from ally_plugins.journal.statistics import KINDS, PluginStatistics, add_up
from ally_plugins.journal.values import ACCEPTED, EVENTS, SETTLED, UNLISTED, StoredEvent, StoredMessage, StoredRecord

from .store import stored_record

if TYPE_CHECKING:
    from .store import FleetStore

__all__ = ["ChainReading", "FleetStatistics", "chains_with", "fleet_statistics"]

_COLUMNS: Final = "n, at, kind, plugin, session_id, ref, key, content, hash"
_LAST: Final = 2**62  # above the number of any record
_SEQ_DIGITS: Final = 18  # which always fit into 64 bits
_PAGE: Final = 1024  # rows fetched at a time: a client of PostgreSQL holds all that it has asked for


class ChainReading:
    """One chain of one home, read as `JournalReader` reads a journal. Lives as long as the store is open."""

    def __init__(self, store: FleetStore, home: str, chain: str) -> None:
        self.home: Final = home
        self.chain: Final = chain
        self._store: Final = store

    def records(
        self,
        *,
        kind: str | Sequence[str] | None = None,
        plugin: str | None = None,
        session_id: str | None = None,
        ref: str | None = None,
    ) -> Iterator[StoredRecord]:
        """Yield records in order; those of events and saved conversations only where `kind` has them."""
        kinds = (kind,) if isinstance(kind, str) else kind
        where = [f"kind NOT IN {UNLISTED}"]
        params: list[Any] = []
        if kinds is not None:
            where, params = [f"kind IN ({','.join('?' * len(kinds))})"], list(kinds)
        for column, value in {"plugin": plugin, "session_id": session_id, "ref": ref}.items():
            if value is not None:
                where.append(f"{column} = ?")
                params.append(value)
        yield from map(stored_record, self._rows(" AND ".join(where), params))

    def records_naming(
        self, ids: Iterable[str], session_id: str | None, first_n: int, last_n: int
    ) -> Iterator[StoredRecord]:
        """Yield the records of a session, from one number to another, that have one of these texts in them."""
        names = set(ids)
        texts = [orjson.dumps(each)[1:-1] for each in names]  # as they stand in JSON, without the quotes
        where = f"n <= ? AND kind NOT IN {UNLISTED} AND kind <> '{ACCEPTED}'"
        params: list[Any] = [last_n]
        if session_id is not None:
            where, params = f"{where} AND session_id = ?", [*params, session_id]
        for row in self._rows(where, params, after_n=first_n - 1):
            ref, content = row[5], row[7]
            if ref in names or (content is not None and any(text in content for text in texts)):
                yield stored_record(row)

    def first_since(self, at: int) -> int:
        """Return about the number of the first record that is not older than a time (Unix ms), as a journal does."""
        place = (self.home, self.chain)
        query = "SELECT n, at FROM records WHERE home = ? AND chain = ? AND n >= ? ORDER BY n LIMIT 1"
        last = self._store.query("SELECT coalesce(max(n), 0) FROM records WHERE home = ? AND chain = ?", place)[0][0]
        return first_since(at, last, lambda n: self._store.query(query, (*place, n)))

    def since(self, at: int, kinds: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of records of some kinds that are not older than a time (Unix ms)."""
        where = f"at >= ? AND kind IN ({','.join('?' * len(kinds))})"
        yield from self._rows(where, (at, *kinds), after_n=self.first_since(at) - 1)

    def message(self, message_id: str) -> StoredMessage | None:
        """Return a message by its id; its state is that of the last record that says it."""
        rows = list(self._rows("ref = ? AND kind = ?", (message_id, ACCEPTED)))
        if not rows:
            return None
        session_id, first_n = rows[0][4], rows[0][0]
        state, settled_at = "pending", None
        for record in self.records_naming([message_id], session_id, first_n, _LAST):
            if message_id in _settled(record):
                state, settled_at = str((record.data or {}).get("state")), record.at
        return _message(rows[0], state, settled_at)

    def events(self, session_id: str) -> Iterator[StoredEvent]:
        """Yield the events of a session in order; those whose content is not here are left out."""
        for n, *_, content, _ in self._rows(f"kind = '{EVENTS}' AND session_id = ?", (session_id,), page=1):
            if content is not None:
                yield from decode_block(n, session_id, bytes(content))

    def event(self, event_id: str) -> StoredEvent | None:
        """Return an event by its id, `session:seq`; None where its content is not here too."""
        session_id, seq = split_event_id(event_id)
        place = (self.home, self.chain)
        for *found, n in _blocks_with(self._store, session_id, seq):
            if tuple(found) == place:
                content = next(iter(self._rows("n = ?", (n,))))[7]
                block = () if content is None else decode_block(n, session_id, bytes(content))
                return next((each for each in block if each.seq == seq), None)
        return None

    def _rows(
        self, where: str, params: Sequence[Any], *, after_n: int = 0, page: int = _PAGE
    ) -> Iterator[tuple[Any, ...]]:
        query = (
            f"SELECT {_COLUMNS} FROM records WHERE home = ? AND chain = ? AND n > ? AND {where} "  # noqa: S608 - constants
            f"ORDER BY n LIMIT {page}"
        )
        while rows := self._store.query(query, (self.home, self.chain, after_n, *params)):
            yield from rows
            if len(rows) < page:
                return
            after_n = rows[-1][0]


def chains_with(store: FleetStore, id_: str, home: str | None = None) -> list[ChainReading]:
    """Return the chains that have a record or an event of that id: one of each home, by name, or of one home.

    Where a home has begun its journal anew and both have it, the later one counts.
    """
    query = (
        f"SELECT home, chain, max(at) FROM records WHERE ref = ? AND kind NOT IN {UNLISTED} "  # noqa: S608 - constants
        "GROUP BY home, chain ORDER BY max(at)"
    )
    found = [(name, chain) for name, chain, _ in store.query(query, (id_,))]
    found += [(name, chain) for name, chain, _ in _blocks_with(store, *split_event_id(id_))]
    last = dict(found)
    return [ChainReading(store, name, last[name]) for name in sorted(last) if home in {None, name}]


def _blocks_with(store: FleetStore, session_id: str, seq: int) -> Iterator[tuple[str, str, int]]:
    """Yield the home, the chain and the number of each record that covers an event, the latest last."""
    query = f"SELECT home, chain, n, ref FROM records WHERE kind = '{EVENTS}' AND session_id = ? ORDER BY at, n"  # noqa: S608 - constants
    for home, chain, n, ref in store.query(query, (session_id,)) if seq else ():
        first, _, last = (ref or "").partition("-")
        # Whoever publishes may have written anything.
        if _is_seq(first) and _is_seq(last) and int(first) <= seq <= int(last):
            yield home, chain, n


@attrs.frozen
class FleetStatistics:
    """What plugins have cost and done at all homes, and of which homes how many records came without their content."""

    plugins: Mapping[str, PluginStatistics]
    without_content: Mapping[str, int]


def fleet_statistics(store: FleetStore, *, since: int, home: str | None = None) -> FleetStatistics:
    """Add up the records of all homes, or of one, from `since` (Unix ms) on, by plugin; what replays recorded is not.

    Reads each record of the time, home by home, as they lie.
    """
    missing: Counter[str] = Counter()
    found: dict[str, PluginStatistics] = {}
    for reading in _chains(store, home):
        accepted: list[tuple[Any, ...]] = []
        delivered: set[str] = set()
        records: list[StoredRecord] = []
        for row in reading.since(since, (*KINDS, SETTLED, ACCEPTED)):
            record = stored_record(row)
            missing[reading.home] += record.data is None
            if record.kind == ACCEPTED:
                accepted.append(row)
            elif record.kind == SETTLED and (record.data or {}).get("state") == "delivered":
                delivered |= _settled(record)
            else:
                records.append(record)
            if len(records) >= _PAGE:
                add_up(records, (), found)
                records.clear()
        states = ("delivered" if row[5] in delivered else "pending" for row in accepted)
        messages = (_message(row, state, None) for row, state in zip(accepted, states, strict=True))
        # Those without their content were counted above.
        add_up(records, (each for each in messages if each.body is not None and each.recorded_at is None), found)
    return FleetStatistics(found, {name: count for name, count in sorted(missing.items()) if count})


def _chains(store: FleetStore, home: str | None) -> Iterator[ChainReading]:
    """Yield every chain of all homes, or of one, by one step in the index for each."""
    of_home, params = ("", ()) if home is None else (" AND home = ?", (home,))
    query = f"SELECT home, chain FROM records WHERE (home, chain) > (?, ?){of_home} ORDER BY home, chain LIMIT 1"  # noqa: S608 - constants
    last: tuple[str, str] = ("", "") if home is None else (home, "")
    while rows := store.query(query, (*last, *params)):
        last = rows[0][0], rows[0][1]
        yield ChainReading(store, *last)


def _message(row: Sequence[Any], state: str, settled_at: int | None) -> StoredMessage:
    record = stored_record(row)
    data = record.data or {}
    content = None if record.data is None or not isinstance(data.get("body"), dict) else row[7]
    return message_from_row((
        record.n, record.ref, record.session_id, str(record.plugin), state, record.at, settled_at, record.key, content
    ))  # fmt: skip


def _settled(record: StoredRecord) -> set[str]:
    """Return the ids of the messages that a record says the state of; none for another kind of record."""
    ids = (record.data or {}).get("ids") if record.kind == SETTLED else None
    return {each for each in ids if isinstance(each, str)} if isinstance(ids, list) else set()


def _is_seq(text: str) -> bool:
    return text.isdecimal() and len(text) <= _SEQ_DIGITS
