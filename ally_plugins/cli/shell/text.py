"""Text for the terminal: columns, colours, times, and JSON.

Everything that a plugin, a manifest or a recording contributes passes `inert` before it is printed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import click

from ally_plugins.contract.values.inert import inert, shortened

__all__ = ["columns", "echo", "inert", "is_terminal", "paint", "preview", "print_json", "quoted", "when"]

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


def echo(line: str = "", *, to_stderr: bool = False) -> None:
    """Print a line; colours only reach a terminal."""
    click.echo(line, err=to_stderr)


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


def print_json(value: Any) -> None:
    """Print one JSON value on a line of its own, in ASCII, so that nothing in it acts on a terminal."""
    click.echo(json.dumps(value, default=_plain, ensure_ascii=True).replace("\x7f", "\\u007f"))


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
