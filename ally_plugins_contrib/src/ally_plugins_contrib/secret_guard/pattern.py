"""One kind of credential: how it looks, and what replaces it. Pure text in, text out.

Every pattern is linear in the length of the text: what follows an open repetition either cannot fail or starts with a
character outside of it, repetitions that could share text are possessive or bounded, and a start is only tried where a
word begins. Each has a literal hint; a text without it (nearly all text) is never searched. Where the credential is one
long word, as most tokens are, the hint is only looked for in long words, of which most texts have few.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["END", "MARK", "Kinds", "Pattern"]

_BEFORE_WORD: Final = re.compile(r"(?s)(?:.*[^A-Za-z0-9_-]|.*\\[nrt]|)\Z")
"""Where a word begins: also after an escaped line end, since much of what tools print is JSON."""

END: Final = "(?![A-Za-z0-9_-])"

MARK: Final = re.compile(r"\[redacted:[a-z0-9-]+\]")
"""What a credential was replaced by."""

_LONG_WORD: Final = re.compile(r"[A-Za-z0-9_.:/=+~%-]{20,}")

Check = Callable[[re.Match[str]], bool]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind of credential. The group `secret`, or without one the whole match, is what is replaced."""

    kind: str
    hints: tuple[str, ...]
    regex: re.Pattern[str]
    check: Check | None = None
    folds_case: bool = False
    is_word: bool = False
    begins: bool = False
    """Whether it begins where a word does: no part of the regex, which is found much faster by its first letters."""

    def replace(self, text: str) -> str:
        """Return the text with every such credential replaced by its mark."""
        return self.regex.sub(self._mark, text)

    def is_in(self, text: str) -> bool:
        """Say whether such a credential is in the text."""
        return any(self.accepts(match) for match in self.regex.finditer(text))

    def accepts(self, match: re.Match[str]) -> bool:
        """Say whether what looks like a credential is random enough to be one."""
        start = match.start()
        if self.begins and _BEFORE_WORD.match(match.string[max(0, start - 2) : start]) is None:
            return False
        return self.check is None or self.check(match)

    def _mark(self, match: re.Match[str]) -> str:
        if not self.accepts(match):
            return match.group()
        mark = f"[redacted:{self.kind}]"
        if "secret" not in self.regex.groupindex:
            return mark
        start, end = match.span("secret")
        whole, offset = match.group(), match.start()
        return whole[: start - offset] + mark + whole[end - offset :]


class Kinds:
    """Patterns in an order, and which of them a text is worth searching for."""

    def __init__(self, patterns: tuple[Pattern, ...]) -> None:
        self.patterns = patterns
        self._others = tuple(pattern for pattern in patterns if not pattern.is_word)

    def worth_searching(self, text: str) -> Iterator[Pattern]:
        """Yield the patterns whose hints are in the text, which may be changed meanwhile by those yielded before."""
        folded = text.lower()
        words = "\n".join(_LONG_WORD.findall(text))
        folded_words = words.lower()
        for pattern in self.patterns if words else self._others:
            if pattern.is_word:
                where = folded_words if pattern.folds_case else words
            else:
                where = folded if pattern.folds_case else text
            for hint in pattern.hints:
                if hint in where:
                    yield pattern
                    break
