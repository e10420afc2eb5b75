"""One session as JSON lines, which `replay` reads again.

The first line is `{"format": "ally-journal", "version": 2, "session_id": ...}`. Each line after it is one of

- `{"kind": "event", ...}`, and then the params of `on_event`: `event_type`, `event_data`, `timestamp`, `id`, `seq`,
  `session_id`, `origin` and the ids that it has;
- `{"kind": "message", "session_id", "id", "offset", "plugin", "at", "role", "deliver_as", "trigger_turn", "state",
  "settled_at", "key", "cause", "body"}`
- `{"kind": "decision", "session_id", "id", "offset", "plugin", "at", "decision": {"subject", "decided_on", "verdict",
  "reason", "votes", ...}}`, as the audit has it.

Of a replay `at` is when it was played; the recording's time is an event's `timestamp`, and `recorded_at` of the others.
Lines are in order of time (`timestamp` and `at`, Unix ms), events by `seq`, the others by `offset`. What was pruned is
left out. They are ASCII, and everything else in them is a JSON escape: on a terminal they show what is there, and
nothing acts. Version 1, which `replay` reads too, had other names for events.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from typing import TYPE_CHECKING, Any, Final

import attrs
import orjson

from ally_plugins.contract.values.codec import ascii_json

from .values import DECISION

if TYPE_CHECKING:
    from .reader import JournalReader

__all__ = ["FORMAT", "VERSION", "export"]

FORMAT: Final = "ally-journal"
VERSION: Final = 2

_EVENT: Final = b'{"kind":"event",%b\n'
_Timed = tuple[int, int, int, bytes]  # at, events before what they led to, seq or offset, line


def export(reader: JournalReader, session_id: str) -> Iterator[bytes]:
    """Yield the lines of a session, each with its newline, in constant memory. Raises JournalError."""
    yield ascii_json(_line({"format": FORMAT, "version": VERSION, "session_id": session_id}))
    parts = (_events(reader, session_id), _messages(reader, session_id), _decisions(reader, session_id))
    # Merged and not sorted: each part is in order already, so no more than a line of each is held.
    for _, _, _, line in merge(*parts):
        yield ascii_json(line)


def _events(reader: JournalReader, session_id: str) -> Iterator[_Timed]:
    latest = 0
    for event in reader.events(session_id):
        # A clock that goes back must not put an event before an earlier one.
        latest = max(latest, event.at)
        yield latest, 0, event.seq, _EVENT % event.body.removeprefix(b"{")


def _messages(reader: JournalReader, session_id: str) -> Iterator[_Timed]:
    latest = 0
    for message in reader.messages(session_id):
        if message.body is None:
            continue
        latest = max(latest, message.accepted_at)
        value = attrs.asdict(message, recurse=False)
        if value["recorded_at"] is None:
            del value["recorded_at"]
        del value["fingerprint"]  # a digest of the request before transforms: of no use outside of this journal
        value = {"kind": "message", "offset": value.pop("n"), "at": value.pop("accepted_at"), **value}
        yield latest, 1, message.n, _line(value)


def _decisions(reader: JournalReader, session_id: str) -> Iterator[_Timed]:
    latest = 0
    for record in reader.records(session_id=session_id, kind=DECISION):
        if record.data is None:
            continue
        latest = max(latest, record.at)
        value = {
            "kind": "decision",
            "session_id": session_id,
            "id": record.ref,
            "offset": record.n,
            "plugin": record.plugin,
            "at": record.at,
            "decision": record.data,
        }
        yield latest, 1, record.n, _line(value)


def _line(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
