"""Reading the objects of a `plugin.json`: like `fields`, but kind to what an older host let pass.

What is wrong is a problem; a key that nobody knows is a warning, since another host may know it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ally_plugins.contract.tables import Fields, describe, suggest
from ally_plugins.contract.values.compat import override

__all__ = ["LONGEST_PROSE", "JsonFields"]

LONGEST_PROSE: Final = 8_192
"""Characters of a description, which may have several lines; as many as a tool's description may have (`tools`)."""


class JsonFields(Fields):
    """One object that is being read. `problems` and `warnings` are shared by all objects of one file."""

    def __init__(self, table: Mapping[str, Any], problems: list[str], warnings: list[str], path: str = "") -> None:
        super().__init__(table, problems, path)
        self.warnings: Final = warnings

    def warn(self, key: str, text: str) -> None:
        """Note something at `key` that keeps nothing from running."""
        self.warnings.append(f"{self.at(key)}: {text}")

    @override
    def wrong(self, key: str, found: object, expected: str) -> None:
        """Note that `key` holds something else than expected, in JSON's words."""
        self.note(key, f"found {'an object' if isinstance(found, dict) else describe(found)}, expected {expected}")

    def prose(self, key: str) -> str:
        """Return a text of several lines."""
        value = self.take(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.wrong(key, value, "a text")
        elif len(value) > LONGEST_PROSE:
            self.note(key, f"has {len(value)} characters, expected at most {LONGEST_PROSE}")
        elif not value.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
            self.wrong(key, value, "a text without control characters")
        else:
            return value.replace("\r\n", "\n").strip()
        return ""

    def argument(self, key: str) -> str:
        """Return a word of a command line; anything but the zero byte may stand in it."""
        value = self.take(key)
        return value if value is not None and self._is_argument(key, value) else ""

    def command_line(self, key: str) -> tuple[str, ...]:
        """Return words of a command line, in order, also the same one twice."""
        value = self.take(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.wrong(key, value, "a list of texts")
            return ()
        return tuple(item for i, item in enumerate(value) if self._is_argument(f"{key}[{i}]", item))

    def _is_argument(self, key: str, value: object) -> bool:
        if isinstance(value, str) and "\0" not in value:
            return True
        self.wrong(key, value, "a text without zero bytes")
        return False

    def seconds(self, key: str, default: float, *, unit: float = 0.001) -> float:
        """Return a time in seconds; the file has it in units of `unit` seconds."""
        value = self.number(key, above=0)
        return default if value is None else value * unit

    def items(self, key: str) -> Iterator[JsonFields]:
        """Yield the objects of a list."""
        value = self.take(key)
        if value is None:
            return
        if not isinstance(value, list):
            self.wrong(key, value, "a list of objects")
            return
        for i, item in enumerate(value):
            if isinstance(item, dict):
                yield JsonFields(item, self.problems, self.warnings, self.at(f"{key}[{i}]"))
            else:
                self.wrong(f"{key}[{i}]", item, "an object")

    @override
    def table(self, key: str, example: str = "an object") -> JsonFields | None:
        """Return the object at `key`, None when it is absent or something else."""
        value = self.take(key)
        if isinstance(value, dict):
            return JsonFields(value, self.problems, self.warnings, self.at(key))
        if value is not None:
            self.wrong(key, value, example)
        return None

    @override
    def close(self) -> None:
        """Warn of every key that nobody asked for."""
        for key in self.keys:
            if key not in self._asked:
                shown = key if key.isprintable() else repr(key)
                self.warn(shown[:60], f"unknown key, {suggest(key, self._asked)}")
