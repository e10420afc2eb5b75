"""Words of a shell's command line as far as they are known before it runs, and which of them may be the same.

A text of these modules stands for all that a word may become: `UNSEEN` for any text at all (a variable that nothing
here has set), `MANY` for an unquoted `*`, `ONE` for `?` and `[...]`. No word of a shell holds these characters.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

__all__ = [
    "COMMA",
    "MANY",
    "MAX_ALTERNATIVES",
    "ONE",
    "OPEN",
    "SHUT",
    "TILDE",
    "UNSEEN",
    "expand_braces",
    "is_known",
    "is_unseen",
    "overlaps",
    "plain",
]

UNSEEN: Final = "\x00"
MANY: Final = "\x01"
ONE: Final = "\x02"
OPEN, COMMA, SHUT = "\x03", "\x04", "\x05"
"""An unquoted `{`, and within it `,` and `}`, until the braces are expanded."""

TILDE: Final = "\x06"
"""An unquoted `~` that begins a word once the braces are expanded."""

MAX_ALTERNATIVES: Final = 64
"""Values that one word is followed through; with more of them it counts as unseen."""

_SIGNS: Final = str.maketrans({UNSEEN: "$?", MANY: "*", ONE: "?", OPEN: "{", COMMA: ",", SHUT: "}"})
_BRACES: Final = re.compile(f"{OPEN}([^{OPEN}{SHUT}]*){SHUT}")
_RANGE: Final = re.compile(r"[^.]+\.\.[^.]+(?:\.\.[^.]+)?")


def is_known(text: str) -> bool:
    """Say whether a word is this text and no other."""
    return UNSEEN not in text and MANY not in text and ONE not in text


def is_unseen(text: str) -> bool:
    """Say whether nothing is known of a word that would tell one path from another."""
    return UNSEEN in text and not text.strip(f"{UNSEEN}{MANY}/")


def plain(text: str) -> str:
    """Return a word as a person reads it."""
    return text.translate(_SIGNS)


def expand_braces(text: str) -> list[str]:
    """Return the words that one with braces stands for; a range is any text."""
    texts, done = [text], []
    while texts:
        each = texts.pop()
        found = _BRACES.search(each)
        if found is None:
            done.append(each.translate({ord(OPEN): "{", ord(COMMA): ",", ord(SHUT): "}"}))
            continue
        head, inner, tail = each[: found.start()], found[1], each[found.end() :]
        if COMMA in inner:
            texts += [f"{head}{part}{tail}" for part in inner.split(COMMA)]
        elif _RANGE.fullmatch(inner):
            texts.append(f"{head}{MANY}{tail}")
        else:
            texts.append(f"{head}{{{inner}}}{tail}")
        if len(texts) + len(done) > MAX_ALTERNATIVES:
            return [UNSEEN]
    return done[::-1]


@lru_cache(maxsize=4096)
def _expression(pattern: str) -> re.Pattern[str] | str:
    """Return what matches a known word: a text where the pattern is one."""
    signs = _pattern(pattern)
    if MANY not in signs and ONE not in signs:
        return pattern
    return re.compile("".join({MANY: ".*", ONE: "."}.get(sign, re.escape(sign)) for sign in signs), re.DOTALL)


@lru_cache(maxsize=4096)
def _pattern(text: str) -> tuple[str, ...]:
    return tuple(re.sub(r"\[[^\]]+\]", "?", text).replace("*", MANY).replace("?", ONE))


def overlaps(word: str, pattern: str) -> bool:
    """Say whether a word may be one that a pattern with `*`, `?` and `[...]` matches.

    Both sides may have parts that stand for any text; a part in brackets counts as any character.
    """
    if is_known(word):
        expression = _expression(pattern)
        return word == expression if isinstance(expression, str) else expression.fullmatch(word) is not None
    left, right = tuple(word.replace(UNSEEN, MANY)), _pattern(pattern)
    # Row by row, with what is reachable after each character: never exponential.
    reachable = {0}
    reachable |= _through_many(reachable, right)
    for sign in left:
        following: set[int] = set()
        for at in reachable:
            following |= _steps(sign, at, right)
        reachable = following | _through_many(following, right)
        if not reachable:
            return False
    return len(right) in reachable


def _through_many(at: set[int], right: tuple[str, ...]) -> set[int]:
    """Return the places behind those of `*` that stand for nothing."""
    found: set[int] = set()
    for place in at:
        while place < len(right) and right[place] == MANY:
            place += 1  # noqa: PLW2901 - it walks on
            found.add(place)
    return found


def _steps(sign: str, at: int, right: tuple[str, ...]) -> set[int]:
    if sign == MANY:
        return set(range(at, len(right) + 1))
    if at == len(right):
        return set()
    if right[at] == MANY:
        return {at}
    return {at + 1} if sign == right[at] or ONE in {sign, right[at]} else set()
