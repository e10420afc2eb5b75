"""What a tool returned, as plugins are shown it: what the model will read, and nothing else.

Instances of dataclasses and attrs classes become objects with their fields, before anything looks at the value of a
plugin's handler, so that the agent, other plugins' transforms and the journal see the same.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, Final

import attrs

from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.conversation import ToolResult
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.frozen import MAX_DEPTH, FrozenDict, unreadable
from ally_plugins.contract.values.shown import media

__all__ = ["changed_value", "json_text", "result_of_value", "returned_data", "settled_value"]

_UNSAYABLE: Final = (TypeError, ValueError, RecursionError)
"""What writing or reading JSON raises."""

_PLAIN: Final = frozenset({str, int, float, bool, type(None), FrozenDict, ToolResult})


def returned_data(value: Any) -> Any:
    """Return what a handler returned with every instance in it as a mapping of its fields, all of them, by name.

    What is no instance of such a class stays as it is, and is refused later where JSON has no form for it; so does
    what lies deeper than values may. Raises EventError for an object that raises when it is looked at.
    """
    try:
        return _data(value, 0)
    except Exception as error:  # noqa: BLE001 - a class of somebody's own may do anything
        raise unreadable(error, "") from None


def _data(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _PLAIN or depth > MAX_DEPTH:
        return value
    if kind is dict or (kind is not list and kind is not tuple and isinstance(value, Mapping)):
        return {key: _data(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_data(item, depth + 1) for item in value]
    names = _fields(kind)
    return value if names is None else {name: _data(getattr(value, name), depth + 1) for name in names}


def result_of_value(
    value: Any, write: Callable[[Any], str] | None = None, read: Callable[[str], Any] = json.loads
) -> ToolResult:
    """Return a tool's value as plugins are shown it: as text, and as data where it is no text.

    `write` says it to the model, as JSON; `read` is its other way. What cannot be said has `unshown`, with the reason:
    its output is withheld where a plugin transforms it.
    """
    if value.__class__ is str:  # not a subclass: an enumeration of texts is said by its value
        return ToolResult(success=True, output=value)
    try:
        text = (write or json_text)(value)
    except _UNSAYABLE as error:
        return ToolResult(success=True, unshown=f"{type(value).__name__} is nothing that JSON can say: {error}")
    try:
        # Read back from the text: data and text say the same, and the tool's object may change later.
        data = read(text)
        if data is None or isinstance(data, str):
            return ToolResult(success=True, output=data or "")
        return ToolResult(success=True, output=text, data=data)
    except (EventError, *_UNSAYABLE) as error:  # too deep to be read, or one of the limits
        return ToolResult(success=True, output=text, unshown=str(error))


def settled_value(
    value: Any, write: Callable[[Any], str] | None = None, read: Callable[[str], Any] = json.loads
) -> Any:
    """Return a value as its JSON has it, so that it is what plugins are shown whatever becomes of the tool's object.

    What JSON cannot say is returned as it is.
    """
    if value.__class__ is str:
        return value
    try:
        return read((write or json_text)(value))
    except _UNSAYABLE:
        return value


def changed_value(before: ToolResult, after: ToolResult) -> Any:
    """Return what transforms made of a tool's value: changed data, else the text."""
    is_data = after.data is not None and after.data != before.data  # without its data, the text is left
    return thaw(after.data) if is_data else after.output


def json_text(value: Any) -> str:
    """Return a value as JSON: dataclasses, models and enumerations as what they hold, bytes as what they are.

    Raises TypeError, ValueError or RecursionError for what JSON cannot say.
    """
    return json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return media("bytes", None, value)
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, Enum):
        return value.value
    if (names := _fields(type(value))) is not None:
        return {name: getattr(value, name) for name in names}
    if callable(dump := getattr(value, "model_dump", None)):  # of pydantic, which need not be there
        return dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _fields(kind: type) -> Iterator[str] | None:
    """Return the names of the fields of a class's instances, None for a class that declares none."""
    # By the class and not the instance: an object may answer for its own `__class__`.
    if attrs.has(kind):
        return (each.name for each in attrs.fields(kind))
    return (each.name for each in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else None
