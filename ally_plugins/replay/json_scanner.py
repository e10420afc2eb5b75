"""One large JSON object, element by element, in constant memory.

A SWE-agent trajectory is a single object whose arrays hold the session. `iterate_members` finds where the elements
begin and end without decoding them (only strings and brackets matter for that) and hands out their bytes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

import orjson
from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_ELEMENT_BYTES", "JsonMember", "iterate_members"]

# Bounds the memory that one element may take, as MAX_LINE_BYTES does for a line.
MAX_ELEMENT_BYTES: Final = 64 * 1024 * 1024
_CHUNK_BYTES: Final = 256 * 1024
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

_STRUCTURE: Final = re.compile(rb'["{}\[\],:]')
# Up to the closing quote or as far as the chunk goes; a backslash at the very end waits for the next chunk. Possessive,
# since nothing that was passed is ever looked at again.
_IN_STRING: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)


class JsonMember(NamedTuple):
    """A value in the outer object, or an element of an array in it.

    `element` counts an array's elements from 0 and is None for what is no array. `raw` is None where the value is
    larger than the limit; `is_cut` says that the file ended in the middle of it.
    """

    key: str
    element: int | None
    raw: bytes | None
    is_cut: bool = False


def iterate_members(file: BinaryIO, limit: int = MAX_ELEMENT_BYTES) -> Iterator[JsonMember]:
    """Yield the members of the object in `file`, the elements of its arrays one by one; nothing for anything else.

    What is not JSON is yielded as it stands, up to its closing bracket; decoding it reports the fault.
    """
    scanner = _Scanner(limit)
    while chunk := file.read(_CHUNK_BYTES):
        yield from scanner.receive_bytes(chunk)
        if scanner.is_done:
            return
    yield from scanner.end()


@define
class _Scanner:
    """State between chunks: where in the object the bytes so far end. Lives as long as one reading of a file."""

    limit: int
    depth: int = 0
    in_string: bool = False
    in_array: bool = False
    is_begun: bool = False
    is_done: bool = False
    key: str | None = None
    index: int = 0
    # The bytes of the key or value that is being read; None when it has grown over the limit.
    kept: bytearray | None = field(factory=bytearray)
    # A backslash that ended a chunk: what it escapes is in the next one.
    tail: bytes = b""

    def receive_bytes(self, chunk: bytes) -> Iterator[JsonMember]:
        """Yield what these bytes complete."""
        chunk = self._begin(self.tail + chunk)
        self.tail = b""
        position = 0
        while position < len(chunk) and not self.is_done:
            if self.in_string:
                position = self._pass_string(chunk, position)
                continue
            match = _STRUCTURE.search(chunk, position)
            if match is None:
                self._keep(chunk[position:])
                return
            self._keep(chunk[position : match.start()])
            position = match.end()
            yield from self._receive_sign(match[0])

    def end(self) -> Iterator[JsonMember]:
        """Yield what the file was cut in the middle of."""
        if self.is_begun and not self.is_done:
            yield JsonMember(self.key or "", self.index if self.in_array else None, self._take(), is_cut=True)

    def _begin(self, chunk: bytes) -> bytes:
        if self.is_begun:
            return chunk
        chunk = chunk.removeprefix(_BYTE_ORDER_MARK).lstrip()
        self.is_done = bool(chunk) and not chunk.startswith(b"{")
        self.is_begun = bool(chunk) and not self.is_done
        return chunk

    def _pass_string(self, chunk: bytes, position: int) -> int:
        match = _IN_STRING.match(chunk, position)
        stop = match.end() if match is not None else position
        if chunk[stop : stop + 1] == b"\\":
            # What it escapes may be a quote, and is not here yet.
            self.tail = chunk[stop:]
            self._keep(chunk[position:stop])
            return len(chunk)
        self.in_string = stop == len(chunk)
        self._keep(chunk[position : stop + 1])
        return stop + 1

    def _receive_sign(self, sign: bytes) -> Iterator[JsonMember]:
        at_value = self.depth == 1 + self.in_array
        if sign in b"[{":
            self._open(sign)
        elif sign in b"]}":
            yield from self._close(sign)
        elif sign == b"," and at_value:
            yield from self._complete()
        elif sign == b":" and at_value and self.key is None:
            self.key = _decode_key(self._take() or b"")
        else:
            self.in_string = sign == b'"'
            self._keep(sign)

    def _open(self, sign: bytes) -> None:
        is_outer = self.depth == 0
        is_array = self.depth == 1 and sign == b"[" and self.key is not None and not self.kept
        self.depth += 1
        if is_array:
            self.in_array, self.index = True, 0
        elif not is_outer:
            self._keep(sign)

    def _close(self, sign: bytes) -> Iterator[JsonMember]:
        at_value = self.depth == 1 + self.in_array
        self.depth -= 1
        if not at_value:
            self._keep(sign)
            return
        yield from self._complete()
        self.is_done = not self.in_array
        self.in_array = False

    def _complete(self) -> Iterator[JsonMember]:
        """Hand out the value that ends here. After an array, and in an empty one, there is none."""
        key, raw = self.key, self._take()
        if key is not None and raw != b"":
            yield JsonMember(key, self.index if self.in_array else None, raw)
        if self.in_array:
            self.index += 1
        else:
            self.key = None

    def _keep(self, part: bytes) -> None:
        if self.kept is not None:
            self.kept += part if self.kept else part.lstrip()
            if len(self.kept) > self.limit:
                self.kept = None

    def _take(self) -> bytes | None:
        kept, self.kept = self.kept, bytearray()
        return None if kept is None else bytes(kept.rstrip())


def _decode_key(raw: bytes) -> str:
    try:
        return str(orjson.loads(raw))
    except orjson.JSONDecodeError:
        return raw.decode("utf-8", "replace")
