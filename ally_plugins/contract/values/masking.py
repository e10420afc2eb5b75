"""Values that must not be read in any text, and their masking in texts: whole ones, and such as come in pieces.

Which values these are is left to the caller; keys in an environment are known by their variables' names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from .compat import override
from .inert import inert

__all__ = ["MASK", "MaskedStream", "Secret", "Secrets", "keys_of"]

MASK: Final = "[secret]"

_SHORTEST: Final = 4
"""Characters of a value that is looked for; of shorter ones every text would be full."""
_SHORTEST_KEY: Final = 8
"""Characters of a variable's value: what is shorter is no key, whatever its variable is called."""
_SHORTEST_LINE: Final = 8
"""Characters of a line of a value with several: a line of a PEM file has 64, its last one may have a few."""

_KEY_NAME: Final = r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(_|$)"
_PLACES: Final = ("_DIR", "_FILE", "_PATH")
"""Ends of names that hold the path of a key, and no key."""

T = TypeVar("T")


def keys_of(environ: Mapping[str, str], also: Iterable[str] = ()) -> set[str]:
    """Return the values of the variables that are named like a key, and of those called `also`."""
    variables = set(also)
    found = {value for name, value in environ.items() if name in variables or _is_key(name)}
    return {value for value in found if len(value) >= _SHORTEST_KEY}


def _is_key(name: str) -> bool:
    return re.search(_KEY_NAME, name, re.IGNORECASE) is not None and not name.upper().endswith(_PLACES)


class Secret(str):
    """The value of a secret setting: a string whose `repr` hides it, so that showing all settings shows no secret.

    Freezing makes a plain string of it, as of every subclass; so the bus masks what a plugin sends beforehand.
    """

    __slots__ = ()

    @override
    def __repr__(self) -> str:
        return f"'{MASK}'"


class Secrets:
    """Some secret values; immutable. Its `repr` shows how many.

    Each is looked for as it is, and as Python, JSON, an address and our own commands would write it; of one with
    several lines each line too, since logs and reasons are cut into lines. Other encodings are not found.
    """

    __slots__ = ("_given", "_pattern", "_values")

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._given: Final = frozenset(value for value in values if len(value) >= _SHORTEST)
        forms = {form for value in self._given for form in _forms_of(str(value))}
        # The longest first: of two of which one begins the other, the pattern would leave the rest.
        self._values: Final = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern: Final = re.compile("|".join(map(re.escape, self._values))) if forms else None

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> Secrets:
        """Return the secrets among a plugin's settings."""
        return cls(value for value in settings.values() if isinstance(value, Secret))

    @override
    def __repr__(self) -> str:
        return f"<{len(self._given)} secrets>"

    def __or__(self, other: Secrets) -> Secrets:
        """Return the secrets of both."""
        return Secrets(self._given | other._given)

    def __bool__(self) -> bool:
        """Say whether there is anything to mask."""
        return self._pattern is not None

    def masked(self, text: str, *, is_cut: bool = False) -> str:
        """Return a text with every secret replaced by `MASK`.

        With `is_cut` its end was cut off, so that what may be the beginning of a secret is left out there.
        """
        if self._pattern is None:
            return text
        if any(value in text for value in self._values):  # a tenth of the time of the pattern, and mostly there is none
            text = self._pattern.sub(MASK, text)
        return text[: len(text) - self.begun(text)] if is_cut else text

    def masked_value(self, value: T) -> T:
        """Return a JSON value, or nested lists and tables of texts, with every secret replaced by `MASK`."""
        if self._pattern is None:
            return value
        masked: T = self._masked(value)
        return masked

    def stream(self) -> MaskedStream:
        """Return a masking for one text that comes in pieces."""
        return MaskedStream(self)

    def begun(self, text: str) -> int:
        """Return how many characters at the end of a text may be the beginning of a secret."""
        return max((_overlap(text, value) for value in self._values), default=0)

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.masked(value)
        if isinstance(value, Mapping):
            return {self._masked(key): self._masked(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._masked, value))
        return value


def _overlap(text: str, value: str) -> int:
    """Return the length of the longest end of a text that is a beginning of a value, and not all of it."""
    # One short of its length: a whole value has been masked.
    at = text.find(value[0], max(0, len(text) - len(value) + 1))
    while at >= 0:
        if value.startswith(text[at:]):
            return len(text) - at
        at = text.find(value[0], at + 1)
    return 0


def _forms_of(value: str) -> Iterator[str]:
    import json  # both only where there is a secret
    from urllib.parse import quote

    lines = [line.strip() for line in value.splitlines()]
    for part in (value, *(line for line in lines if len(line) >= _SHORTEST_LINE)):
        yield from (part, repr(part)[1:-1], inert(part))
        # Twice: `json` escapes what is not ASCII, orjson does not.
        yield from (json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1])
        # Twice: a slash stays as it is in a path, and is quoted in a query.
        yield from (quote(part, errors="replace"), quote(part, safe="", errors="replace"))


class MaskedStream:
    """Masks a text that comes in pieces: what may be the beginning of a secret is held back until the next piece."""

    def __init__(self, secrets: Secrets) -> None:
        self.secrets = secrets
        """May be replaced between two pieces."""
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return the part of the text that can be shown now; call `rest` at the end."""
        # Masked before it is parted: half of a secret would not be found.
        text = self.secrets.masked(self._held + piece)
        shown = len(text) - self.secrets.begun(text)
        self._held = text[shown:]
        return text[:shown]

    def rest(self) -> str:
        """Return what was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held
