"""Settings: the values that a plugin takes from the operator, declared in its manifest with a type each.

Where the values are kept (and that secrets are kept elsewhere) is the registry's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from attrs import frozen

from .tables import describe
from .values.compat import override

if TYPE_CHECKING:
    from .tables import Fields

__all__ = ["Kind", "Secret", "Setting", "Value", "read_settings"]

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
_INT64: Final = 2**63


class Secret(str):
    """The value of a secret setting: a string whose `repr` hides it, so that showing all settings shows no secret.

    Being no plain string, it is refused as event data and as arguments, which are written to the journal.
    """

    __slots__ = ()

    @override
    def __repr__(self) -> str:
        return "'[secret]'"


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
        """What a value must be, in words."""
        return f"one of {', '.join(self.choices)}" if self.kind == "choice" else _EXPECTED[self.kind]

    def accepts(self, value: object) -> bool:
        """Say whether a value has the setting's type; true and false are no numbers."""
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
            found = "" if self.secret else f"found {describe(text)}, "
            raise ValueError(f"{found}expected {self.expected}")
        return cast("Value", value)


def _number(text: str, of: type[int | float]) -> int | float | None:
    try:
        return of(text)
    except ValueError:
        return None


_parsers: Final[dict[str, Any]] = {
    "integer": lambda text: _number(text, int),
    "number": lambda text: _number(text, float),
    "boolean": lambda text: {"true": True, "false": False}.get(text.lower()),
}


def read_settings(top: Fields) -> Mapping[str, Setting]:
    """Read the `[settings.NAME]` tables of a manifest; mistakes are noted in `top`."""
    expected = "letters, digits, '_' and '-', not starting with a digit"
    tables = top.children("settings", lambda name: _NAME.match(name) is not None, expected)
    return MappingProxyType({name: _setting(name, table) for name, table in tables})


def _setting(name: str, table: Fields) -> Setting:
    known = table.word("type", _KINDS)
    if "type" not in table:
        table.note("type", f"missing, expected one of {', '.join(_KINDS)}")
    kind = cast("Kind", known or "string")
    setting = Setting(
        name=name,
        kind=kind,
        description=table.text("description"),
        default=table.take("default"),
        required=table.boolean("required"),
        secret=table.boolean("secret"),
        choices=table.texts("choices", required=kind == "choice"),
    )
    if known:
        _check(setting, table)
    table.close()
    return setting


def _check(setting: Setting, table: Fields) -> None:
    if setting.choices and setting.kind != "choice":
        table.note("choices", f"is for type 'choice', found type {setting.kind!r}")
    if setting.secret and setting.kind != "string":
        table.note("secret", f"is for type 'string', found type {setting.kind!r}")
    if setting.default is None:
        return
    if setting.secret:
        table.note("default", "a secret has no default, expected none")
    elif not setting.accepts(setting.default):
        table.wrong("default", setting.default, setting.expected)
