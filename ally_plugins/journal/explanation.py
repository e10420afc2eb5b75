"""`explain`: everything in the journal that led to one message, decision or event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

import attrs
import orjson

from .receipts import Received, received_in
from .values import ACCEPTED, RECEIVED, SETTLED, StoredEvent, StoredMessage, StoredRecord

__all__ = ["Explanation", "RecordSource", "explain", "receivers"]

# Records before and after that are searched for others that name the same: a busy agent's hour. All of a million would
# take seconds.
_NEAR_BEFORE: Final = 5_000
_NEAR_AFTER: Final = 30_000
_MAX_CAUSES: Final = 64  # far above the hop limit of eight; stops at a cycle that a host wrote
# Fields that hold ids: in the data of records, in events, and in the data of events.
_LINKS: Final = (
    *("cause", "decision", "message_id", "decision_id", "call_id", "request_id", "event"),
    *("callId", "decisionId", "messageId", "requestId"),
)
_GRANTS: Final = ("enable", "disable", "forget", "grant", "revoke")


@attrs.frozen
class Explanation:
    """What led to one message, record or event. Each part is in the order in which it happened.

    `causes` are the events from the first to the one whose hook acted; `permissions` the grants and consents of the
    plugin until then; `related` the other records that name it, its causes or their calls: decisions with their votes,
    refusals, registrations, changes of a message's state. `received` says which plugins were given the event.
    """

    id: str
    message: StoredMessage | None
    record: StoredRecord | None
    event: StoredEvent | None
    causes: tuple[StoredEvent, ...]
    permissions: tuple[StoredRecord, ...]
    related: tuple[StoredRecord, ...]
    received: tuple[tuple[str, Received], ...] = ()


class RecordSource(Protocol):
    """What is asked: a journal (see `JournalReader`), or what is kept of one elsewhere."""

    def message(self, message_id: str, /) -> StoredMessage | None:
        """Return a message by its id."""

    def event(self, event_id: str, /) -> StoredEvent | None:
        """Return an event by its id."""

    def events(self, session_id: str, /) -> Iterator[StoredEvent]:
        """Yield the events of a session in order."""
        ...

    def records(
        self,
        *,
        kind: str | Sequence[str] | None = None,
        plugin: str | None = None,
        session_id: str | None = None,
        ref: str | None = None,
    ) -> Iterator[StoredRecord]:
        """Yield records in order; those of events and saved conversations only where `kind` has them."""
        ...

    def records_naming(
        self, ids: Iterable[str], session_id: str | None, first_n: int, last_n: int, /
    ) -> Iterator[StoredRecord]:
        """Yield the records of a session, from one number to another, that have one of these texts in them."""
        ...

    def first_since(self, at: int, /) -> int:
        """Return about the number of the first record that is not older than a time (Unix ms)."""
        ...


def explain(reader: RecordSource, id_: str, *, session_id: str | None = None) -> Explanation | None:
    """Gather what led to a message, decision, other record or event, by its id; None when nothing has it.

    The id of a tool call stands for what plugins changed in it; one of `session_id` goes before others, since models
    give the same ids again.

    Records that only name it in passing are found within some ten thousand records of it. Takes some tenths of a
    second for a million. Raises JournalError.
    """
    message, event = reader.message(id_), reader.event(id_)
    record = _record(reader, id_, session_id)
    session_id, cause, upto = _where(message, record, event)
    if session_id is None and record is None:
        return None
    causes = _with_their_calls(reader, tuple(reversed(list(_causes(reader, cause)))))
    ids = {id_, *(e.id for e in causes), *_links(record.data if record else None)}
    ids |= _links(message.body if message else None)
    for source in (*causes, *((event,) if event else ())):
        ids |= _event_links(source)
    plugin = message.plugin if message else record.plugin if record else None
    shared = {e.id for e in causes}
    near = _near(reader, ids, session_id, causes, message, record, event)
    related = [r for r in near if _concerns(r, ids, shared) and r != record]
    granted = list(reader.records(plugin=plugin, kind=_GRANTS)) if plugin else []
    permissions = tuple(r for r in granted if upto is None or r.n < upto)
    received = tuple(receivers(reader, event)) if event is not None else ()
    return Explanation(id_, message, record, event, causes, permissions, tuple(related), received)


def receivers(reader: RecordSource, event: StoredEvent) -> Iterator[tuple[str, Received]]:
    """Yield the plugins that were given an event, with how long they took for it.

    Only observers: gates and transforms stand in the decisions. A host records it within a minute, so that of one that
    was killed the last of them are not there. Raises JournalError.
    """
    for record in reader.records(kind=RECEIVED, session_id=event.session_id):
        for each in received_in(record.data, event.seq):
            yield record.plugin or "", each


def _near(
    reader: RecordSource,
    ids: set[str],
    session_id: str | None,
    causes: tuple[StoredEvent, ...],
    message: StoredMessage | None,
    record: StoredRecord | None,
    event: StoredEvent | None,
) -> list[StoredRecord]:
    """Return the records that may concern one of `ids`, in order.

    What has one of them for its own id is found wherever it is. What only names one is looked for around the time.
    """
    numbers = [each.n for each in (*causes, message, record, event) if each is not None]
    first, last = min(numbers) - _NEAR_BEFORE, max(numbers) + _NEAR_AFTER
    found = {each.n: each for each in reader.records_naming(ids, session_id, max(first, 1), last)}
    for id_ in ids:
        found |= {each.n: each for each in reader.records(ref=id_, session_id=session_id)}
    # It may have waited for days.
    if message is not None and message.settled_at is not None and message.n < last:
        at = reader.first_since(message.settled_at)
        found |= {each.n: each for each in reader.records_naming(ids, session_id, max(at, last), at + _NEAR_AFTER)}
    return [found[n] for n in sorted(found)]


def _record(reader: RecordSource, id_: str, session_id: str | None) -> StoredRecord | None:
    of_session = reader.records(ref=id_, session_id=session_id) if session_id is not None else ()
    # A message's own record is left out: messages are looked for by themselves.
    return next((record for record in (*of_session, *reader.records(ref=id_)) if record.kind != ACCEPTED), None)


def _where(
    message: StoredMessage | None, record: StoredRecord | None, event: StoredEvent | None
) -> tuple[str | None, str | None, int | None]:
    """Return the session, the id of the cause, and the number of the record before which all of it happened."""
    if message is not None:
        return message.session_id, message.cause, message.n
    if record is not None:
        cause = (record.data or {}).get("cause")
        return record.session_id, cause if isinstance(cause, str) else None, record.n
    return (event.session_id, _cause_of(event), event.n) if event is not None else (None, None, None)


def _causes(reader: RecordSource, cause: str | None) -> Iterator[StoredEvent]:
    """Yield the events that led here, the latest first."""
    for _ in range(_MAX_CAUSES):
        event = reader.event(cause) if cause else None
        if event is None:
            return
        yield event
        cause = _cause_of(event)


def _with_their_calls(reader: RecordSource, causes: tuple[StoredEvent, ...]) -> tuple[StoredEvent, ...]:
    """Add the earlier events of the same tool calls: the start belongs to the end."""
    if not causes:
        return ()
    calls = {call for event in causes if (call := _call_of(event)) is not None}
    if not calls:
        return causes
    upto, included = causes[-1], {event.seq for event in causes}
    for event in reader.events(upto.session_id):
        if event.seq >= upto.seq:
            break
        if event.seq not in included and _call_of(event) in calls:
            causes = (*causes, event)
    return tuple(sorted(causes, key=lambda event: event.seq))


def _call_of(event: StoredEvent) -> str | None:
    body = event.body
    # Most events have no call; to look for the bytes is much less than to parse them.
    value = orjson.loads(body) if b'"call_id"' in body else None
    return value.get("call_id") if isinstance(value, dict) else None


def _event_links(event: StoredEvent) -> set[str]:
    value = event.value()
    return _links(value) | _links(value.get("event_data") if isinstance(value, dict) else None)


def _cause_of(event: StoredEvent) -> str | None:
    value = event.value()
    cause = value.get("cause") or value.get("parent_id") if isinstance(value, dict) else None
    return cause if isinstance(cause, str) else None


def _links(data: Any) -> set[str]:
    if not isinstance(data, dict):
        return set()
    return {value for name in _LINKS if isinstance(value := data.get(name), str)}


def _concerns(record: StoredRecord, ids: set[str], shared: set[str]) -> bool:
    """Return whether a record names one of `ids`; a cause in `shared` does not count: its other effects have it too."""
    if record.kind == ACCEPTED:
        return False
    data = record.data or {}
    if record.kind == SETTLED:
        return not ids.isdisjoint(data.get("ids", ()))
    return record.ref in ids or not ids.isdisjoint(_links(data) - ({data.get("cause")} & shared))
