"""Conversions between values and rows of the table `records`, both ways."""

from __future__ import annotations

from types import NoneType
from typing import Any, Final, TypeAlias

import orjson

from ally_plugins.contract.values.errors import JournalError

from .values import RECORDED_AT, Record, StoredMessage, StoredRecord, encode

__all__ = [
    "MESSAGE_COLUMNS",
    "RECORD_COLUMNS",
    "Row",
    "message_from_row",
    "problem_of",
    "record_from_row",
    "row_of",
    "size_of",
]

# at, kind, plugin, session_id, ref, key, content, state. A tuple and not a class: hundreds are made in a millisecond.
Row: TypeAlias = tuple[int, str, str | None, str | None, str | None, str | None, bytes, str | None]

RECORD_COLUMNS: Final = "n, at, kind, plugin, session_id, ref, key, data, hash"
MESSAGE_COLUMNS: Final = "n, ref, session_id, plugin, state, at, settled_at, key, data"
_TEXT: Final = frozenset({str, NoneType})
_ROW_BYTES: Final = 256  # what a row takes in memory beside its content, about


def row_of(record: Record) -> Row:
    """Make the row of a record. Raises JournalError when its data is not JSON, or a field not what its type says."""
    if (problem := problem_of(record.at, record.kind, record.plugin, record.session_id, record.ref)) is not None:
        raise JournalError(problem)
    return (record.at, record.kind, record.plugin, record.session_id, record.ref, None, encode(record.data), None)


def problem_of(at: Any, *texts: Any) -> str | None:
    """Return why SQLite would not store the value that is hashed (True becomes 1, 5 '5'); None when it would."""
    if type(at) is not int:
        return f"the time of a journal record is of the type {type(at).__name__}, expected Unix ms"
    if _TEXT.issuperset(map(type, texts)):
        return None
    # A subclass of `str` is stored and hashed as its text; only the quick look does not know that.
    wrong = [text for text in texts if not isinstance(text, (str, NoneType))]
    return (
        f"a journal record has a value of the type {type(wrong[0]).__name__} where a text is expected"
        if wrong
        else None
    )


def size_of(row: Row) -> int:
    """Return about how many bytes a row takes in memory."""
    return _ROW_BYTES + len(row[6])


def record_from_row(row: tuple[Any, ...]) -> StoredRecord:
    """Build a record from RECORD_COLUMNS. A block of events has no `data`; read it with `JournalReader.events`."""
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
        content.get(RECORDED_AT),
    )
