"""Values to JSON and back: one strict converter, and the one JSON codec.

snake_case here is camelCase in JSON; what an event says is `eventjson`'s. A wrong type is refused with the path of the
field: cattrs coerces by default (`"no"` would become True), so every scalar has a strict hook.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_origin

import orjson

from .errors import EncodeError, EventError
from .eventjson import camel, event_params
from .events import Event, keep_json
from .frozen import FrozenDict, freeze_mapping

if TYPE_CHECKING:
    from cattrs import Converter

__all__ = ["decode", "encode", "encoded", "shown_text", "structure", "unstructure", "walk"]

T = TypeVar("T")

_MAX_INT: Final = 2**63 - 1  # orjson writes 64-bit integers; larger ones are written as text
_DEEP: Final = 254  # containers within containers that orjson writes; ours are refused long before
_SAID: Final = (str, float, int, Mapping, list, tuple, set, frozenset)


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
        if event.seq:  # what was not emitted will be stamped, and then says something else
            keep_json(event, text)
    return text


def structure(cls: type[T], value: Any, *, name: str = "", rename: Any = None) -> T:
    """Return `value` as a `cls`, strictly: nothing is coerced.

    Raises EventError whose text names the path of the first wrong field, below `name`; `rename` turns a field's name
    into the one that the sender used.
    """
    from cattrs.errors import BaseValidationError, StructureHandlerNotFoundError

    try:
        return _converter().structure(value, cls)
    except (BaseValidationError, StructureHandlerNotFoundError, ValueError, TypeError, KeyError) as error:
        path, reason = _first_problem(error, rename)
        where = ".".join(part for part in (name, path) if part) or cls.__name__
        message = f"{where}: {reason}"
        raise EventError(message, path=path) from None


@cache
def _converter() -> Converter:
    from cattrs import Converter

    converter = Converter(forbid_extra_keys=False, detailed_validation=True)
    for kind in (str, bool):
        converter.register_structure_hook(kind, _strict(kind))
    converter.register_structure_hook(int, _strict_int)
    converter.register_structure_hook(float, _strict_float)
    converter.register_structure_hook(FrozenDict, lambda value, _: _strict_mapping(value))
    inner = converter.copy()  # what cattrs itself makes of a list, which takes a string for one
    converter.register_structure_hook_factory(_is_tuple, lambda kind: _strict_list(inner.get_structure_hook(kind)))
    return converter


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _strict_list(structure_items: Any) -> Any:
    def hook(value: Any, kind: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return structure_items(value, kind)
        message = f"expected a list, found {_described(value)}"
        raise ValueError(message)

    return hook


def _strict(kind: type[Any]) -> Any:
    def hook(value: Any, _: Any) -> Any:
        if type(value) is kind:
            return value
        message = f"expected {_NAMES[kind]}, found {_described(value)}"
        raise ValueError(message)

    return hook


_NAMES: Final = {str: "a string", bool: "true or false"}


def _strict_int(value: Any, _: Any) -> int:
    if type(value) is int:
        return value
    message = f"expected an integer, found {_described(value)}"
    raise ValueError(message)


def _strict_float(value: Any, _: Any) -> float:
    if type(value) in {int, float}:
        return float(value)
    message = f"expected a number, found {_described(value)}"
    raise ValueError(message)


def _strict_mapping(value: Any) -> FrozenDict:
    if isinstance(value, Mapping):
        return freeze_mapping(value)
    message = f"expected an object, found {_described(value)}"
    raise ValueError(message)


def _described(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"  # noqa: PLR2004


def _first_problem(error: BaseException, rename: Any) -> tuple[str, str]:
    """Follow a cattrs group to its first leaf; return the path that its notes tell, and the leaf's text."""
    path: list[str] = []
    while isinstance(error, BaseExceptionGroup):
        inner = error.exceptions[0]
        path.extend(_noted(inner, rename))
        error = inner
    if isinstance(error, KeyError):
        return ".".join(path), "is missing"
    return ".".join(path), str(error)


def _noted(error: BaseException, rename: Any) -> list[str]:
    for note in getattr(error, "__notes__", ()):
        name = getattr(note, "name", None)
        if isinstance(name, str):
            return [rename(name) if rename else name]
        index = getattr(note, "index", None)
        if index is not None:
            return [f"[{index}]"]
    return []


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
    """Return a text as whoever reads it gets it: a lone surrogate, which no UTF-8 can say, is U+FFFD."""
    if not isinstance(text, str) or text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def _encode_error(value: Any, error: Exception) -> EncodeError:
    """Return the error for a value that could not be encoded: where the first thing is that JSON cannot say, and what.

    It is never quoted, since it may be secret.
    """
    try:
        wrong = ((path, _why_unsayable(held, depth)) for held, path, depth in walk(value))
        path, found = next((each for each in wrong if each[1]), ("", ""))
    except Exception:  # noqa: BLE001 - an object in it raises when it is looked at
        path, found = "", ""
    problem = f"is {found}" if found else f"raises {type(error).__name__}"
    return EncodeError(f"{path[:160] or 'the value'} {problem}, which cannot be said in JSON", path=path, found=found)


def _why_unsayable(value: Any, depth: int) -> str:
    if depth > _DEEP:
        return f"nested deeper than {_DEEP} levels"
    if isinstance(value, int):
        try:
            str(value)
        except ValueError:  # Python makes no text of more than 4,300 digits
            return f"an integer of {value.bit_length()} bits"
    is_said = value is None or isinstance(value, _SAID) or hasattr(type(value), "__attrs_attrs__")
    return "" if is_said else f"of the type {type(value).__name__}"


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
