"""From a row of the table `records` to a value."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ally_plugins.journal.values import StoredMessage, StoredRecord

__all__ = ["MESSAGE_COLUMNS", "RECORD_COLUMNS", "message_from_row", "record_from_row"]

RECORD_COLUMNS: Final = "n, at, kind, plugin, session_id, ref, key, data, hash"
MESSAGE_COLUMNS: Final = "n, ref, session_id, plugin, state, at, settled_at, key, data"


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
