"""Calls as plugins read them in a conversation's history, which has such too that were never shown to a gate."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import frozen

from ally_plugins.contract.values.conversation import Message, ToolCall
from ally_plugins.contract.values.errors import EventError, GateRefused
from ally_plugins.contract.values.shown import MAX_SHOWN_BYTES, UNSHOWN, find_unshown, shown_text

__all__ = ["CutCall", "arguments_of", "recorded_call", "refuse_cut_calls"]

_LONGEST_ESCAPE: Final = 6
"""Bytes that one character may take in JSON."""


@frozen
class CutCall(ToolCall):
    """A call of a history whose arguments are too large to be shown: plugins read their size alone."""


def recorded_call(tool_name: str, arguments: Mapping[str, Any] | str, call_id: str | None) -> ToolCall:
    """Return a call of a history as plugins read it in the conversation; `arguments` may be JSON text.

    Arguments that are no JSON object, or cannot be shown to plugins, are there as text under the key `unshown`; if too
    large, only their size. Such a call was denied or failed its check: no gate decides by this value.
    """
    try:
        return ToolCall(tool_name, arguments_of(arguments), call_id)
    except (ValueError, RecursionError, EventError):
        text = shown_text(_arguments_text(arguments))
        if _is_cut(text):
            return CutCall(tool_name, {UNSHOWN: f"{len(text):,} characters"}, call_id)
        return ToolCall(tool_name, {UNSHOWN: text}, call_id)


def refuse_cut_calls(messages: Iterable[Message]) -> None:
    """Raise GateRefused for a request with a call that is too large to be shown: plugins would see its size alone."""
    for call in (call for message in messages for call in message.tool_calls):
        if isinstance(call, CutCall):
            text = f"the request cannot be shown to plugins: a call of {call.tool_name!r} in it is too large"
            raise GateRefused(text, plugin=None)


def arguments_of(arguments: Mapping[str, Any] | str) -> Mapping[str, Any]:
    """Return arguments, which may be JSON text, as the object that they are. Raises ValueError or EventError."""
    # Not our codec, which reads a whole number of more than 64 bits as another one.
    found = json.loads(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(found, Mapping):
        raise EventError(f"the arguments are {type(found).__name__}; expected an object")
    return found


def _arguments_text(arguments: object) -> str:
    """Return arguments as text, for a history; of such that have none, why, so that the conversation goes on."""
    if isinstance(arguments, str):
        return arguments
    try:
        return repr(arguments)
    except Exception as error:  # noqa: BLE001 - an integer of thousands of digits, a class of somebody's own
        return f"a {type(arguments).__name__} that raises {type(error).__name__} when it is printed"


def _is_cut(arguments: str) -> bool:
    """Return whether arguments, as text, are too large for plugins: then `recorded_call` has only their size."""
    # The cheap look first: nearly all arguments are far too short to be cut.
    return len(arguments) * _LONGEST_ESCAPE > MAX_SHOWN_BYTES and find_unshown(arguments) is not None
