"""Which notes fit what is asked for: words in common, the rare ones counting more. No host and no file in here.

It is BM25 over words as they are written: "tests" finds "test", the small words of English find nothing (of another
language they do, though they count little), and nothing finds a word of the same meaning.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, Protocol, TypeVar

__all__ = ["Ranked", "chosen", "fitting", "words_of"]

LONGEST_QUERY: Final = 4_000
"""Characters of what the person said that are looked at; a pasted file says little about what is wanted."""

_SMALL: Final = """
    a about after all also am an and any are as at be because been before but by can could did do does for from had has
    have he her his how i if in into is it its just let like make me more my no not now of on only or our out please she
    should so some than that the their them then there these they this to too up us was we were what when where which
    who why will with would you your
"""
_WORD: Final = re.compile(r"\w+")
_SATURATION: Final = 1.2  # BM25's usual numbers: how soon a repeated word adds nothing,
_BY_LENGTH: Final = 0.75  # and how much a long note has to have more of it
_PLURAL: Final = 3


class Ranked(Protocol):
    """What can be ranked: a note."""

    @property
    def text(self) -> str:
        """What it says."""
        ...

    @property
    def is_pinned(self) -> bool:
        """Whether it fits always."""
        ...


N = TypeVar("N", bound=Ranked)


def words_of(text: str) -> list[str]:
    """Return the words of a text as they are compared: lower case, no plural s, parts of names apart and together."""
    found: list[str] = []
    for word in _WORD.findall(text[:LONGEST_QUERY].casefold()):
        parts = word.split("_")
        found += [_singular(part) for part in (parts if len(parts) == 1 else [word, *parts]) if part]
    return found


@lru_cache(maxsize=2048)
def _counted(text: str) -> Counter[str]:
    """Return the words of a note, which is looked at each time that the person speaks; nobody changes them."""
    return Counter(words_of(text))


def _singular(word: str) -> str:
    return word[:-1] if len(word) > _PLURAL and word.endswith("s") and not word.endswith("ss") else word


def fitting(notes: Sequence[N], query: str) -> list[N]:
    """Return the notes that have a word in common with the query, best first; of equals the one that came first.

    A rare word counts more than one that many notes have.
    """
    wanted = set(words_of(query)).difference(words_of(_SMALL))
    counted = [_counted(note.text) for note in notes]
    if not wanted or not notes:
        return []
    weight = {word: _rarity(sum(word in words for words in counted), len(notes)) for word in wanted}
    average = sum(words.total() for words in counted) / len(notes) or 1.0
    scores = [
        sum(weight[word] * _presence(words[word], words.total() / average) for word in wanted if words[word])
        for words in counted
    ]
    order = sorted((i for i, score in enumerate(scores) if score > 0), key=lambda i: -scores[i])
    return [notes[i] for i in order]


def _rarity(having: int, total: int) -> float:
    return math.log(1 + (total - having + 0.5) / (having + 0.5))


def _presence(count: int, relative_length: float) -> float:
    return count * (_SATURATION + 1) / (count + _SATURATION * (1 - _BY_LENGTH + _BY_LENGTH * relative_length))


def chosen(notes: Sequence[N], query: str, *, most: int, characters: int) -> list[N]:
    """Return the notes for a prompt within its bounds: those that fit always, then those that fit the query."""
    pinned = [note for note in notes if note.is_pinned]
    others = [note for note in notes if not note.is_pinned]
    return _within([*pinned, *fitting(others, query)], most, characters)


def _within(notes: Iterable[N], most: int, characters: int) -> list[N]:
    kept: list[N] = []
    for note in notes:
        if len(kept) >= most:
            break
        if len(note.text) <= characters:
            kept.append(note)
            characters -= len(note.text)
    return kept
