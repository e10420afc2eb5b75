"""Credentials in nested values: replacing what can be replaced, and finding what cannot. No host in here.

A credential that is written out is replaced where it stands. One that is the name of a field, split over a list or by
quotes, or encoded is found by the same looks, but to replace it would change what the value means: in what a tool is
about to receive it is named, so that the call can be denied; in what it returned, the whole text around it goes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

from .patterns import CERTAIN, FIXED, find_kind, find_named, redact_text

__all__ = ["find_hidden", "redact", "redact_all"]

_RUN: Final = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{24,}={0,2}")
"""What may be base64: twenty characters, the shortest credential, are 27 of base64."""

_MAX_DECODED: Final = 256 * 1024
"""Characters of one base64 run that are looked into; an image is longer and holds no credential in plain sight."""

_SPLIT: Final = re.compile(r"""["'`\\]+(?:\s{0,4}\+\s{0,4}["'`]+)?""")
"""What shells and programs put between the parts of one text; spaces are none, or prose would be joined to a key."""

_TO_STANDARD: Final = str.maketrans("-_", "+/")
_MAX_UNSPLIT: Final = 256 * 1024


def redact(value: Any) -> Any:
    """Return the value with credentials in its texts replaced; the very same value where there are none."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        new = {name: _redact_field(name, item) for name, item in value.items()}
        return new if any(new[name] is not item for name, item in value.items()) else value
    if isinstance(value, (list, tuple)):
        items = [redact(item) for item in value]
        return items if any(one is not other for one, other in zip(items, value, strict=True)) else value
    return value


def redact_all(value: Any) -> Any:
    """Return the value with hidden credentials gone too: their field's name, line or list is replaced as a whole."""
    return _redact_rest(redact(value))


def _redact_rest(value: Any) -> Any:
    if isinstance(value, str):
        return _redact_hidden(value)
    if isinstance(value, Mapping):
        return _redact_mapping(value)
    if isinstance(value, (list, tuple)):
        if (kind := _find_joined(value)) is not None:
            return [f"[redacted:{kind}]" if isinstance(item, str) else _redact_rest(item) for item in value]
        items = [_redact_rest(item) for item in value]
        return items if any(one is not other for one, other in zip(items, value, strict=True)) else value
    return value


def _redact_field(name: str, item: Any) -> Any:
    if isinstance(item, str) and (kind := find_named(name, item)) is not None and find_kind(item) is None:
        return f"[redacted:{kind}]"
    return redact(item)


def find_hidden(value: Any) -> str | None:
    """Return the kind of a credential that `redact` leaves in a value, None when there is none."""
    return next(_hidden_kinds(value), None)


def _hidden_kinds(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if (kind := find_kind(value) or _find_in_text(value)) is not None:
            yield kind
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _hidden_kinds(name)
            if isinstance(item, str) and (kind := find_named(name, item)) is not None:
                yield kind
            yield from _hidden_kinds(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _hidden_kinds(item)
        if (kind := _find_joined(value)) is not None:
            yield kind


def _find_in_text(text: str) -> str | None:
    """Return the kind of a credential that quotes split, percent signs escape, or base64 encodes."""
    if (kind := _find_split(text)) is not None:
        return kind
    if "%" in text and (kind := find_kind(unquote(text), CERTAIN)) is not None:
        return kind
    return next((kind for run in _RUN.finditer(text) if (kind := _find_encoded(run.group())) is not None), None)


def _find_split(text: str) -> str | None:
    """Return the kind of a credential that stands there once the quotes are gone."""
    if len(text) > _MAX_UNSPLIT:
        return None
    whole, count = _SPLIT.subn("", text)
    return find_kind(whole, FIXED) if count else None


def _find_joined(items: list[Any] | tuple[Any, ...]) -> str | None:
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) < 2 or sum(map(len, texts)) > _MAX_UNSPLIT:  # noqa: PLR2004 - one part is not split
        return None
    return find_kind("".join(texts), FIXED)


def _find_encoded(run: str) -> str | None:
    if len(run) > _MAX_DECODED:
        return None
    try:
        padded = run.rstrip("=").translate(_TO_STANDARD)
        decoded = base64.b64decode(padded + "=" * (-len(padded) % 4))
    except (binascii.Error, ValueError):
        return None
    text = decoded.decode("ascii", "ignore")
    return find_kind(text, CERTAIN) if len(text) * 10 >= len(decoded) * 9 else None


def _redact_hidden(text: str) -> str:
    if _find_split(text) is not None or ("%" in text and find_kind(unquote(text), CERTAIN) is not None):
        text = "".join(
            line if (kind := _find_in_text(line)) is None else f"[redacted:{kind}]{_line_end(line)}"
            for line in text.splitlines(keepends=True)
        )
    return _RUN.sub(_replace_run, text)


def _redact_mapping(value: Mapping[str, Any]) -> Mapping[str, Any]:
    new: dict[str, Any] = {}
    for name, item in value.items():
        kind = next(_hidden_kinds(name), None)
        shown = name if kind is None else f"[redacted:{kind}]"
        while shown in new:  # two names that are credentials: neither field is lost
            shown += "'"
        new[shown] = _redact_rest(item)
    is_same = list(new) == list(value) and all(new[name] is item for name, item in value.items())
    return value if is_same else new


def _replace_run(match: re.Match[str]) -> str:
    kind = _find_encoded(match.group())
    return match.group() if kind is None else f"[redacted:{kind}]"


def _line_end(line: str) -> str:
    return line[len(line.rstrip("\r\n")) :]
