"""JSON lines of a file of any size, in constant memory: numbered, capped in length, each with its object or fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Final

import orjson

from ally_plugins.contract.values.codec import decode_lenient, find_long_integer
from ally_plugins.contract.values.frozen import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_LINE_BYTES", "Line", "decode_record", "iterate_lines"]

# Bounds the memory that one line may take. The largest lines of real transcripts hold pasted images, below 10 MiB.
MAX_LINE_BYTES: Final = 64 * 1024 * 1024
_SKIP_BYTES: Final = 1024 * 1024
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

# Number from 1, and the line without its end; None in place of a line that is longer than the cap.
Line = tuple[int, bytes | None]


def iterate_lines(file: BinaryIO, limit: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """Yield every line that is not blank, with its number; one over `limit` bytes is read past and yielded as None."""
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if len(line) > limit and not line.endswith(b"\n"):
            _skip_line(file)
            yield number, None
        elif not line.isspace() and line:
            yield number, line


def decode_record(line: bytes | None) -> dict[str, Any] | str:
    """Return the JSON object of a line, or, as text, why there is none. Never raises."""
    if line is None:
        return f"longer than {MAX_LINE_BYTES} bytes"
    value, fault = None, ""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        fault = f"not JSON: {error.msg} at character {error.pos}"
    # orjson makes a float of an integer over 64 bits: another number, which a gate would be shown.
    if fault or find_long_integer(line) is not None:
        try:
            value = decode_lenient(line, keeps_long=True)
        except ValueError as error:
            return fault or f"not JSON: {error}"
    if type(value) is not dict:
        return f"a JSON {_json_name(value)}, expected an object"
    # The count first, which is cheap: nearly no line has so many containers at all.
    if line.count(b"{") + line.count(b"[") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        return f"nested deeper than {MAX_DEPTH} levels"
    return value


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(_SKIP_BYTES)) and not rest.endswith(b"\n"):
        pass


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether containers are nested deeper than `levels`; level by level, since Python limits recursion."""
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for one in layer
            for inner in (one.values() if type(one) is dict else one)
            if type(inner) is dict or type(inner) is list
        ]
        if not layer:
            return False
    return True


def _json_name(value: object) -> str:
    names: dict[type, str] = {list: "array", str: "string", int: "number", float: "number", bool: "boolean"}
    return names.get(type(value), "null")
