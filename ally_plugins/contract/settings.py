"""Settings: the values that a plugin takes from the operator, declared in its manifest with a type each.

Where the values are kept (and that secrets are kept elsewhere) is left to `catalog`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, Literal, cast, get_args

from attrs import frozen

from .documents import LINE, LINES, checked, named_tables, table
from .shapes import ANY, FLAG, one_of
from .wording import describe

__all__ = ["SETTINGS", "Kind", "Setting", "Value", "settings_of"]

Kind = Literal["string", "integer", "number", "boolean", "choice"]
Value = str | int | float | bool

_KINDS: Final = get_args(Kind)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")
_EXPECTED: Final[dict[str, str]] = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a finite number",
    "boolean": "true or false",
}
_INT64: Final = 2**63  # integers of TOML, where settings stand, have 64 bits with a sign


@frozen(kw_only=True)
class Setting:
    """One setting. A secret is a string that is shown to nobody; `default` is None where there is none."""

    name: str
    kind: Kind
    description: str = ""
    default: Value | None = None
    required: bool = False
    secret: bool = False
    choices: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        """What a value must be, for error texts."""
        return f"one of {', '.join(self.choices)}" if self.kind == "choice" else _EXPECTED[self.kind]

    def accepts(self, value: object) -> bool:
        """Return whether a value has the setting's type; true and false are no numbers."""
        # First, since True is an int to all that follows.
        if isinstance(value, bool) or self.kind == "boolean":
            return isinstance(value, bool) and self.kind == "boolean"
        if self.kind in ("string", "choice"):
            return isinstance(value, str) and (self.kind == "string" or value in self.choices)
        if self.kind == "integer":
            return isinstance(value, int) and -_INT64 <= value < _INT64
        return isinstance(value, (int, float)) and isfinite(value)

    def parse(self, text: str) -> Value:
        """Read a value as it is typed in a command. Raises ValueError, whose text says what was expected."""
        value = _parsers[self.kind](text) if self.kind in _parsers else text
        if value is None or not self.accepts(value):
            # Not quoted where it is a secret: the error is printed, and may be logged.
            found = "" if self.secret else f"found {describe(text)}, "
            raise ValueError(f"{found}expected {self.expected}")
        return cast("Value", value)


def _number(text: str, of: type[int | float]) -> int | float | None:
    try:
        return of(text)
    # Also what `int` refuses to read: more than 4,300 digits.
    except ValueError:
        return None


_parsers: Final[dict[str, Any]] = {
    "integer": lambda text: _number(text, int),
    "number": lambda text: _number(text, float),
    # No yes, on or 1: the file has only these two, and a word that is refused is seen.
    "boolean": lambda text: {"true": True, "false": False}.get(text.lower()),
}


def _made(name: str, given: Mapping[str, Any]) -> Setting:
    kind: Kind = given.get("type", "string")
    return Setting(name=name, kind=kind, **{key: value for key, value in given.items() if key != "type"})


def _contradictions(given: dict[str, Any], written: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kind = given.get("type")
    if kind is None:
        return
    if kind == "choice" and "choices" not in written:
        yield "choices", "missing, expected a list of texts"
    if kind == "choice" and written.get("choices") == []:
        yield "choices", "is empty, expected at least one"
    if kind != "choice" and given.get("choices"):
        yield "choices", f"is for type 'choice', found type {kind!r}"
    if kind != "string" and given.get("secret"):
        yield "secret", f"is for type 'string', found type {kind!r}"
    default, setting = given.get("default"), _made("", given)
    if default is not None and setting.secret:
        yield "default", "a secret has no default, expected none"
    elif default is not None and not setting.accepts(default):
        yield "default", f"found {describe(default)}, expected {setting.expected}"


_SETTING: Final = table(
    "a table",
    ("type",),
    type=one_of(*_KINDS),
    description=LINE,
    default=ANY,
    required=FLAG,
    secret=FLAG,
    choices=LINES,
)
SETTINGS: Final = named_tables(
    checked(_SETTING, _contradictions),
    lambda name: _NAME.match(name) is not None,
    "letters, digits, '_' and '-', not starting with a digit",
)
"""The shape of the `[settings.NAME]` tables of a manifest."""


def settings_of(tables: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Setting]:
    """Return the settings that have been read from the tables."""
    return MappingProxyType({name: _made(name, given) for name, given in tables.items()})
