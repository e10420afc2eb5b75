"""The Document of a `plugin.json`, and shapes that only such a file has. Lenient where an older host was.

A wrong value is a problem; an unknown key is a warning, since another host may use it.
"""

from __future__ import annotations

from typing import Any, Final

from ally_plugins.contract.documents import Document
from ally_plugins.contract.shapes import SECONDS, WRONG, Mistakes, Shape, inside
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.wording import suggest

__all__ = ["ARGUMENT", "COMMAND_LINE", "LONGEST_PROSE", "MILLISECONDS", "PROSE", "PluginJson"]

LONGEST_PROSE: Final = 8_192
"""Characters of a description, which may have several lines; the limit of `contract.tools.declared` for every tool."""


class PluginJson(Document):
    """One file that is being read; `warnings` do not keep the plugin from running. It lives as long as the reading."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: Final[list[str]] = []

    @override
    def warn(self, path: str, text: str) -> None:
        """Note something that does not keep the plugin from running."""
        self.warnings.append(f"{path}: {text}")

    @override
    def unknown_key(self, path: str, key: str, valid: tuple[str, ...]) -> Any:
        """Warn of an unknown key, with the nearest right one."""
        shown = key if key.isprintable() else repr(key)
        # Cut, since a key is the author's and may be of any length.
        self.warn(inside(path, shown[:60]), f"unknown key, {suggest(key, valid)}")

    @override
    def describe(self, found: object) -> str:
        """Return a short description of a wrong value, in the terms of JSON."""
        return "null" if found is None else "an object" if isinstance(found, dict) else super().describe(found)


def _read_prose(value: str, path: str, mistakes: Mistakes) -> Any:
    if len(value) > LONGEST_PROSE:
        return mistakes.refuse(path, f"has {len(value)} characters, expected at most {LONGEST_PROSE}")
    # The three that lines are made of; others could act on a terminal that shows the description.
    if not value.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return mistakes.wrong(path, value, "a text without control characters")
    return value.replace("\r\n", "\n").strip()


PROSE: Final = Shape((str,), "a text", {"type": "string", "maxLength": LONGEST_PROSE}, _read_prose)
"""A text of several lines."""


def _read_argument(value: str, path: str, mistakes: Mistakes) -> Any:
    return value if "\0" not in value else mistakes.wrong(path, value, ARGUMENT.expected)


ARGUMENT: Final = Shape((str,), "a text without zero bytes", {"type": "string"}, _read_argument)
"""One argument of a command line; it may contain anything but the zero byte."""


def _read_command_line(value: list[Any], path: str, mistakes: Mistakes) -> tuple[str, ...]:
    read = [ARGUMENT.read(item, f"{path}[{index}]", mistakes) for index, item in enumerate(value)]
    return tuple(item for item in read if item is not WRONG)


COMMAND_LINE: Final = Shape((list,), "a list of texts", {"type": "array", "items": ARGUMENT.schema}, _read_command_line)
"""The arguments of a command line, in order, duplicates among them."""


def _read_milliseconds(value: float, path: str, mistakes: Mistakes) -> Any:
    read = SECONDS.read(value, path, mistakes)
    return read if read is WRONG else read * 0.001


MILLISECONDS: Final = Shape((float, int), SECONDS.expected, SECONDS.schema, _read_milliseconds)
"""A time in milliseconds, which is read into seconds."""
