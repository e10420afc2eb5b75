"""What a decision's record keeps of the value that was decided on: whole, shortened, or as a digest and its shape.

The value is the one that gates were shown, after transforms, as the event of the call has it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import Message, ToolCall
from ally_plugins.contract.values.errors import EncodeError
from ally_plugins.contract.values.eventjson import event_data
from ally_plugins.contract.values.events import Event

__all__ = ["MAX_DECIDED_BYTES", "decided_value"]

MAX_DECIDED_BYTES: Final = 16 * 1024
"""Bytes of JSON that are kept whole: a long command or patch fits, and a million decisions do not fill a disk."""

_MAX_TEXT: Final = 1_000  # characters of a text in a value that is too large to be kept whole
_MAX_ITEMS: Final = 32  # entries of one of its lists or objects
_MAX_DEPTH: Final = 6
_WORDS: Final = re.compile(r"[a-z]{1,20}(?:_?[A-Z]?[a-z]{2,20}){0,3}")
"""What names a field and is no credential: words, `file_path` or `filePath`, without digits."""

_KINDS: Final = {bool: "true or false", int: "whole number", float: "number", type(None): "null"}


def decided_value(value: Any, *, salt: bytes | None) -> dict[str, Any]:
    """Return what is recorded of a call, a permission request or a message; never raises.

    With `salt` the value is sensitive, and only what tells it apart from others is kept: `digest`, the SHA-256 of the
    salt and the value's JSON, and its `shape`. Otherwise `value` is the value itself, or what is left of one of more
    than `MAX_DECIDED_BYTES`, with its `bytes` and the SHA-256 of its JSON; or `unshown` says why it is no JSON.
    """
    shown = _shown(value)
    try:
        text = encode(shown)
        # Read back, so that what is kept is what was hashed: texts repaired, mappings and tuples as JSON has them.
        plain = orjson.loads(text)
    # What cannot be printed is no reason to lose the record of the decision.
    except (EncodeError, RecursionError) as error:
        return {"unshown": str(error) or type(error).__name__}
    if salt is not None:
        # Salted: the digest of a short secret could be found by trying.
        digest = hashlib.sha256(salt + text).hexdigest()
        return {"sensitive": True, "salt": salt.hex(), "digest": digest, "shape": _shape(plain, 0)}
    if len(text) <= MAX_DECIDED_BYTES:
        return {"value": plain}
    short = _shortened(plain, 0)
    # Many texts that were each shortened may still be too much together.
    kept = {"value": short} if len(orjson.dumps(short)) <= MAX_DECIDED_BYTES else {"shape": _shape(plain, 0)}
    return {**kept, "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}


def _shown(value: Any) -> Any:
    if isinstance(value, ToolCall):
        return {"arguments": value.arguments}
    if isinstance(value, Message):
        return {"role": value.role, "content": value.content}
    return event_data(value) if isinstance(value, Event) else value


def _shortened(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        more = len(value) - _MAX_TEXT
        return value if more <= 0 else f"{value[:_MAX_TEXT]}... ({more:,} characters more)"
    if isinstance(value, (Mapping, list)) and depth == _MAX_DEPTH:
        return _shape(value, depth)
    if isinstance(value, Mapping):
        kept = {_shortened(name, depth): _shortened(item, depth + 1) for name, item in list(value.items())[:_MAX_ITEMS]}
        more = len(value) - _MAX_ITEMS
        return kept if more <= 0 else {**kept, "...": f"{more:,} more"}
    if isinstance(value, list):
        more = len(value) - _MAX_ITEMS
        items = [_shortened(item, depth + 1) for item in value[:_MAX_ITEMS]]
        return items if more <= 0 else [*items, f"... {more:,} more"]
    return value


def _shape(value: Any, depth: int) -> Any:
    """Return of what kind and how large a value is; of the names of fields only those that are plain words."""
    if isinstance(value, str):
        return f"text of {len(value):,} characters"
    if isinstance(value, (Mapping, list)) and (depth == _MAX_DEPTH or len(value) > _MAX_ITEMS):
        return f"{'object' if isinstance(value, Mapping) else 'list'} of {len(value):,}"
    if isinstance(value, Mapping):
        names = [name if _WORDS.fullmatch(name) else f"({number})" for number, name in enumerate(value, 1)]
        return {name: _shape(item, depth + 1) for name, item in zip(names, value.values(), strict=True)}
    if isinstance(value, list):
        return [_shape(item, depth + 1) for item in value]
    return _KINDS.get(type(value), "value")
