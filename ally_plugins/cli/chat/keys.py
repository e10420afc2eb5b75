"""The keys in this process's environment, and their masking in whatever is shown, emitted or written down."""

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
"""Names that say where a key lies; what they hold is none."""

T = TypeVar("T")


def _is_key(name: str) -> bool:
    return _NAMES.search(name) is not None and not name.upper().endswith(_PLACES)


class Keys:
    """The values that must not get out; they are taken from the environment once, and live as long as the program."""

    def __init__(self, environ: Mapping[str, str], also: Iterable[str] = ()) -> None:
        """Take what is named like a key, and the variables `also`."""
        wanted = set(also)
        found = {value for name, value in environ.items() if name in wanted or _is_key(name)}
        values = sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)
        self._values: Final = values
        self._pattern: Final = re.compile("|".join(map(re.escape, values))) if values else None

    def masked(self, text: str) -> str:
        """Return a text without any of them."""
        return self._pattern.sub(MASK, text) if self._pattern is not None else text

    def stream(self) -> MaskedStream:
        """Return what masks a text that comes in pieces."""
        return MaskedStream(self)

    def begun(self, text: str) -> int:
        """Return how many characters at the end of a text may be the beginning of one of them."""
        lengths = (
            length
            for value in self._values
            for length in range(min(len(value) - 1, len(text)), 0, -1)
            if text.endswith(value[:length])
        )
        return max(lengths, default=0)

    def masked_value(self, value: T) -> T:
        """Return a JSON value, or a value that holds texts in lists and tables, without any of them."""
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
    """Masks a text that comes in pieces: what may be the beginning of a key waits for what follows."""

    def __init__(self, keys: Keys) -> None:
        self._keys: Final = keys
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return what can be shown now."""
        text = self._keys.masked(self._held + piece)
        shown = len(text) - self._keys.begun(text)
        self._held = text[shown:]
        return text[:shown]

    def rest(self) -> str:
        """Return what waits, at the end of the text."""
        held, self._held = self._held, ""
        return held
