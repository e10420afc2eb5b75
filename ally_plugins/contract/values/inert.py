"""Strangers' text made safe to show: what a terminal would act upon becomes an escape, and what is too long is cut.

Where a text is shown, and how much of it, is left to whoever shows it.
"""

from __future__ import annotations

__all__ = ["inert", "shortened"]


def inert(text: object, *, keep_lines: bool = False) -> str:
    """Return text that a terminal only shows: control, direction and invisible characters become escapes.

    With `keep_lines`, line feeds and tabs stay.
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    kept = "\n\t" if keep_lines else ""
    return "".join(char if char.isprintable() or char in kept else _escape(char) for char in plain)


def shortened(text: str, longest: int) -> str:
    """Return the first `longest` characters of a text; when some are left out, how many it has is said behind them."""
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
