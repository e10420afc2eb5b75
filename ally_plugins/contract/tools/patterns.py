"""Regular expressions that a plugin's schema brings: whether `re` can run them, and not for ever."""

from __future__ import annotations

import re
import warnings
from itertools import pairwise
from typing import Final

from attrs import define

__all__ = ["MAX_PATTERN", "find_pattern_problem", "has_nested_repeat"]

MAX_PATTERN: Final = 512  # characters; a schema describes a field, it does not parse a language
MANY: Final = 10  # a repeat that may go on for longer counts as endless

_QUANTIFIER: Final = r"[*+?]|\{\d+,?\d*\}|\{,\d+\}"
_PART: Final = re.compile(
    rf"""\\.                                                      # an escape
    | \[\^?\]?(?:\\.|[^\]\\])*\]                                  # a class
    | \((?:\?(?:P?<\w+>|<?[=!]|[:>]|[aiLmsux-]+:?))?              # the start of a group
    | {_QUANTIFIER} | .""",
    re.DOTALL | re.VERBOSE,
)
_IS_QUANTIFIER: Final = re.compile(_QUANTIFIER)
_EMPTY_MATCHES: Final = frozenset({"^", "$", r"\b", r"\B", r"\A", r"\Z", ""})


def find_pattern_problem(pattern: str) -> str | None:
    """Return what is wrong with a pattern, to stand after the word `pattern`, or None."""
    if len(pattern) > MAX_PATTERN:
        return f"has {len(pattern)} characters; expected {MAX_PATTERN} at most"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # `[[a]` and the like: ambiguous, and it would warn at every call
            re.compile(pattern)
    # OverflowError for `a{99999999999}`, RecursionError for deep groups: re raises more than its own error.
    except (re.error, OverflowError, RecursionError, Warning) as error:
        return f"{pattern!r} is not a regular expression ({error})"
    if has_nested_repeat(pattern):
        return f"{pattern!r} repeats a repeat and may take for ever; let something fixed stand between them"
    return None


def has_nested_repeat(pattern: str) -> bool:
    r"""Return whether an endless repeat stands within another with nothing fixed beside it, as in `(a+)*`.

    Such a pattern takes exponential time on some texts. `(\w+\.)*` is well, since each round needs its dot. It is a
    rule of thumb: overlapping alternatives (`(a|a)*`) and fixed parts that the repeat also matches (`(\w+a)*`) pass.
    """
    groups = [_Group()]
    parts = _PART.findall(pattern)
    for part, following in pairwise([*parts, ""]):
        if _IS_QUANTIFIER.fullmatch(part):
            continue  # it was looked at together with what it repeats
        if part[0] == "(":
            groups.append(_Group())
        elif part == "|":
            groups[-1].end_branch()
        else:
            inner = groups.pop() if part == ")" and len(groups) > 1 else _Group(fixed=part not in _EMPTY_MATCHES)
            inner.end_branch()
            if inner.is_open and _is_endless(following):
                return True
            groups[-1].add(inner, following)
    return False


@define
class _Group:
    """What was read of a group: of the branch that is being read, and of those before it."""

    endless: bool = False
    fixed: bool = False  # the branch has a part that each round needs once
    any_endless: bool = False
    all_fixed: bool = True
    is_open: bool = False  # a branch is nothing but repeats

    def end_branch(self) -> None:
        self.is_open = self.is_open or (self.endless and not self.fixed)
        self.any_endless = self.any_endless or self.endless
        self.all_fixed = self.all_fixed and self.fixed
        self.endless = self.fixed = False

    def add(self, inner: _Group, quantifier: str) -> None:
        is_endless, is_optional = _is_endless(quantifier), quantifier.startswith(("*", "?", "{0", "{,"))
        self.endless = self.endless or inner.any_endless or is_endless
        self.fixed = self.fixed or (inner.all_fixed and not is_endless and not is_optional)


def _is_endless(part: str) -> bool:
    if part in {"*", "+"}:
        return True
    if not part.startswith("{") or not _IS_QUANTIFIER.fullmatch(part):
        return False
    _, comma, most = part.strip("{}").partition(",")
    return bool(comma) and (not most or int(most) > MANY)
