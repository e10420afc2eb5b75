"""What a model or a tool left that no later request could carry: text that is no Unicode, two calls with one id.

A lone surrogate (a file name that is no UTF-8 has them, a careless server's JSON too) or a doubled id would fail each
later request, and the conversation could not go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import is_
from typing import Any

from ally_plugins.contract.values.shown import shown_text

__all__ = ["mended_value", "new_call_id"]


def mended_value(value: Any) -> Any:
    """Return a value whose texts can be sent; the same one when they can. Objects that are not plain are left alone."""
    if isinstance(value, str):
        return value if value.isascii() else shown_text(value)
    if isinstance(value, Iterator):  # plugins and the model read it, and it can be read once
        return mended_value(list(value))
    # Exact types: a subclass may not be made from a list of items (a named tuple).
    if value.__class__ in {list, tuple}:
        items = [mended_value(item) for item in value]
        return value if all(map(is_, items, value)) else value.__class__(items)
    if value.__class__ is dict:
        mended = {mended_value(key): mended_value(item) for key, item in value.items()}
        return value if all(map(is_, mended.values(), value.values())) and mended.keys() == value.keys() else mended
    return value


def new_call_id(call_id: str, taken: set[str]) -> str:
    """Return an id for a call that no other of the response has, its own if it can be, and add it to those taken."""
    found, number = shown_text(call_id), 1
    while found in taken:
        number += 1
        found = f"{call_id}-{number}"
    taken.add(found)
    return found
