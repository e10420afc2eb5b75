"""Text for the terminal: columns, colours, times, and JSON.

Everything that a plugin, a manifest or a recording contributes passes `inert` before it is printed, since a line feed
in it would begin a line of ours. Nothing but `echo` and `print_json` writes to a terminal here, and neither lets
anything through that a terminal would act upon, but the colours of `paint`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import click

from ally_plugins.contract.values.inert import inert, shortened

__all__ = [
    "columns",
    "echo",
    "harmless",
    "inert",
    "is_terminal",
    "paint",
    "preview",
    "print_json",
    "quoted",
    "when",
    "when_iso",
]

_COLOURS: Final = re.compile(r"(\x1b\[(?:0|1|2|3[1-7]|9[0-7])m)")
"""What `paint` writes: bold, dim, the colours but black, and the end of all. None of these hides a text."""

PREVIEW: Final = 160
"""Characters of a message that a table shows; `explain` shows all of it."""


def quoted(text: object) -> str:
    """Return text as one inert line in quotes."""
    return f'"{inert(text)}"'


def preview(text: object, length: int = PREVIEW) -> str:
    """Return the beginning of a text as one inert line, with a note where it was cut; `length` is in characters."""
    return inert(shortened(str(text), length))


def paint(text: str, **style: Any) -> str:
    """Return text in a colour, unless NO_COLOR is set or the terminal is dumb; `echo` removes it for a file."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return click.style(text, **style)


def echo(line: str = "", *, to_stderr: bool = False, ends_line: bool = True) -> None:
    """Print a text, with its lines; colours only reach a terminal, and what would act on one otherwise is escaped."""
    click.echo(harmless(line), nl=ends_line, err=to_stderr)  # noqa: TID251 - the one door


def harmless(text: str) -> str:
    """Return a text with its lines and our colours, and nothing else that a terminal acts upon."""
    parts = enumerate(_COLOURS.split(text))
    return "".join(part if number % 2 else inert(part, keep_lines=True) for number, part in parts)


def columns(rows: Sequence[Sequence[str]], gap: str = "  ") -> list[str]:
    """Return rows as lines with aligned columns; the last column is never padded or cut."""
    if not rows:
        return []
    widths = [max(len(click.unstyle(row[i])) for row in rows) for i in range(len(rows[0]) - 1)]
    return [_line(row, widths, gap) for row in rows]


def _line(row: Sequence[str], widths: Iterable[int], gap: str) -> str:
    padded = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=False)]
    return gap.join([*padded, row[-1]]).rstrip()


def when(at_ms: int | None) -> str:
    """Return a time (Unix ms) in the local zone, to the second."""
    if at_ms is None:
        return "-"
    from datetime import datetime

    try:
        return f"{datetime.fromtimestamp(at_ms / 1000).astimezone():%Y-%m-%d %H:%M:%S}"
    except (OverflowError, OSError, ValueError):
        return f"{at_ms} ms"


def when_iso(text: str) -> str:
    """Return a time in ISO 8601, as files have it, as `when` does; what is none stays, inert."""
    from datetime import datetime

    try:
        return when(round(datetime.fromisoformat(text).timestamp() * 1000))
    except (OverflowError, OSError, ValueError):
        return inert(text)


def print_json(value: Any) -> None:
    """Print one JSON value on a line of its own, in ASCII, so that nothing in it acts on a terminal."""
    echo(json.dumps(value, default=_plain, ensure_ascii=True).replace("\x7f", "\\u007f"))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, AbstractSet):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return list(value)
    return str(value)


def is_terminal(stream: str) -> bool:
    """Say whether one of `stdin`, `stdout`, `stderr` is a terminal."""
    try:
        found: bool = getattr(sys, stream).isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False
    return found
