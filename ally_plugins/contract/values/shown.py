"""What counts as shown to a gate or a transform: one table, the same inline and on the wire.

A value within it reaches a plugin as it is, in every placement. One outside of it is never shown as something else:
the call is denied, the output withheld. What is not JSON (an image) is shown as its type, size and digest.

| what | limit |
|---|---|
| nesting | `MAX_DEPTH` containers in each other |
| size | `MAX_SHOWN_BYTES` of JSON |
| numbers | finite; whole ones from `MIN_INTEGER` to `MAX_INTEGER` |
| text | Unicode without lone surrogates |
| keys | text |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from .codec import MAX_INTEGER, MIN_INTEGER, shown_text, unstructure, walk
from .errors import EventError
from .frozen import EMPTY, MAX_DEPTH, FrozenDict, freeze, freeze_mapping

__all__ = [
    "MAX_DEPTH",
    "MAX_INTEGER",
    "MAX_SHOWN_BYTES",
    "MIN_INTEGER",
    "UNSHOWN",
    "find_unshown",
    "media",
    "shown_arguments",
    "shown_data",
    "shown_text",
]

UNSHOWN: Final = "unshown"
"""The key of a recorded call's arguments under which stands, as text, what is no JSON object or cannot be shown."""

MAX_SHOWN_BYTES: Final = 6 * 1024 * 1024
"""A call and its result fit, with a conversation beside them, into the 16 MiB that a daemon reads at once."""


def shown_arguments(value: Mapping[str, Any] | None) -> FrozenDict:
    """Return a frozen copy of a call's arguments. Raises EventError, which names the path, for what cannot be shown."""
    frozen = freeze_mapping(value)
    if frozen is not EMPTY and (why := find_unshown(frozen, "arguments")) is not None:
        raise EventError(why, path="arguments")
    return frozen


def shown_data(value: Any) -> Any:
    """Return a frozen copy of a result's data. Raises EventError, which names the path, for what cannot be shown.

    They may be of any size, which counts where a plugin is asked about the result.
    """
    frozen = freeze(value)
    if frozen is not None and (why := _find_unencodable(frozen, "data")) is not None:
        raise EventError(why, path="data")
    return frozen


def media(kind: str, media_type: str | None, content: bytes) -> dict[str, Any]:
    """Return what is shown of media: what they are, how many bytes, and the digest that tells them apart."""
    import hashlib  # only where there are media: a daemon's start pays for each import

    return {
        "type": kind,
        "mediaType": media_type,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def find_unshown(value: Any, name: str = "value") -> str | None:
    """Return why a value, attrs values in it as objects, cannot be shown as it is; None when it can.

    Nesting, and numbers that are not finite, were refused when it was frozen.
    """
    return _find_unencodable(value, name, MAX_SHOWN_BYTES)


def _find_unencodable(value: Any, name: str, most: int | None = None) -> str | None:
    try:
        # orjson gives both at once: whether all of it is JSON, and its size.
        size = len(orjson.dumps(value, default=unstructure))
    except Exception:  # noqa: BLE001 - a class of somebody's own may raise anything; orjson does not name the place
        try:
            wrong = (f"{path} {why}" for held, path, _ in walk(value, name) if (why := _unencodable(held)))
            return next(wrong, f"{name} is no JSON value")
        except Exception as error:  # noqa: BLE001 - as above; or it holds itself
            return f"{name} raises {type(error).__name__} when it is looked at"
    if most is not None and size > most:
        return f"{name} takes {size:,} bytes of JSON; expected {most:,} at most"
    return None


def _unencodable(value: Any) -> str:
    """Return why JSON cannot represent a value, and what was expected; empty when it can."""
    if isinstance(value, str) and shown_text(value) != value:
        return "has a lone surrogate, which no UTF-8 can say"
    if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        return f"is a whole number of {value.bit_length()} bits; expected 64 at most, or text"
    if isinstance(value, Mapping) and not all(isinstance(key, str) for key in value):
        return "has a key that is no text"
    return ""
