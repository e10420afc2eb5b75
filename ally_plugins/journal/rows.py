"""From a value to what is inserted, and from a row of the table `records` to a value."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import orjson

from ally_plugins.journal.values import Record, StoredMessage, StoredRecord, encode

__all__ = ["MESSAGE_COLUMNS", "RECORD_COLUMNS", "Row", "message_from_row", "record_from_row", "row_of", "size_of"]

# at, kind, plugin, session_id, ref, key, content, state. A tuple and not a class: hundreds are made in a millisecond.
Row: TypeAlias = tuple[int, str, str | None, str | None, str | None, str | None, bytes, str | None]

RECORD_COLUMNS: Final = "n, at, kind, plugin, session_id, ref, key, data, hash"
MESSAGE_COLUMNS: Final = "n, ref, session_id, plugin, state, at, settled_at, key, data"
_ROW_BYTES: Final = 256  # what a row takes in memory beside its content, about


def row_of(record: Record) -> Row:
    """Make the row of a record. Raises JournalError when its data is not JSON."""
    return (record.at, record.kind, record.plugin, record.session_id, record.ref, None, encode(record.data), None)


def size_of(row: Row) -> int:
    """Return about how many bytes a row takes in memory."""
    return _ROW_BYTES + len(row[6])


def record_from_row(row: tuple[Any, ...]) -> StoredRecord:
    """Build a record from RECORD_COLUMNS. A block of events has no `data`: ask for its events."""
    n, at, kind, plugin, session_id, ref, key, data, hash_ = row
    value = orjson.loads(data) if isinstance(data, str) else None
    return StoredRecord(n, at, kind, plugin, session_id, ref, key, value, hash_.hex())


def message_from_row(row: tuple[Any, ...]) -> StoredMessage:
    """Build a message from MESSAGE_COLUMNS."""
    n, id_, session_id, plugin, state, at, settled_at, key, data = row
    content: dict[str, Any] = orjson.loads(data) if data is not None else {}
    return StoredMessage(
        n,
        id_,
        session_id,
        plugin,
        content.get("role", ""),
        content.get("deliver_as", ""),
        content.get("trigger_turn", False),
        state,
        at,
        settled_at,
        content.get("body"),
        key,
        content.get("fingerprint"),
        content.get("cause"),
    )
