"""Whether the arguments of an outbound call are acceptable: role, text, key, event type and data, chain of origin.

Each check raises ValidationRefused, which names the field, what was found and what is expected, and nothing else. What
was found is described, never quoted at length: it may be a secret.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Any, Final

import orjson

from ally_plugins.contract.values.conversation import DELIVER_AS, ROLES
from ally_plugins.contract.values.errors import HopLimitRefused, ValidationRefused
from ally_plugins.contract.values.events import EVENT_TYPES

__all__ = [
    "MAX_CHAIN",
    "MAX_DATA_BYTES",
    "MAX_DATA_DEPTH",
    "MAX_DATA_NODES",
    "MAX_KEY_CHARS",
    "MAX_TEXT_BYTES",
    "check_deliver_as",
    "check_event_data",
    "check_event_type",
    "check_key",
    "check_name",
    "check_role",
    "check_text",
    "extend_chain",
    "find_text_problem",
]

MAX_TEXT_BYTES: Final = 65_536  # design, section 6
MAX_DATA_BYTES: Final = 65_536  # as a message: both go into the journal and to every subscriber
MAX_DATA_DEPTH: Final = 32  # containers within containers; JSON of real events stays under ten
MAX_DATA_NODES: Final = 10_000  # values in all; 64 KiB of numbers are more, and nobody reads those
MAX_KEY_CHARS: Final = 256  # a key is a name or a hash; what payment services allow, 255, fits
MAX_CHAIN: Final = 8  # design, section 4

_CONTROLS: Final = bytes(c for c in range(32) if c not in b"\n\t") + b"\x7f"
_C1: Final = re.compile(rb"\xc2[\x80-\x9f]")  # U+0080 to U+009F in UTF-8
_ANY_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_QUOTED: Final = 40  # characters of a wrong value that an error quotes; a choice is shorter, most secrets are not
_EXPECTED: Final = "expected a plain string, finite number, boolean, None, list or dict"
# `\Z`, since `$` matches before a newline at the end as well.
_KEY: Final = re.compile(r"[!-~]+(?: [!-~]+)*\Z")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_SHORT_TYPE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


def check_role(role: object) -> str:
    """Return `role` when a plugin's message may have it."""
    return _check_choice(role, "role", ROLES)


def check_deliver_as(deliver_as: object) -> str:
    """Return `deliver_as` when it is one of the moments at which a message may enter."""
    return _check_choice(deliver_as, "deliver_as", DELIVER_AS)


def check_text(text: object, max_bytes: int = MAX_TEXT_BYTES, *, field: str = "content") -> int:
    """Check the text of a plugin's message and return its size in bytes of UTF-8.

    It must be a string that is not empty, of `max_bytes` at most, without control characters other than newline and tab
    and without lone surrogates. Raises ValidationRefused.
    """
    # Encoding once and deleting bytes is the fastest scan there is: 0.5 µs for 300 characters, a regex takes three
    # times as long. Bytes below 0x80 are only ever themselves in UTF-8.
    if type(text) is str and text:
        try:
            data = text.encode()
        except UnicodeEncodeError:
            # A control character stands for it, so that the one slow way below words the refusal.
            data = b"\0"
        size = len(data)
        is_clean = len(data.translate(None, _CONTROLS)) == size and (b"\xc2" not in data or _C1.search(data) is None)
        if is_clean and size <= max_bytes:
            return size
    raise ValidationRefused(f"{field} {find_text_problem(text, max_bytes)}", field=field)


def find_text_problem(text: object, max_bytes: int = MAX_TEXT_BYTES) -> str | None:
    """Return what is wrong with a text, to stand after the name of its field, or None; the rules are `check_text`'s."""
    if not isinstance(text, str):
        return f"is {_describe(text)}; expected a string"
    if type(text) is not str:
        return f"is of the type {type(text).__name__}; expected a plain string, use str(...)"
    if not text:
        return "is empty; expected some text"
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        return f"has a lone surrogate at {error.start}; expected text that UTF-8 can say"
    if found := _ANY_CONTROL.search(text):
        return f"has the control character U+{ord(found[0]):04X} at {found.start()}; only newline and tab are accepted"
    return f"has {size} bytes of UTF-8; expected {max_bytes} at most" if size > max_bytes else None


def check_key(key: object) -> str:
    """Return an idempotency key when it is 1 to 256 printable ASCII characters, without spaces at its ends.

    Raises ValidationRefused for any other.
    """
    if type(key) is not str:
        raise ValidationRefused(f"key is {_describe(key)}; expected a string", field="key")
    if len(key) > MAX_KEY_CHARS:
        raise ValidationRefused(
            f"key has {len(key)} characters; expected {MAX_KEY_CHARS} at most, use a hash of it", field="key"
        )
    if _KEY.match(key) is None:
        raise ValidationRefused(
            f"key is {key!r}; expected printable ASCII, with single spaces only between words", field="key"
        )
    return key


def check_name(name: object, field: str = "name") -> str:
    """Return the name of a tool, action or task when it is 1 to 64 ASCII letters, digits, `_` and `-`.

    Model providers accept the same names for tools. Raises ValidationRefused for any other.
    """
    if type(name) is not str:
        raise ValidationRefused(f"{field} is {_describe(name)}; expected a string", field=field)
    if _NAME.match(name) is None:
        raise ValidationRefused(f"{field} is {name[:80]!r}; expected 1 to 64 letters, digits, '_' and '-'", field=field)
    return name


def check_event_type(plugin: str, event_type: object) -> str:
    """Return the full name `<plugin>:<type>` of a plugin's own event, given that or only the part after the colon.

    Built-in types and the names of other plugins are refused: a plugin emits only under its own name. Raises
    ValidationRefused.
    """
    if type(event_type) is not str:
        raise _refuse_type(f"event type is {_describe(event_type)}; expected a string", plugin)
    owner, colon, short = event_type.rpartition(":")
    if colon and owner != plugin:
        raise _refuse_type(
            f"event type is {event_type[:160]!r}; {plugin!r} emits only under its own name, '{plugin}:...'", plugin
        )
    if short in EVENT_TYPES:
        raise _refuse_type(f"{short!r} is a type of the host; expected a name of the plugin's own", plugin)
    if _SHORT_TYPE.match(short) is None:
        raise _refuse_type(
            f"event type is {event_type[:160]!r}; expected 1 to 64 letters, digits, '.', '_' and '-' after '{plugin}:'",
            plugin,
        )
    return f"{plugin}:{short}"


def check_event_data(data: object, max_bytes: int = MAX_DATA_BYTES, *, field: str = "data") -> bytes:
    """Check that `data` is an object that JSON can represent, and return it as JSON.

    Depth, number of values and size in bytes are limited. Tuples count as lists. Raises ValidationRefused.
    """
    if not isinstance(data, dict):
        raise ValidationRefused(f"{field} is {_describe(data)}; expected a dict", field=field)
    _check_values(data, field)  # before encoding: what shares its parts may be exponentially larger than it looks
    try:
        encoded = orjson.dumps(data)
    except (TypeError, ValueError) as error:  # an integer over 64 bits, a lone surrogate
        raise ValidationRefused(f"{field} cannot be written as JSON ({error})", field=field) from None
    if len(encoded) > max_bytes:
        raise ValidationRefused(f"{field} has {len(encoded)} bytes as JSON; expected {max_bytes} at most", field=field)
    return encoded


def extend_chain(origin: tuple[str, ...], plugin: str, limit: int = MAX_CHAIN) -> tuple[str, ...]:
    """Return the chain of plugins that led to what `plugin` does now, itself last.

    Raises HopLimitRefused when it would be longer than `limit`.
    """
    chain = (*origin, plugin)
    if len(chain) > limit:
        text = f"{' → '.join(chain)} would be {len(chain)} plugins that set each other off; expected {limit} at most"
        raise HopLimitRefused(text, plugin=plugin, chain=chain)
    return chain


def _check_choice(value: object, field: str, choices: tuple[str, ...]) -> str:
    # By identity of type first: a str subclass could answer `==` as it likes.
    if type(value) is str and value in choices:
        return value
    expected = ", ".join(map(repr, choices))
    raise ValidationRefused(f"{field} is {_describe(value)}; expected one of {expected}", field=field)


def _refuse_type(text: str, plugin: str) -> ValidationRefused:
    return ValidationRefused(text, plugin=plugin, field="type")


def _check_values(data: dict[Any, Any], field: str) -> None:
    """Walk over the values without recursing; every container is counted before it is entered."""
    nodes = 1
    waiting: list[tuple[Any, int, str]] = [(data, 1, field)]
    while waiting:
        container, depth, path = waiting.pop()
        nodes += len(container)
        if nodes > MAX_DATA_NODES:
            raise ValidationRefused(f"{field} has more than {MAX_DATA_NODES} values; send less", field=field)
        if depth > MAX_DATA_DEPTH:
            raise ValidationRefused(f"{path[:160]} is nested deeper than {MAX_DATA_DEPTH} levels", field=field)
        for part, value in _list_items(container, path, field):
            # Subclasses of dict too, as `FrozenDict` is one; what another class makes of its items is not looked at.
            if isinstance(value, dict) or type(value) is list or type(value) is tuple:
                waiting.append((value, depth + 1, path + part))
            elif not _is_plain(value):
                raise ValidationRefused(f"{(path + part)[:160]} is {_describe(value)}; {_EXPECTED}", field=field)


def _list_items(container: Any, path: str, field: str) -> list[tuple[str, Any]]:
    if not isinstance(container, dict):
        return [(f"[{index}]", value) for index, value in enumerate(container)]
    items = dict.items(container)  # not its own `items`, which a subclass may have changed
    for key, _ in items:
        if type(key) is not str:
            raise ValidationRefused(f"{path[:160]} has a key that is {_describe(key)}; use plain strings", field=field)
    return [(f".{key[:40]}", value) for key, value in items]


def _is_plain(value: object) -> bool:
    # By exact type, as orjson would write an enum or a date otherwise; for NaN and the infinities it writes null.
    kind = type(value)
    return kind is str or kind is int or kind is bool or value is None or (kind is float and isfinite(value))  # type: ignore[arg-type]


def _describe(value: object) -> str:
    """Return a few words about a value of the wrong kind; only short strings and numbers are quoted."""
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return repr(value)
    if isinstance(value, str) and kind is str:
        return repr(value) if len(value) <= _QUOTED else f"a string of {len(value)} characters"
    return f"of the type {kind.__name__}"
