"""Saved conversations: what an agent needs to resume one, kept beside the events of its session.

Rows are only ever added: `begin` says what the session is, each later row adds messages in the agent framework's own
form, and a replacement (a compaction) puts its messages in the place of all before it. They are records like others:
in the audit chain and pruned like others; queries leave them out unless they name the kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from .values import HISTORY, HISTORY_BEGIN, HISTORY_REPLACE, Record

if TYPE_CHECKING:
    from .reader import JournalReader

__all__ = ["SavedSession", "history_added", "history_begun", "history_replaced", "read_history", "saved_sessions"]


@attrs.frozen
class SavedSession:
    """A session that can be resumed. Times are in Unix ms; `about` is the value last passed to `history_begun`."""

    id: str
    first_at: int
    last_at: int
    about: Mapping[str, Any]


def history_begun(session_id: str, at: int, about: Mapping[str, Any]) -> Record:
    """Return the record that describes a session (title, folder, model); the last one counts. `at` is in Unix ms."""
    return Record(HISTORY, at, None, session_id, HISTORY_BEGIN, about)


def history_added(session_id: str, at: int, messages: Sequence[Any]) -> Record:
    """Return the record that adds messages, which are JSON values."""
    return Record(HISTORY, at, None, session_id, None, {"messages": list(messages)})


def history_replaced(session_id: str, at: int, messages: Sequence[Any]) -> Record:
    """Return the record that puts messages in the place of all that were there."""
    return Record(HISTORY, at, None, session_id, HISTORY_REPLACE, {"messages": list(messages)})


def read_history(reader: JournalReader, session_id: str) -> list[Any] | None:
    """Return the messages of a session in order; None when a part that is needed was pruned, or never kept.

    Raises JournalError.
    """
    messages: list[Any] = []
    for record in reader.records(kind=HISTORY, session_id=session_id, after_n=reader.last_replacement(session_id)):
        if record.ref == HISTORY_BEGIN:
            continue
        if record.data is None or "not_kept" in record.data:
            return None
        messages += record.data.get("messages", ())
    return messages


def saved_sessions(reader: JournalReader) -> list[SavedSession]:
    """Return the sessions that were saved and not pruned, the latest last. Raises JournalError."""
    found = []
    for session_id, first_at, last_at in reader.sessions_with_history():
        begin = reader.records(kind=HISTORY, session_id=session_id, ref=HISTORY_BEGIN)
        about = None
        for record in begin:
            about = record.data
        if about is not None:
            found.append(SavedSession(session_id, first_at, last_at, about))
    return found
