"""How credentials look. Pure text in, text out.

Every pattern is linear in the length of the text: what follows an open repetition either cannot fail or starts with a
character outside of it, repetitions that could share text are possessive, and a start is only tried where a word
begins. Each has a literal hint; a text without it (nearly all text) is never searched.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["CERTAIN", "FIXED", "PATTERNS", "Pattern", "find_kind", "find_named", "redact_text"]

# A word begins: also after an escaped line end, since much of what tools print is JSON.
_START: Final = r"(?:(?<![A-Za-z0-9_-])|(?<=\\[nrt]))"
_WORD: Final = "[A-Za-z0-9_-]"
_SHORT_RANDOM: Final = 8
_LONG_RANDOM: Final = 16
_LONGEST_VALUE: Final = 256

Check = Callable[[re.Match[str]], bool]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind of credential. The group `secret`, or without one the whole match, is what is replaced."""

    kind: str
    hints: tuple[str, ...]
    regex: re.Pattern[str]
    check: Check | None = None
    folds_case: bool = False

    def may_be_in(self, text: str, folded: str) -> bool:
        """Say whether the text is worth searching; `folded` is the text in lower case."""
        where = folded if self.folds_case else text
        return any(hint in where for hint in self.hints)

    def replace(self, text: str) -> str:
        """Return the text with every such credential replaced by its mark."""
        return self.regex.sub(self._mark, text)

    def is_in(self, text: str) -> bool:
        """Say whether such a credential is in the text."""
        return any(self.accepts(match) for match in self.regex.finditer(text))

    def accepts(self, match: re.Match[str]) -> bool:
        """Say whether what looks like a credential is random enough to be one."""
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


def redact_text(text: str) -> str:
    """Return the text with every credential that is known by its look replaced by `[redacted:KIND]`."""
    folded = text.lower()
    for pattern in PATTERNS:
        if pattern.may_be_in(text, folded):
            text = pattern.replace(text)
    return text


def find_kind(text: str, patterns: tuple[Pattern, ...] | None = None) -> str | None:
    """Return the kind of the first credential that is found, None for a clean text."""
    folded = text.lower()
    for pattern in patterns if patterns is not None else PATTERNS:
        if pattern.may_be_in(text, folded) and pattern.is_in(text):
            return pattern.kind
    return None


def find_named(name: str, value: str) -> str | None:
    """Return the kind of credential that the field `name` holds as its whole value, None when it holds none."""
    if not _SHORT_RANDOM <= len(value) <= _LONGEST_VALUE:
        return None
    text = f'{name}="{value}"'
    for pattern in (_AUTHORIZATION, _ASSIGNED):
        match = pattern.regex.search(text)
        if match is not None and match.end("secret") == len(text) - 1 and pattern.accepts(match):
            return pattern.kind
    return None


# --- what is random and what is a word ---


def _entropy(text: str) -> float:
    """Return Shannon's entropy in bits a character: English words have about 2.5 to 3, random keys more than 3.5."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def _has_long_run(match: re.Match[str]) -> bool:
    """Tell a key from a name in kebab case: somewhere sixteen letters and digits follow each other."""
    return any(len(run) >= _LONG_RANDOM and _is_mixed(run) for run in re.split("[_-]", match.group()))


def _is_mixed(text: str) -> bool:
    return any(c.isdigit() for c in text) and any(c.isalpha() for c in text)


def _is_random(match: re.Match[str]) -> bool:
    """Tell a token after `Bearer` from a word: it has digits, or the mixed case of base64."""
    value = match["secret"]
    is_mixed = _is_mixed(value) or not (value.islower() or value.isupper() or value.istitle())
    return is_mixed and _entropy(value) > 2.5  # noqa: PLR2004 - bits; see _entropy


_PLACEHOLDER: Final = re.compile(r"(?i)example|change.?me|place.?holder|redacted|your[_-]|dummy|x{4}|\*{3}|\.\.\.")
_PAGING: Final = re.compile(r"(?i)(?:next|prev|page|paging|continuation|cursor|sync|resume|max|min|num)[_-]?\Z")
_LOOK_BACK: Final = 16


def _is_assigned_secret(match: re.Match[str]) -> bool:
    """Tell `password = "s3cr3t-pA55"` from code that only speaks of passwords; when in doubt it is code."""
    value = match["secret"]
    before = match.string[max(0, match.start() - _LOOK_BACK) : match.start()]
    if _PLACEHOLDER.search(value) or _PAGING.search(before) or not _is_mixed(value):
        return False
    if match["quote"] or "=" == match["sign"]:  # noqa: SIM300 - quoted, or written as a shell does
        is_code = not match["quote"] and match.string[match.end() : match.end() + 1] in {"(", "["}
        return not is_code and _entropy(value) > 2.5  # noqa: PLR2004 - bits; see _entropy
    return len(value) >= _LONG_RANDOM and _entropy(value) > 3.5  # noqa: PLR2004


def _is_no_variable(match: re.Match[str]) -> bool:
    return match["secret"][0] not in "$<{%*["


def _has_digits(match: re.Match[str]) -> bool:
    return _is_mixed(match.group())


_NAMES: Final = (
    "[AaPpSsTt](?i:assw(?:or)?d|assphrase|wd|ecret(?:[_-]?key)?|oken"
    "|pi[_-]?key|ccess[_-]?key|rivate[_-]?key|uth[_-]?key)"
)
"""Passwords, pass phrases, secrets, tokens, keys. The first letter stands apart, so that the search leaps to the next
one that may begin a name: folding all of it is five times slower."""

_PEM: Final = r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"

CERTAIN: Final = (
    Pattern("aws-access-key", ("AKIA", "ASIA"), re.compile(r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])")),
    Pattern("github-token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), re.compile(r"gh[pousr]_[A-Za-z0-9]{36,}")),
    Pattern("github-token", ("github_pat_",), re.compile(r"github_pat_[A-Za-z0-9_]{22,}")),
    Pattern("slack-token", ("xox",), re.compile(r"xox[abeoprs]-[A-Za-z0-9-]{10,}"), _has_digits),
    Pattern("api-key", ("sk-", "sk_"), re.compile(_START + r"sk[-_][A-Za-z0-9_-]{20,}"), _has_long_run),
    Pattern("google-api-key", ("AIza",), re.compile(r"AIza[A-Za-z0-9_-]{35}")),
    Pattern("jwt", ("eyJ",), re.compile(rf"{_START}eyJ{_WORD}{{10,}}+\.eyJ{_WORD}{{10,}}+\.{_WORD}{{10,}}")),
    Pattern(  # the whole block; nothing between the marks may be another mark, so no text is read twice
        "private-key",
        ("PRIVATE KEY",),
        re.compile(_PEM + r"[^-]*+(?:-(?!----)[^-]*+)*+-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"),
    ),
    Pattern(  # a block that was cut: as many lines of it as there are
        "private-key",
        ("PRIVATE KEY",),
        re.compile(_PEM + r"""(?:(?:\\[nr]|[\s"'+,>|])*+[A-Za-z0-9+/=]{20,}+)++"""),
    ),
)
"""Kinds that are known by their own look, wherever they stand."""

_FIXED: Final = {"aws-access-key", "github-token", "slack-token", "google-api-key"}
FIXED: Final = tuple(pattern for pattern in CERTAIN if pattern.kind in _FIXED)
"""Kinds that no text takes on by chance when quotes are taken out of it, or parts of it are joined."""

_ASSIGNED: Final = Pattern(
    "secret",
    ("passw", "passphrase", "pwd", "secret", "token", "key"),
    re.compile(
        rf"""{_NAMES}\\?["']?\s{{0,3}}(?P<sign>=>|:=|[:=]\s|[:=])\s{{0,3}}\\?(?P<quote>["']?)"""
        rf"""(?P<secret>[^\s"'`,;&<>(){{}}\[\]$\\|]{{{_SHORT_RANDOM},{_LONGEST_VALUE}}})"""
    ),
    _is_assigned_secret,
    folds_case=True,
)

_AUTHORIZATION: Final = Pattern(
    "authorization",
    ("authorization",),
    re.compile(
        r"""(?i)authorization\\?["']?\s{0,3}[:=]\s{0,3}\\?["']?(?:bearer|basic|token)\s{1,3}(?P<secret>[\w.~+/=-]{8,})"""
    ),
    _is_random,
    folds_case=True,
)

PATTERNS: Final = (
    *CERTAIN,
    _AUTHORIZATION,
    Pattern(
        "bearer-token",
        ("bearer",),
        re.compile(r"(?i)\bbearer\s{1,3}(?P<secret>[\w.~+/=-]{20,})"),
        _is_random,
        folds_case=True,
    ),
    Pattern(
        "url-password",
        ("://",),
        re.compile(r"://[^\s:/@\"']{0,64}:(?P<secret>[^\s/@\"']{3,256})@"),
        _is_no_variable,
    ),
    _ASSIGNED,
)
"""All kinds, the certain ones first: their marks say more."""
