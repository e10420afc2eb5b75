"""Values to JSON and back: the one JSON codec.

snake_case here is camelCase in JSON. The JSON form of an event is in `eventjson`; reading other values is in `shapes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

import orjson

from .errors import EncodeError
from .eventjson import camel, event_params
from .events import Event, keep_json

__all__ = [
    "MAX_INTEGER",
    "MIN_INTEGER",
    "LongInteger",
    "ascii_json",
    "decode",
    "decode_lenient",
    "encode",
    "encode_exactly",
    "encoded",
    "find_long_integer",
    "shown_text",
    "unstructure",
    "walk",
]

MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**64 - 1
"""What 64 bits hold, signed or not; larger ones are no number any more to most readers of JSON: orjson makes them text
where it writes, and floats, which are other numbers, where it reads."""

_ALL_DIGITS_ZERO: Final = bytes.maketrans(b"123456789", b"0" * 9)
_LONG: Final = b"0" * 19
"""Digits of the first numbers that 64 bits may not hold."""
_DEEP: Final = 254  # containers within containers that orjson writes; ours are refused long before
_ENCODABLE: Final = (str, float, int, Mapping, list, tuple, set, frozenset)
_NOT_ASCII: Final = re.compile("[^\0-\x7e]")
"""DEL and all beyond ASCII, which JSON has inside texts only; its writer has escaped the other control characters."""


def encode(value: Any) -> bytes:
    """Return `value` as JSON text in UTF-8, attrs values as objects.

    Lone surrogates become `?`, integers over 64 bits text. Raises EncodeError, which names the path and what is there,
    and nothing else: for objects that are not values, integers that Python does not print, what is nested too deep.
    """
    try:
        return orjson.dumps(value, default=unstructure)
    except TypeError:
        # Repaired only when orjson refuses it: hardly any value needs that, and it copies all of it.
        return _encode_repaired(value)


def encode_exactly(value: Any, may_change: str = "") -> bytes:
    """Do the same for values that others calculate with: an integer over 64 bits is an EncodeError, not a text.

    What stands at the path `may_change` is written as `encode` does it.
    """
    try:
        return orjson.dumps(value, default=unstructure)
    except TypeError:
        _refuse_long_integers(value, may_change)
        return _encode_repaired(value)


def _encode_repaired(value: Any) -> bytes:
    try:
        return orjson.dumps(_repaired(value), default=unstructure)
    except Exception as error:  # noqa: BLE001 - an object in it may raise anything
        raise _encode_error(value, error) from None


def ascii_json(text: bytes) -> bytes:
    """Return a JSON text of `encode` in printable ASCII, everything else as escapes: the same values.

    For files that people look at, since nothing in it acts on a terminal.
    """
    if text.isascii() and b"\x7f" not in text:
        return text
    return _NOT_ASCII.sub(_escape, text.decode()).encode("ascii")


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be")  # two for what has a number over 16 bits
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def decode(data: bytes | str) -> Any:
    """Return the value of a JSON text; of duplicate keys the last wins.

    Raises ValueError when it is not JSON, LongInteger for what would become another number.
    """
    try:
        return orjson.loads(data)
    finally:
        # Also where orjson has refused the text: it does so for some of these numbers, and does not name the place.
        if (found := find_long_integer(data)) is not None:
            raise LongInteger(found[1])


def decode_lenient(data: bytes, *, keeps_long: bool = False) -> Any:
    """Decode what another program has written: lone surrogates, which others read, become question marks.

    Programs that cut texts by UTF-16 units, in the middle of an emoji, write them, and Python for the bytes of a file's
    name that are no UTF-8. Raises as `decode`; with `keeps_long` integers of more than 64 bits are read as what they
    are.
    """
    try:
        return decode(data)
    # Before ValueError, of which it is one.
    except LongInteger:
        if not keeps_long:
            raise
    except ValueError:
        if b"\\ud" not in data and b"\\uD" not in data:
            raise
    import json  # hardly any text needs it

    try:
        value = json.loads(data, parse_constant=_refuse_constant)
        text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return json.loads(text) if keeps_long else decode(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class LongInteger(ValueError):
    """A JSON text holds an integer of more than 64 bits; its text names the place."""


def find_long_integer(data: bytes | str) -> tuple[Any, str] | None:
    """Look for an integer of more than 64 bits in a JSON text, which the codec reads as a float, or not at all.

    Return the value of the text, with some object in the place of each such integer, and a sentence with the place of
    the first and what was expected. None for a text without one, which costs a third of decoding, and for what is no
    JSON.
    """
    text = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    # Twice: digits in texts (ids, hashes) are frequent, and to take texts out costs more than the first look.
    if _LONG not in text.translate(_ALL_DIGITS_ZERO) or _LONG not in _outside_texts(text).translate(_ALL_DIGITS_ZERO):
        return None
    import json  # hardly any text has such numbers

    found: list[int] = []

    def read(digits: str) -> Any:
        # By length first: `int` takes quadratic time, and raises beyond 4,300 digits.
        if len(digits) <= len(str(MIN_INTEGER)) and _fits(int(digits)):
            return int(digits)
        found.append(len(digits.lstrip("-")))
        return _TOO_LONG

    try:
        value = json.loads(text, parse_int=read)
    except (ValueError, RecursionError):  # no JSON, which is the reader's to say, or nested deeper than a call stack
        return None
    if not found:
        return None
    place = "a value" if len(text) > _PLACES_NAMED else next(path for held, path, _ in walk(value) if held is _TOO_LONG)
    return value, f"{place or 'the value'} is an integer of {found[0]} digits; expected 64 bits at most, or text"


_TOO_LONG: Final = object()
_PLACES_NAMED: Final = 64 * 1024
"""Bytes of a text in which the place of a value is looked for: it takes a hundred times as long as decoding."""


def _outside_texts(text: bytes) -> bytes:
    """Return a JSON text without the texts in it."""
    # A backslash stands in texts only, so without its pairs every quote left is one that opens or closes.
    return b" ".join(text.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])


def _fits(value: int) -> bool:
    return MIN_INTEGER <= value <= MAX_INTEGER


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
    # Before the values of attrs, of which an event is one: its JSON has the envelope in a form of its own.
    if isinstance(value, Event):
        return event_params(value)
    fields = getattr(type(value), "__attrs_attrs__", None)
    if fields is not None:
        return {camel(a.name): getattr(value, a.name) for a in fields if getattr(value, a.name) is not None}
    if isinstance(value, (frozenset, set)):
        # So that equal sets have equal JSON, whatever the order of their hashes.
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
    """Return a text as whoever reads it gets it: a lone surrogate, which UTF-8 cannot encode, is U+FFFD.

    A subclass of str becomes the text that JSON has of it, whatever its own `str()` says. Raises TypeError for an
    object that only calls itself a text.
    """
    if type(text) is not str:
        if not isinstance(text, str):
            return text
        text = str.__str__(text)
    if text.isascii():
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


def _refuse_long_integers(value: Any, may_change: str) -> None:
    """Raise EncodeError for the first integer that 64 bits do not hold, but for those below the path `may_change`."""
    try:
        for held, path, _ in walk(value):
            is_kept = not may_change or not path.startswith(may_change)
            if isinstance(held, int) and is_kept and not _fits(held):
                break
        else:
            return
    except Exception:  # noqa: BLE001 - an object in it raises when it is looked at: `_encode_error` says which
        return
    found = f"an integer of {held.bit_length()} bits"
    text = f"{path[:160] or 'the value'} is {found}; expected 64 at most, or text"
    raise EncodeError(text, path=path, found=found)


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
    # Before the integers, since True is one.
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if _fits(value) else str(value)
    if isinstance(value, Mapping):
        return {_repaired(str(key)): _repaired(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_repaired(item) for item in value]
    if isinstance(value, float):
        return value
    return _repaired(unstructure(value))
