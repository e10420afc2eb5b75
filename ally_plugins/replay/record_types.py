"""The types of records that Claude Code transcripts have, and since which version each was seen.

A file in which no known type is found is no transcript. A type that is not here is skipped and counted as others are.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["RECORD_TYPES", "is_transcript_start"]

RECORD_TYPES: Final = {
    "agent-name": "2.1.68",
    "agent-setting": "2.1.97",
    "ai-title": "2.1.97",
    "api-request": "2.1.332",
    "api-request-blob": "2.1.332",
    "api-request-shape": "2.1.332",
    "assistant": "1.0",
    "atis-latch": "2.1.332",
    "attachment": "2.1.97",
    "bridge-session": "2.1.97",
    "cost-state": "2.1.332",
    "custom-title": "2.1.68",
    "file-history-snapshot": "2.0",
    "last-prompt": "2.1.68",
    "permission-mode": "2.1.97",
    "pr-link": "2.1.59",
    "progress": "2.1",
    "queue-operation": "2.0",
    "summary": "1.0",
    "system": "1.0",
    "tools-used": "2.1.332",
    "user": "1.0",
    "worktree-state": "2.1.97",
}
"""Each with the first version of the program that is known to write it."""

_MESSAGES: Final = frozenset({"assistant", "user"})
# Every other record names its session, or what it is about.
_KEYS: Final = frozenset({"leafUuid", "messageId", "sessionId", "summary", "uuid"})


def is_transcript_start(record: dict[str, Any]) -> bool:
    """Return whether a record shows that its file is a transcript.

    What the program writes to its standard output (`--output-format stream-json`) looks alike, and is none: it says
    `session_id`, and gives the parts of sub-agents to nobody.
    """
    kind, message = record.get("type"), record.get("message")
    if type(kind) is not str or kind not in RECORD_TYPES or ("session_id" in record and "sessionId" not in record):
        return False
    if kind in _MESSAGES:
        return type(message) is dict and type(message.get("content")) in {str, list}
    return not _KEYS.isdisjoint(record)
