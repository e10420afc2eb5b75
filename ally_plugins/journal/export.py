"""One session as JSON lines, which `replay` reads again.

The first line is `{"format": "ally-journal", "version": 1, "session_id": ...}`. Each line after it is one of

- `{"event": {"seq", "at", "type", "origin", "body"}}`, `body` as the journal has it;
- `{"message": {"id", "offset", "plugin", "at", "role", "deliver_as", "trigger_turn", "state", "settled_at", "key", "cause",
  "body"}}`.

Lines are in order of time (`at`, Unix ms), events by `seq`, messages by `offset`. What was pruned is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from typing import Any, Final

import attrs
import orjson

from ally_plugins.errors import JournalError
from ally_plugins.journal.reading import Reading
from ally_plugins.journal.values import StoredEvent, StoredMessage

__all__ = ["FORMAT", "VERSION", "export", "read_line"]

FORMAT: Final = "ally-journal"
VERSION: Final = 1

_Timed = tuple[int, int, int, bytes]  # at, events before messages, seq or offset, line


def export(reading: Reading, session_id: str) -> Iterator[bytes]:
    """Yield the lines of a session, each with its newline, in constant memory. Raises JournalError."""
    yield _line({"format": FORMAT, "version": VERSION, "session_id": session_id})
    for _, _, _, line in merge(_events(reading, session_id), _messages(reading, session_id)):
        yield line


def read_line(line: bytes, session_id: str) -> StoredEvent | StoredMessage | None:
    """Read a line after the first. None for a kind of line that this version does not know.

    Raises JournalError when it is broken. The number of the record is 0 in an event, as an export does not have it.
    """
    try:
        value = orjson.loads(line)
        if (event := value.get("event")) is not None:
            body = orjson.dumps(event["body"])
            return StoredEvent(0, session_id, event["seq"], event["at"], event["type"], event["origin"], body)
        if (message := value.get("message")) is not None:
            renamed = {"n": message.pop("offset"), "accepted_at": message.pop("at"), "session_id": session_id}
            return StoredMessage(**renamed, **message)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JournalError(f"not a line of a journal's export: {error}") from error
    return None


def _events(reading: Reading, session_id: str) -> Iterator[_Timed]:
    latest = 0
    for event in reading.events(session_id):
        # A clock that goes back must not put an event before an earlier one.
        latest = max(latest, event.at)
        names = ("seq", "at", "type", "origin")
        value: dict[str, Any] = {name: getattr(event, name) for name in names} | {"body": orjson.Fragment(event.body)}
        yield latest, 0, event.seq, _line({"event": value})


def _messages(reading: Reading, session_id: str) -> Iterator[_Timed]:
    latest = 0
    for message in reading.messages(session_id):
        if message.body is None:
            continue
        latest = max(latest, message.accepted_at)
        value = attrs.asdict(message, recurse=False)
        del value["session_id"], value["fingerprint"]
        value = {"id": value.pop("id"), "offset": value.pop("n"), "at": value.pop("accepted_at"), **value}
        yield latest, 1, message.n, _line({"message": value})


def _line(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
