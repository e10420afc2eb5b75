"""The journal: one SQLite file with messages, events, decisions and everything else that is audited.

Accepted means on disk. What the audit chain covers is said in `chain`; how it is checked, in `audit`.
"""

from __future__ import annotations

from .audit import AuditReport, Problem, verify
from .explaining import Explanation, explain
from .export import export
from .histories import (
    SavedSession,
    history_added,
    history_begun,
    history_replaced,
    read_history,
    saved_sessions,
)
from .journal import HEAD_NAME, JOURNAL_NAME, Journal
from .reading import EventBlock, Reading, SessionSummary
from .values import (
    DuplicateKeyError,
    EventRow,
    MessageState,
    PendingMessage,
    Record,
    SettledState,
    StoredEvent,
    StoredMessage,
    StoredRecord,
)

__all__ = [
    "HEAD_NAME",
    "JOURNAL_NAME",
    "AuditReport",
    "DuplicateKeyError",
    "EventBlock",
    "EventRow",
    "Explanation",
    "Journal",
    "MessageState",
    "PendingMessage",
    "Problem",
    "Reading",
    "Record",
    "SavedSession",
    "SessionSummary",
    "SettledState",
    "StoredEvent",
    "StoredMessage",
    "StoredRecord",
    "explain",
    "export",
    "history_added",
    "history_begun",
    "history_replaced",
    "read_history",
    "saved_sessions",
    "verify",
]
