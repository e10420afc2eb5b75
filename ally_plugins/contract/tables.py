"""Reading a table that a person or an author wrote, field by field, noting every mistake instead of the first.

The keys that a reader asks for are the keys that exist: whatever is left at `close` is unknown, and the note names the
nearest right one. What the fields mean is left to the manifest and the configuration.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

__all__ = ["LONGEST_TEXT", "Fields", "describe", "is_plain_text", "nearest", "suggest"]

LONGEST_TEXT: Final = 1000
"""Characters of one text field. The longest reasons and descriptions of published extensions stay under 300."""

_SHOWN: Final = 60
_INT64: Final = 2**63


def nearest(word: str, options: Iterable[str]) -> str | None:
    """Return the option that `word` was most likely meant to be, or None."""
    import difflib  # only when something is wrong already

    by_folded = {option.lower().replace("-", "_"): option for option in options}
    folded = word[:200].lower().replace("-", "_")
    close = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def suggest(word: str, options: Collection[str]) -> str:
    """Return the end of an error text: the nearest option, or all of them when none is near."""
    found = nearest(word, options)
    if found is not None:
        return f"did you mean {found!r}?"
    return f"expected one of {', '.join(sorted(options))}" if options else "expected nothing here"


def is_plain_text(text: str) -> bool:
    """Say whether `text` is one line that a terminal shows as it is: no control or direction characters."""
    return text.isprintable()


def describe(value: object) -> str:
    """Return a short word for what was found, as TOML would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return "a very large integer"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}"


class Fields:
    """One table that is being read. `problems` is shared by all the tables of one document."""

    def __init__(self, table: Mapping[str, Any], problems: list[str], path: str = "") -> None:
        self.problems: Final = problems
        self.path: Final = path
        self._table: Final = table
        self._asked: Final[list[str]] = []

    def __contains__(self, key: str) -> bool:
        return key in self._table

    def at(self, key: str) -> str:
        """Return the dotted path of a key of this table."""
        return f"{self.path}.{key}" if self.path else key

    def note(self, key: str, text: str) -> None:
        """Note a mistake at `key`."""
        self.problems.append(f"{self.at(key)}: {text}")

    def wrong(self, key: str, found: object, expected: str) -> None:
        """Note that `key` holds something else than expected."""
        self.note(key, f"found {describe(found)}, expected {expected}")

    def take(self, key: str) -> Any:
        """Return the raw value, None when the key is absent. TOML has no null."""
        self._asked.append(key)
        return self._table.get(key)

    def text(self, key: str, default: str = "", *, required: bool = False) -> str:
        """Return one line of text."""
        value = self.take(key)
        if value is None:
            if required:
                self.note(key, "missing, expected a text")
            return default
        return value if self._is_text(key, value, required=required) else default

    def _is_text(self, key: str, value: object, *, required: bool) -> bool:
        if not isinstance(value, str):
            self.wrong(key, value, "a text")
        elif len(value) > LONGEST_TEXT:
            self.note(key, f"has {len(value)} characters, expected at most {LONGEST_TEXT}")
        elif not is_plain_text(value):
            self.wrong(key, value, "one line without control characters")
        elif required and not value.strip():
            self.wrong(key, value, "a text that is not empty")
        else:
            return True
        return False

    def texts(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        """Return a list of texts, each once."""
        value = self.take(key)
        if value is None:
            if required:
                self.note(key, "missing, expected a list of texts")
            return ()
        if not isinstance(value, (list, tuple)):
            self.wrong(key, value, "a list of texts")
            return ()
        if required and not value:
            self.note(key, "is empty, expected at least one")
        good = [item for i, item in enumerate(value) if self._is_text(f"{key}[{i}]", item, required=True)]
        return tuple(dict.fromkeys(good))

    def arguments(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        """Return a list of texts as it is, repeated and empty ones too: the words of a command."""
        value = self.take(key)
        if not isinstance(value, (list, tuple)):
            if value is not None:
                self.wrong(key, value, "a list of texts")
            elif required:
                self.note(key, "missing, expected a list of texts")
            return ()
        if required and not value:
            self.note(key, "is empty, expected at least one")
        if all([self._is_text(f"{key}[{i}]", item, required=False) for i, item in enumerate(value)]):  # noqa: C419 - every mistake
            return tuple(value)
        return ()

    def words(self, key: str, options: Collection[str], *, required: bool = False) -> tuple[str, ...]:
        """Return a list of words out of `options`, each once."""
        found = self.texts(key, required=required)
        for word in found:
            if word not in options:
                self.note(key, f"found {describe(word)}, {suggest(word, options)}")
        return tuple(word for word in found if word in options)

    def word(self, key: str, options: Collection[str], default: str | None = None) -> str | None:
        """Return one word out of `options`."""
        value = self.take(key)
        if value is None or (isinstance(value, str) and value in options):
            return default if value is None else value
        hint = suggest(value, options) if isinstance(value, str) else f"expected one of {', '.join(sorted(options))}"
        self.note(key, f"found {describe(value)}, {hint}")
        return default

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """Return true or false; nothing else counts as either."""
        value = self.take(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.wrong(key, value, "true or false")
        return default

    def number(self, key: str, *, above: float) -> float | None:
        """Return a finite number greater than `above`, in the unit that the key has."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, bool) and isinstance(value, (int, float)) and isfinite(value) and value > above:
            return float(value)
        self.wrong(key, value, f"a number above {above:g}")
        return None

    def count(self, key: str, *, lowest: int = 0) -> int | None:
        """Return a whole number that is not below `lowest`."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, bool) and isinstance(value, int) and lowest <= value < _INT64:
            return value
        self.wrong(key, value, f"a whole number from {lowest}")
        return None

    def table(self, key: str, example: str = "a table") -> Fields | None:
        """Return the table at `key`, None when it is absent or something else."""
        value = self.take(key)
        if isinstance(value, dict):
            return Fields(value, self.problems, self.at(key))
        if value is not None:
            self.wrong(key, value, example)
        return None

    def children(self, key: str, is_name: Callable[[str], bool], expected: str) -> Iterator[tuple[str, Fields]]:
        """Yield the tables in the table at `key`, whose names their writer chose."""
        parent = self.table(key)
        if parent is None:
            return
        for name in parent.keys:
            if not is_name(name):
                parent.problems.append(f"{parent.path}: found the name {describe(name)}, expected {expected}")
            elif (child := parent.table(name)) is not None:
                yield name, child

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that the table has."""
        return tuple(self._table)

    def close(self) -> None:
        """Note every key that nobody asked for."""
        for key in self._table:
            if key not in self._asked:
                path = self.at(key) if is_plain_text(key) else f"{self.path or 'the top level'}: {key!r}"
                self.problems.append(f"{path}: unknown key, {suggest(key, self._asked)}")
