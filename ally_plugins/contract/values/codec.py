"""Values to JSON and back: the one JSON codec.

snake_case here is camelCase in JSON. The JSON form of an event is in `eventjson`; reading other values is in `shapes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from .errors import EncodeError
from .eventjson import camel, event_params
from .events import Event, keep_json

__all__ = ["decode", "encode", "encoded", "shown_text", "unstructure", "walk"]

_MAX_INT: Final = 2**63 - 1  # orjson writes 64-bit integers; larger ones are written as text
_DEEP: Final = 254  # containers within containers that orjson writes; ours are refused long before
_ENCODABLE: Final = (str, float, int, Mapping, list, tuple, set, frozenset)


def encode(value: Any) -> bytes:
    """Return `value` as JSON text in UTF-8, attrs values as objects.

    Lone surrogates become `?`, integers over 64 bits text. Raises EncodeError, which names the path and what is there,
    and nothing else: for objects that are not values, integers that Python does not print, what is nested too deep.
    """
    try:
        return orjson.dumps(value, default=unstructure)
    except TypeError:
        pass
    try:
        return orjson.dumps(_repaired(value), default=unstructure)
    except Exception as error:  # noqa: BLE001 - an object in it may raise anything
        raise _encode_error(value, error) from None


def decode(data: bytes | str) -> Any:
    """Return the value of a JSON text; of duplicate keys the last wins. Raises ValueError when it is not JSON."""
    return orjson.loads(data)


def encoded(event: Event) -> bytes:
    """Return what `encode` makes of an event; made once for all who want it, and kept with the event while that lives.

    For an event that may have other readers: to look in vain costs a fifth of making it. Raises EncodeError.
    """
    text: bytes | None = getattr(event, "kept_json", None)
    if text is None:
        text = encode(event_params(event))
        if event.seq:  # an event that was not emitted will be stamped, which changes its JSON
            keep_json(event, text)
    return text


def unstructure(value: Any) -> Any:
    """Return a value of ours as the codec takes it, one level deep. Raises TypeError for what is none."""
    if isinstance(value, Event):
        return event_params(value)
    fields = getattr(type(value), "__attrs_attrs__", None)
    if fields is not None:
        return {camel(a.name): getattr(value, a.name) for a in fields if getattr(value, a.name) is not None}
    if isinstance(value, (frozenset, set)):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    message = f"{type(value).__name__} is not a value that JSON can say"
    raise TypeError(message)


def walk(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[Any, str, int]]:
    """Yield a value and all that it holds, outer before inner: each with its path and the containers around it.

    Our own values are looked into as the objects that they are in JSON; the keys of an object are yielded too. Raises
    whatever the values raise when they are looked at; what holds itself never ends, but for RecursionError.
    """
    yield value, path, depth
    if hasattr(type(value), "__attrs_attrs__"):
        yield from walk(unstructure(value), path, depth + 1)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            name = f"{shown_text(str(key)):.80}"
            where = f"{path}.{name}" if path else name
            if isinstance(key, str):
                yield key, f"the key {where}", depth + 1
            yield from walk(item, where, depth + 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(value):
            yield from walk(item, f"{path}[{index}]", depth + 1)


def shown_text(text: str) -> str:
    """Return a text as whoever reads it gets it: a lone surrogate, which UTF-8 cannot encode, is U+FFFD."""
    if not isinstance(text, str) or text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def _encode_error(value: Any, error: Exception) -> EncodeError:
    """Return the error for a value that could not be encoded: the path and kind of the first thing that JSON lacks.

    It is never quoted, since it may be secret.
    """
    try:
        wrong = ((path, _unencodable(held, depth)) for held, path, depth in walk(value))
        path, found = next((each for each in wrong if each[1]), ("", ""))
    except Exception:  # noqa: BLE001 - an object in it raises when it is looked at
        path, found = "", ""
    problem = f"is {found}" if found else f"raises {type(error).__name__}"
    return EncodeError(f"{path[:160] or 'the value'} {problem}, which cannot be said in JSON", path=path, found=found)


def _unencodable(value: Any, depth: int) -> str:
    if depth > _DEEP:
        return f"nested deeper than {_DEEP} levels"
    if isinstance(value, int):
        try:
            str(value)
        except ValueError:  # Python makes no text of more than 4,300 digits
            return f"an integer of {value.bit_length()} bits"
    is_encodable = value is None or isinstance(value, _ENCODABLE) or hasattr(type(value), "__attrs_attrs__")
    return "" if is_encodable else f"of the type {type(value).__name__}"


def _repaired(value: Any) -> Any:  # noqa: PLR0911 - one for each kind of JSON
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -_MAX_INT <= value <= _MAX_INT else str(value)
    if isinstance(value, Mapping):
        return {_repaired(str(key)): _repaired(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_repaired(item) for item in value]
    if isinstance(value, float):
        return value
    return _repaired(unstructure(value))
