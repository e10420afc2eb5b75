"""Text for the terminal: columns, colours, times, and JSON.

Everything that a plugin, a manifest or a recording contributes passes `inert` before it is printed, since a line feed
in it would begin a line of ours. Nothing but `echo` and `print_json` writes to a terminal here, and neither lets
anything through that a terminal would act upon, but the colours of `paint`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.contract.values.inert import inert, shortened

if TYPE_CHECKING:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "columns",
    "counted_noun",
    "echo",
    "echo_pages",
    "harmless",
    "inert",
    "is_terminal",
    "paint",
    "preview",
    "print_json",
    "quoted",
    "table",
    "when",
    "when_iso",
]

_COLOURS: Final = re.compile(r"(\x1b\[(?:0|1|2|3[1-7]|9[0-7])(?:;(?:0|1|2|3[1-7]|9[0-7]))*m)")
"""What `paint` and `table` write: bold, dim, the colours but black, and the end of all. None of these hides a text."""

_PADDING: Final = re.compile(r" +((?:\x1b\[0m)?)\Z")
"""The blanks with which rich fills a line up, before an end of colours: a copied line should not have them."""

_GAP: Final = "  "
_INDENT: Final = "    "
_NARROWEST: Final = 40
"""Columns of the last cell of a row; with less room than that, commands in it would be torn apart."""
_SHORT: Final = 20
"""Columns up to which the last cell is a value like the others, and no text; a time with its date has 19."""

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
    return click.style(text, **style) if _wants_colours() else text


def _wants_colours() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def echo(line: str = "", *, to_stderr: bool = False, ends_line: bool = True) -> None:
    """Print a text, with its lines; colours only reach a terminal, and what would act on one otherwise is escaped."""
    click.echo(harmless(line), nl=ends_line, err=to_stderr)  # noqa: TID251 - the one door


def harmless(text: str) -> str:
    """Return a text with its lines and our colours, and nothing else that a terminal acts upon."""
    # The pattern is one group, so each second part is a colour.
    parts = enumerate(_COLOURS.split(text))
    return "".join(part if number % 2 else inert(part, keep_lines=True) for number, part in parts)


def echo_pages(lines: Iterable[str]) -> None:
    """Print lines; on a terminal that they do not fit on, with the person's pager (PAGER, else less or more).

    Blocks until the person leaves it.
    """
    shown = [harmless(line) for line in lines]
    # `>=`, since the prompt that follows takes a line.
    if is_terminal("stdin") and is_terminal("stdout") and len(shown) >= shutil.get_terminal_size().lines:
        click.echo_via_pager("\n".join(shown) + "\n")  # noqa: TID251 - what it is given is harmless
        return
    for line in shown:
        echo(line)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table below its headings, its cells inert already; nothing without rows.

    On a terminal long cells are broken between words, inside their column; elsewhere each row is one line.
    """
    if not rows:
        return []
    return _folded(headings, rows) if is_terminal("stdout") else columns([headings, *rows])


def _folded(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table for a terminal; a long last cell stands below its row where it would be a narrow strip.

    Where columns would be narrower than the words in them, each row is its first cell with the others named below it.
    """
    from io import StringIO

    from rich.console import Console  # 30 ms, and only where a person looks

    width = shutil.get_terminal_size().columns
    widths, floors = (
        [max(map(size, column)) for column in zip(headings, *rows, strict=True)] for size in (_size, _word)
    )
    room = width - len(_GAP) * (len(headings) - 1)
    left = room - sum(widths[:-1])
    file = StringIO()
    out = Console(
        file=file,
        width=width,
        # `file` is none, but what is written to it goes to one.
        force_terminal=True,
        color_system="standard" if _wants_colours() else None,
        highlight=False,
        markup=False,
        emoji=False,
        # Otherwise an old Windows console is written to directly, past `file`.
        legacy_windows=False,
    )
    is_strip = left < min(widths[-1], _NARROWEST) or left < floors[-1] <= width - len(_INDENT)
    if not is_strip:
        widths[-1] = left
    beside = len(headings) - (is_strip and widths[-1] > _SHORT)  # the cells beside each other; a text stands below
    fitting = _narrowed(widths[:beside], floors, room)
    titles = [paint(each, bold=True) for each in headings[:beside]]
    if fitting and beside == len(headings):
        out.print(_grid([titles, *rows], fitting))
    elif fitting:
        out.print(_grid([titles], fitting))
        for row in rows:
            out.print(_grid([row[:beside]], fitting), *map(_indented, filter(None, row[beside:])))
    else:
        for row in rows:
            named = [
                f"{heading} {cell}" for heading, cell in zip(headings[1:beside], row[1:beside], strict=True) if cell
            ]
            below = [*_packed(named, width - len(_INDENT)), *filter(None, row[beside:])]
            out.print(_cell(paint(row[0], bold=True)), *map(_indented, below), sep="\n")
    return [_PADDING.sub(r"\1", line) for line in file.getvalue().splitlines()]


def _size(cell: str) -> int:
    return len(click.unstyle(cell))


def _word(cell: str) -> int:
    return max(map(len, click.unstyle(cell).split()), default=0)


def _narrowed(widths: Sequence[int], floors: Sequence[int], room: int) -> list[int]:
    """Return the widths with the widest ones made narrower until all have room, but none so that a word is broken.

    Empty where there is no such way.
    """
    narrowed = list(widths)
    while sum(narrowed) > room:
        loose = [number for number, width in enumerate(narrowed) if width > floors[number]]
        if not loose:
            return []
        narrowed[max(loose, key=narrowed.__getitem__)] -= 1
    return narrowed


def _packed(parts: Iterable[str], width: int) -> list[str]:
    """Return lines of parts with commas between them; a line is broken between parts alone."""
    lines: list[str] = []
    for part in parts:
        if lines and _size(lines[-1]) + _size(part) + 3 <= width:  # the blank, this comma and the next one
            lines[-1] += f", {part}"
            continue
        if lines:
            lines[-1] += ","
        lines.append(part)
    return lines


def _indented(cell: str) -> Padding:
    from rich.padding import Padding

    return Padding(_cell(cell), (0, 0, 0, len(_INDENT)))


def _grid(rows: Iterable[Sequence[str]], widths: Iterable[int]) -> Table:
    """Return rows as columns of these widths, in which longer cells are broken between words."""
    from rich.table import Table

    made = Table.grid(padding=(0, len(_GAP), 0, 0))
    for width in widths:
        made.add_column(width=width, overflow="fold")
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def _cell(text: str) -> Text:
    from rich.text import Text

    return Text.from_ansi(harmless(text))


def columns(rows: Sequence[Sequence[str]], gap: str = _GAP) -> list[str]:
    """Return rows as lines with aligned columns; the last column is never padded or cut."""
    if not rows:
        return []
    widths = [max(len(click.unstyle(row[i])) for row in rows) for i in range(len(rows[0]) - 1)]
    return [_line(row, widths, gap) for row in rows]


def _line(row: Sequence[str], widths: Iterable[int], gap: str) -> str:
    # Not strict: the last cell has no width.
    padded = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=False)]
    return gap.join([*padded, row[-1]]).rstrip()


def counted_noun(count: int, thing: str) -> str:
    """Return a number with its thing, which takes an s unless it is one."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def when(at_ms: int | None) -> str:
    """Return a time (Unix ms) in the local zone, to the second."""
    if at_ms is None:
        return "-"
    from datetime import datetime

    try:
        return f"{datetime.fromtimestamp(at_ms / 1000).astimezone():%Y-%m-%d %H:%M:%S}"
    except (OverflowError, OSError, ValueError):  # a recording or a plugin may give any number
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
    # DEL is ASCII, so `json` leaves it as it is; a terminal does not.
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
