"""An event's one JSON form, the params of `on_event`, and its reader: on the wire, in the journal, in exports.

Code-Ally fixed the names `event_type`, `event_data` and `session_id`. Making bytes of it, once for each event, is left
to `codec`; what journals held before there was one form to `journal.version_1`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any, Final

import attrs

from .errors import EncodeError, EventError
from .events import EVENT_TYPES, Event, PluginEvent, is_event_type, stamp

__all__ = ["camel", "check_ids", "event_data", "event_from_params", "event_params", "json_name"]

_ENVELOPE: Final = frozenset(a.name for a in attrs.fields(Event))
_ALSO_DATA: Final = {"COMPACTION_START": frozenset({"parent_id"})}
"""Fields of the envelope that Code-Ally has in an event's data as well (code-ally-facts, section 4)."""

_IDS: Final = ("call_id", "agent_id", "parent_id")
_read_ids: Final[Callable[[Event], tuple[Any, ...]]] = attrgetter("turn_id", *_IDS)


@cache
def camel(name: str) -> str:
    """Return a snake_case name as JSON has it: `tool_name` is `toolName`."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def json_name(field: attrs.Attribute[Any]) -> str:
    """Return the name that a field of an event's own data has in JSON."""
    return str(field.metadata.get("wire", camel(field.name)))


# --- writing ---


def event_params(event: Event) -> dict[str, Any]:
    """Return an event with its envelope; ids that are None are left out."""
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
        params["turn_id"] = event.turn_id
    if event.call_id is not None:
        params["call_id"] = event.call_id
    if event.agent_id is not None:
        params["agent_id"] = event.agent_id
    if event.parent_id is not None:
        params["parent_id"] = event.parent_id
    return params


def event_data(event: Event) -> dict[str, Any]:
    """Return an event's own data, in camelCase; optional fields that are None are left out."""
    if isinstance(event, PluginEvent):
        return dict(event.data)
    cls = event.__class__
    read, names = _READERS.get(cls) or _reader(cls)
    data = {
        name: value for (name, needed), value in zip(names, read(event), strict=True) if value is not None or needed
    }
    # What the type has itself wins: `extra` is whatever a newer version has sent.
    if event.extra:
        data.update({key: value for key, value in event.extra.items() if key not in data})
    return data


def check_ids(event: Event) -> None:
    """Raise EncodeError for an id that is no text: `event_from_params` would refuse the event, unnoticed by anybody.

    The journal keeps such an event as it is.
    """
    for value in _read_ids(event):
        if value is not None and not isinstance(value, str):
            name = next(name for name in ("turn_id", *_IDS) if getattr(event, name) is value)
            found = f"of the type {type(value).__name__}"
            raise EncodeError(f"{name} is {found}, expected text", path=name, found=found)


_READERS: Final[dict[Any, tuple[Callable[[Any], tuple[Any, ...]], tuple[tuple[str, bool], ...]]]] = {}
"""What reads an event's own data at once, and the JSON names of the values with whether they are needed, by class."""


def _reader(cls: Any) -> tuple[Callable[[Any], tuple[Any, ...]], tuple[tuple[str, bool], ...]]:
    fields = _own_fields(cls)
    names = [field.name for field in fields]
    get: Any = attrgetter(*names) if names else None
    # attrgetter returns a tuple only for several names.
    read = get if len(names) > 1 else (lambda event: (get(event),)) if names else (lambda _: ())
    made = _READERS[cls] = (read, tuple((json_name(field), field.default is not None) for field in fields))
    return made


def _own_fields(cls: Any) -> list[attrs.Attribute[Any]]:
    also = _ALSO_DATA.get(cls.TYPE, frozenset())
    return [field for field in attrs.fields(cls) if field.name not in _ENVELOPE or field.name in also]


# --- reading ---


def event_from_params(params: dict[str, Any]) -> Event | None:
    """Return the event that an inline plugin would see, stamped; None for a type that this version does not know.

    As there, nobody checks the types of its data. Raises EventError when the envelope is wrong, or the data are not
    those of the type.
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
    names = _NAMES.get(cls) or _names(cls)
    values = {names[key]: value for key, value in data.items() if key in names}
    if len(values) < len(data):
        values["extra"] = {key: value for key, value in data.items() if key not in names}
    try:
        return cls(**(values | ids))
    # No look beforehand at what is missing: nearly every event is whole, and attrs looks anyway.
    except TypeError:
        needed = [field for field in _own_fields(cls) if field.default is attrs.NOTHING and field.name not in values]
        missing = ", ".join(map(json_name, needed)) or "nothing"
        text = f"event_data of {event_type!r} is not what the type has; missing: {missing}"
        raise EventError(text, path="event_data") from None


_NAMES: Final[dict[type[Event], dict[str, str]]] = {}
"""The attributes of an event's own data by their names in JSON, by class."""


def _names(cls: type[Event]) -> dict[str, str]:
    names = _NAMES[cls] = {json_name(field): field.name for field in _own_fields(cls)}
    return names


def _checked(params: dict[str, Any], name: str, kind: type) -> Any:
    value = params.get(name)
    # By type: True is an int, and no `seq`.
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
