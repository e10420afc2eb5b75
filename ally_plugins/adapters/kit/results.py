"""What a tool returned, as plugins are shown it: what the model will read, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from enum import Enum
from typing import Any

import attrs

from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.conversation import ToolResult
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.shown import media

__all__ = ["changed_value", "json_text", "result_of_value", "settled_value"]

_UNSAYABLE = (TypeError, ValueError, RecursionError)
"""What writing or reading JSON raises."""


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
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if attrs.has(type(value)):
        return {each.name: getattr(value, each.name) for each in attrs.fields(type(value))}
    if callable(dump := getattr(value, "model_dump", None)):  # of pydantic, which need not be there
        return dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")
