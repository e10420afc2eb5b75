"""What is random, what is a word, what stands for a value to come. Facts about short texts; no pattern in here."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Final

__all__ = ["entropy", "is_mixed", "is_name", "is_placeholder", "is_random", "is_reference", "is_wordy"]

_CHUNK: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_RUN: Final = re.compile("[A-Za-z0-9]+")
_WORDS: Final = re.compile("(?:[A-Z]?[a-z]{2,}[0-9]{0,2})+|[A-Z]+[0-9]{0,2}|[a-z][0-9]{0,3}|[0-9]{1,4}[a-z]?")
_SHORT: Final = 8
_LONG_RUN: Final = 16
_FEW: Final = 3
_WORD_LENGTH: Final = 3.5
"""Characters of an average part of one case: words and names have more, random letters and digits about two."""
_MIXED_LENGTH: Final = 2.5

_PLACEHOLDER: Final = re.compile(
    r"(?i)example|change.?(?:me|it)|place.?holder|redacted|(?:^|[_-])your|your[_-]?(?:own|api|auth|access|secret|token|key|pass)"
    r"|dummy|insert[_-]|replace[_-]?(?:me|with)|x{4}|\*{3}|\.\.\.|\A<.*>\Z"
)
_STAND_IN: Final = re.compile(r"(?i)x{6}|\*{6}|your[_-]?(?:own|api|auth|access|secret|token|key|pass)|(.)\1{15}")
"""The same for what has a maker's prefix: there is less that it may stand for."""

_REFERENCE: Final = re.compile(
    r"\$?\{.*|\$\(.*|\$\w+|%\w*%?|@\w+@|[<*[`].*|[a-z]+://.*|(?:arn|file|env|op|vault|ssm|kms|keyring):.*"
    r"|[A-Za-z]:\\.*|(?:env|vars|secrets|process|os|config|settings|self|this)\.[\w.]+"
)
_PATH: Final = re.compile(r"[~.]{0,2}/[\w.-]+(?:/[\w.-]+)+")
_LONG: Final = 32
"""Characters from which on what could be a path may be base64 instead."""
_CLASS: Final = re.compile(
    r"[A-Z]\w*(?:Provider|Factory|Manager|Service|Handler|Encoder|Hasher|Validator|Authenticator|Generator|Token|Key|Spec"
    r"|Password|Secret|Credentials?|Store|Config|Exception|Error|Filter|Strategy|Resolver|Builder|Client|Request|Response"
    r"|Type|Impl|Adapter|Repository|Controller|Field|Input|Model|Source|Parser|Interceptor)"
)


def entropy(text: str) -> float:
    """Return Shannon's entropy in bits a character: English words have about 2.5 to 3, random keys more than 3.5."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def is_mixed(text: str) -> bool:
    """Say whether there are both digits and letters."""
    return any(c.isdigit() for c in text) and any(c.isalpha() for c in text)


def is_random(text: str) -> bool:
    """Tell random characters from words in any spelling: `aZ3kk9Qx` from `cacheDir`, `cache_dir`, `cache-dir-2.0b`."""
    runs = _RUN.findall(text)
    return any(_is_random(run) for run in runs if len(run) >= _SHORT) or _is_random("".join(runs), much=True)


def _is_random(run: str, *, much: bool = False) -> bool:
    """Judge by how often case changes, and letters and digits do; `much` where words were joined."""
    chunks = _CHUNK.findall(run)
    if len(chunks) < _FEW:
        return False
    length = len(run) / len(chunks)
    if much:
        return len(run) >= _LONG_RUN and length < _MIXED_LENGTH
    numbers = sum(chunk.isdigit() for chunk in chunks)
    return length < _WORD_LENGTH or (len(run) >= _LONG_RUN and numbers >= _FEW)


def is_wordy(text: str) -> bool:
    """Say whether a text is nothing but words, abbreviations and versions: `config_cacheDir2`, `embed-v1-0.6b`."""
    return all(map(_WORDS.fullmatch, _RUN.findall(text)))


def is_name(text: str) -> bool:
    """Tell the name of a class or of something in a module from a value: `OAuth2TokenProvider`, `acme.auth.Basic2`."""
    if _CLASS.fullmatch(text):
        return True
    parts = text.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts) and not is_random(text)


def is_placeholder(text: str, *, is_certain: bool = False) -> bool:
    """Say whether a text stands for a value to be put there; `is_certain` for what else is known by its look."""
    return (_STAND_IN if is_certain else _PLACEHOLDER).search(text) is not None


def is_reference(text: str) -> bool:
    """Say whether a text only says where a value is: a variable, a template, a path, an address."""
    if _PATH.fullmatch(text):
        return len(text) < _LONG or not is_random(text)
    return _REFERENCE.fullmatch(text) is not None
