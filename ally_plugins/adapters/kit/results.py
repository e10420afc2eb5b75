"""What a tool returned, as plugins are shown it: what the model will read, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ally_plugins.contract.tools.returned import json_text
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.conversation import ToolResult
from ally_plugins.contract.values.errors import EventError

__all__ = ["changed_value", "result_of_value", "settled_value"]

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
