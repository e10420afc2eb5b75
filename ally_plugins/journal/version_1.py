"""Events as journals of version 1 hold them, converted to the form of today."""

from __future__ import annotations

from typing import Any, Final

import orjson

__all__ = ["upgrade_event"]

_BEGIN: Final = b'{"id":'
"""What each event began with, as its first name was written first."""

_NAMES: Final = {
    "event_type": "type",
    "event_data": "data",
    "timestamp": "timestamp",
    "id": "id",
    "seq": "seq",
    "session_id": "sessionId",
    "origin": "origin",
    "turn_id": "turnId",
    "call_id": "callId",
    "agent_id": "agentId",
    "parent_id": "parentId",
}
"""The old names by those of today, in the order in which they are written."""

_OLD_NAMES: Final = frozenset(_NAMES.values())


def upgrade_event(body: bytes) -> bytes:
    """Return the JSON of an event in today's form; what is no event of the old form is returned as it is."""
    if not body.startswith(_BEGIN):
        return body
    try:
        event: dict[str, Any] = orjson.loads(body)
    # An altered record is shown as it is: to say what is wrong is for `verify`.
    except orjson.JSONDecodeError:
        return body
    named = {name: event[old] for name, old in _NAMES.items() if old in event}
    return orjson.dumps(named | {name: value for name, value in event.items() if name not in _OLD_NAMES})
