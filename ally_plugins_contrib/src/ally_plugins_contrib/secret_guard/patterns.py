"""Finds and replaces credentials in one text. Pure text in, text out."""

from __future__ import annotations

from typing import Final

from .beside import BESIDE, NAMED
from .known import CERTAIN, FIXED
from .pattern import Kinds

__all__ = ["CERTAIN", "FIXED", "PATTERNS", "find_kind", "find_named", "redact_text"]

_LONGEST_VALUE: Final = 256
_SHORTEST_VALUE: Final = 6

PATTERNS: Final = Kinds((*CERTAIN.patterns, *BESIDE))
"""All kinds, the certain ones first: their marks say more."""


def redact_text(text: str) -> str:
    """Return the text with every credential that is known by its look replaced by `[redacted:KIND]`."""
    for pattern in PATTERNS.worth_searching(text):
        text = pattern.replace(text)
    return text


def find_kind(text: str, kinds: Kinds = PATTERNS) -> str | None:
    """Return the kind of the first credential that is found, None for a clean text."""
    found = (pattern.kind for pattern in kinds.worth_searching(text) if pattern.is_in(text))
    return next(found, None)


def find_named(name: str, value: str) -> str | None:
    """Return the kind of credential that the field `name` holds as its whole value, None when it holds none."""
    if not _SHORTEST_VALUE <= len(value) <= _LONGEST_VALUE:
        return None
    text = f'{name}="{value}"'
    for pattern in NAMED:
        match = pattern.regex.search(text)
        if match is not None and match.end("secret") == len(text) - 1 and pattern.accepts(match):
            return pattern.kind
    return None
