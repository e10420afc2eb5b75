"""The keys in this process's environment, and their masking in what is shown, emitted or recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

__all__ = ["MASK", "Keys", "MaskedStream"]

MASK: Final = "[secret]"
_SHORTEST: Final = 8
"""Characters: what is shorter is no key, and masking it would tear ordinary text apart."""
_NAMES: Final = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(_|$)", re.IGNORECASE)

_PLACES: Final = ("_DIR", "_FILE", "_PATH")
"""Ends of names that hold the path of a key, and no key."""

T = TypeVar("T")


def _is_key(name: str) -> bool:
    return _NAMES.search(name) is not None and not name.upper().endswith(_PLACES)


class Keys:
    """The secret values. Read from the environment once; they live as long as the program."""

    def __init__(self, environ: Mapping[str, str], also: Iterable[str] = ()) -> None:
        """Take the variables that are named like a key, and those of the names `also`."""
        variables = set(also)
        found = {value for name, value in environ.items() if name in variables or _is_key(name)}
        values = sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)
        self._values: Final = values
        self._pattern: Final = re.compile("|".join(map(re.escape, values))) if values else None

    def masked(self, text: str) -> str:
        """Return a text with every key replaced by `MASK`."""
        return self._pattern.sub(MASK, text) if self._pattern is not None else text

    def stream(self) -> MaskedStream:
        """Return a masking for one text that comes in pieces."""
        return MaskedStream(self)

    def begun(self, text: str) -> int:
        """Return how many characters at the end of a text may be the beginning of a key."""
        lengths = (
            length
            for value in self._values
            for length in range(min(len(value) - 1, len(text)), 0, -1)
            if text.endswith(value[:length])
        )
        return max(lengths, default=0)

    def masked_value(self, value: T) -> T:
        """Return a JSON value, or nested lists and tables of texts, with every key replaced by `MASK`."""
        if self._pattern is None:
            return value
        masked: T = self._masked(value)
        return masked

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.masked(value)
        if isinstance(value, Mapping):
            return {self._masked(key): self._masked(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._masked, value))
        return value


class MaskedStream:
    """Masks a text that comes in pieces: what may be the beginning of a key is held back until the next piece."""

    def __init__(self, keys: Keys) -> None:
        self._keys: Final = keys
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return the part of the text that can be shown now; call `rest` at the end."""
        text = self._keys.masked(self._held + piece)
        shown = len(text) - self._keys.begun(text)
        self._held = text[shown:]
        return text[:shown]

    def rest(self) -> str:
        """Return what was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held
