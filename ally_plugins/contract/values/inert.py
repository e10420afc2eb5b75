"""Strangers' text made safe: to show, to give to a model, and to stand beside texts of others.

What a terminal would act upon, or nobody would see, becomes an escape; every line of a speaker's gets the speaker's
mark. Where a text is shown, and how much of it, is left to whoever shows it.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["ending", "for_model", "inert", "marked_lines", "plugin_mark", "shortened"]

_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0d\uffa0\U000e0100-\U000e01ef]"
    "|(?<![^\0-\x7f\ufe0e\ufe0f]|[0-9#*])[\ufe0e\ufe0f]"
)
"""What Python calls printable, and nobody sees: fillers, and variation selectors but one behind an emoji or a key."""

_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:")
_SPACES: Final = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")


def inert(text: object, *, keep_lines: bool = False) -> str:
    """Return text that a terminal only shows: control, direction and invisible characters become escapes.

    With `keep_lines`, line feeds and tabs stay.
    """
    plain = str(text)
    # Nearly every text ends here; `isprintable` takes some for visible that are not, and only beyond ASCII.
    if plain.isprintable() and (plain.isascii() or not _BLANK.search(plain)):
        return plain
    kept = "\n\t" if keep_lines else ""
    seen = _BLANK.sub(lambda found: _escape(found[0]), plain)
    return "".join(char if char.isprintable() or char in kept else _escape(char) for char in seen)


def for_model(text: str) -> str:
    """Return text as a model is to read it: inert, with its lines, and with spaces of every width as spaces.

    Whatever Unicode takes for the end of a line is a line feed then.
    """
    return "\n".join(map(_model_line, text.splitlines()))


def marked_lines(mark: str, text: str) -> list[str]:
    """Return the lines of a text as a model is to read them, each behind the mark of who wrote it.

    So no line of it can pass for another speaker's, whatever it says.
    """
    return [f"{mark} {line}" if line else mark for line in map(_model_line, text.splitlines() or [""])]


def plugin_mark(name: str) -> str:
    """Return the mark in front of a plugin's text; what could end the mark is escaped in the name."""
    return f"[plugin {''.join(char if char in _NAME else f'u+{ord(char):04x}' for char in name)}]"


def shortened(text: str, longest: int) -> str:
    """Return the first `longest` characters of a text; when some are cut off, how many it has follows them."""
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def ending(text: str, longest: int) -> str:
    """Return the last `longest` characters of a text; when some are cut off, how many it has stands before them."""
    return text if len(text) <= longest else f"({len(text)} characters) ...{text[-longest:]}"


def _model_line(line: str) -> str:
    return line if line.isascii() and line.isprintable() else inert(_SPACES.sub(" ", line), keep_lines=True)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
