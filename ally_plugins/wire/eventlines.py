"""Events as `on_event` notifications and back.

One event is encoded once, and the same bytes go to every daemon; keeping them is left to the lanes. Reading makes the
event that an inline plugin would see, stamped; like there, nobody checks the types of its data.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from ally_plugins.contract.values.codec import camel, encode, event_data
from ally_plugins.contract.values.errors import EncodeError, EventError
from ally_plugins.contract.values.events import EVENT_TYPES, Event, PluginEvent, is_event_type, stamp

__all__ = ["event_from_params", "event_line", "event_params"]

_HEAD: Final = b'{"jsonrpc":"2.0","method":"on_event","params":'
_IDS: Final = ("call_id", "agent_id", "parent_id")
_NOT_DATA: Final = frozenset({"extra", "seq", "timestamp", "session_id", "origin", "turn_id", *_IDS})


def event_params(event: Event, offset: str | None = None) -> dict[str, Any]:
    """Return the params of `on_event`; `offset` is given for what a durable subscription reads from the journal.

    Raises EncodeError for an id that is no text: the other end would take the event for none, and nobody would hear.
    """
    params: dict[str, Any] = {
        "event_type": event.type,
        "event_data": event_data(event),
        "timestamp": event.timestamp,
        "id": f"{event.session_id}:{event.seq}",
        "seq": event.seq,
        "session_id": event.session_id,
        "origin": event.origin,
    }
    if event.turn_id is not None:
        params["turn_id"] = _text(event.turn_id, "turn_id")
    if event.call_id is not None:
        params["call_id"] = _text(event.call_id, "call_id")
    if event.agent_id is not None:
        params["agent_id"] = _text(event.agent_id, "agent_id")
    if event.parent_id is not None:
        params["parent_id"] = _text(event.parent_id, "parent_id")
    if offset is not None:
        params["offset"] = offset
    return params


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    found = f"of the type {type(value).__name__}"
    raise EncodeError(f"{name} is {found}, expected text", path=name, found=found)


def event_line(event: Event, offset: str | None = None) -> bytes:
    """Return the whole notification with its newline, ready to be written."""
    return b"%b%b}\n" % (_HEAD, encode(event_params(event, offset)))


def event_from_params(params: dict[str, Any]) -> Event | None:
    """Return the event of an `on_event`, stamped; None for a type that this version does not know.

    Raises EventError when the envelope is wrong, or the data are not those of the type.
    """
    event_type = _checked(params, "event_type", str)
    data = _checked(params, "event_data", dict)
    cls = EVENT_TYPES.get(event_type)
    ids: dict[str, Any] = {name: params[name] for name in _IDS if name in params and _is_id(params, name)}
    if cls is not None:
        event = _built(cls, event_type, data, ids)
    elif is_event_type(event_type):
        event = PluginEvent(event_type=event_type, data=data, **ids)
    else:
        return None
    turn_id = params["turn_id"] if "turn_id" in params and _is_id(params, "turn_id") else None
    stamp(
        event,
        _checked(params, "seq", int),
        _checked(params, "timestamp", int),
        _checked(params, "session_id", str),
        _origin(params),
        turn_id,
    )
    return event


def _built(cls: type[Event], event_type: str, data: dict[str, Any], ids: dict[str, Any]) -> Event:
    known = _names(cls)
    values = {known[key]: value for key, value in data.items() if key in known}
    if len(values) < len(data):
        values["extra"] = {key: value for key, value in data.items() if key not in known}
    try:
        return cls(**(values | ids))
    except TypeError:
        missing = ", ".join(key for key, name in known.items() if _is_needed(cls, name) and name not in values)
        text = f"event_data of {event_type!r} is not what the type has; missing: {missing or 'nothing'}"
        raise EventError(text, path="event_data") from None


_NAMES: Final[dict[type[Event], dict[str, str]]] = {}


def _names(cls: type[Event]) -> dict[str, str]:
    """Return the attributes of an event's own data by the names that the wire has; made once for each class."""
    known = _NAMES.get(cls)
    if known is None:
        known = {a.metadata.get("wire", camel(a.name)): a.name for a in attrs.fields(cls) if a.name not in _NOT_DATA}
        if cls.TYPE == "COMPACTION_START":
            known["parentId"] = "parent_id"  # in its data too, as in Code-Ally
        _NAMES[cls] = known
    return known


def _is_needed(cls: type[Event], name: str) -> bool:
    return getattr(attrs.fields_dict(cls)[name], "default", None) is attrs.NOTHING


def _checked(params: dict[str, Any], name: str, kind: type) -> Any:
    value = params.get(name)
    if type(value) is kind:
        return value
    expected = {str: "a string", dict: "an object", int: "an integer"}[kind]
    found = "is missing" if name not in params else f"is of the type {type(value).__name__}"
    raise EventError(f"{name} of on_event {found}; expected {expected}", path=name)


def _is_id(params: dict[str, Any], name: str) -> bool:
    return params[name] is not None and _checked(params, name, str) is not None


def _origin(params: dict[str, Any]) -> tuple[str, ...]:
    origin = params.get("origin", [])
    if type(origin) is list and all(type(name) is str for name in origin):
        return tuple(origin)
    raise EventError("origin of on_event is not a list of plugins' names", path="origin")
