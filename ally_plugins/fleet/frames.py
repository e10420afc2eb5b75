"""A stream of bytes over messages that may be lost: one direction's order is checked, and no end sends more than fits.

No input or output. A message that is missing, repeated or out of order ends the stream: what it carried is decisions,
and a decision that is not known to be the answer is none. One end has at most `WINDOW` bytes that the other has not
taken, so that nothing piles up at the server for somebody who does not read.
"""

from __future__ import annotations

import struct
from typing import Final

import attrs

from ally_plugins.contract.values.errors import ProtocolError

__all__ = ["CHUNK", "WINDOW", "End", "FrameStream", "ends_stream"]

WINDOW: Final = 1024 * 1024
"""Bytes on their way: a transform's whole output now and then, and a second of events of the busiest host."""

CHUNK: Final = 256 * 1024
"""Bytes of one message at most: a longer one holds up those of all other links on its connection."""

_TELL_EVERY: Final = (
    64 * 1024
)  # bytes that are taken before the other end is told; more messages cost more than they free

_HEADER: Final = struct.Struct(">cQ")
_DATA: Final = b"D"
_TAKEN: Final = b"T"
_END: Final = b"E"
_LOST: Final = b"L"
_LONGEST_REASON: Final = 300


@attrs.frozen
class End:
    """The other end has ended the stream: since what it leads to has ended, or since it `is_lost` between the two."""

    reason: str
    is_lost: bool = False


def ends_stream(frame: bytes) -> bool:
    """Say whether a message ends its stream, wherever in it that comes."""
    return frame[:1] in {_END, _LOST}


@attrs.define(eq=False)
class FrameStream:
    """One end of a stream: what is to be sent, what came, and how much of it was taken."""

    chunk: int = CHUNK
    """Bytes of one message, as many as the server takes."""
    waiting: bytearray = attrs.field(init=False, factory=bytearray)
    """What is not sent yet: the other end has not taken enough."""
    _sent: int = attrs.field(init=False, default=0)
    _sent_frames: int = attrs.field(init=False, default=0)
    _taken_there: int = attrs.field(init=False, default=0)
    _received: int = attrs.field(init=False, default=0)
    _received_frames: int = attrs.field(init=False, default=0)
    _taken: int = attrs.field(init=False, default=0)
    _told: int = attrs.field(init=False, default=0)

    @property
    def unread(self) -> int:
        """Bytes that the other end is not known to have taken, sent or not."""
        return self._sent - self._taken_there + len(self.waiting)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Have bytes sent after those before them."""
        self.waiting += data

    def frames(self) -> list[bytes]:
        """Return the messages that may be sent now, in order."""
        found = []
        while self.waiting and (room := WINDOW - (self._sent - self._taken_there)) > 0:
            part = bytes(memoryview(self.waiting)[: min(room, self.chunk)])
            del self.waiting[: len(part)]
            self._sent += len(part)
            found.append(self._numbered(_DATA, part))
        if self._taken - self._told >= _TELL_EVERY:
            self._told = self._taken
            found.append(_HEADER.pack(_TAKEN, self._taken))
        return found

    def end(self, end: End) -> bytes:
        """Return the message that ends the stream."""
        return self._numbered(_LOST if end.is_lost else _END, end.reason[:_LONGEST_REASON].encode("utf-8", "replace"))

    def take(self, size: int) -> None:
        """Count bytes that were handed on, and make room for as many."""
        self._taken += size

    def receive(self, frame: bytes) -> bytes | End:
        """Return what a message carries; empty for one that only makes room.

        Raises ProtocolError for one that is not the next, or is none.
        """
        if len(frame) < _HEADER.size:
            raise ProtocolError(f"a message of {len(frame)} bytes, expected at least {_HEADER.size}")
        kind, number = _HEADER.unpack_from(frame)
        if kind == _TAKEN:
            if not self._taken_there <= number <= self._sent:
                raise ProtocolError(f"{number} bytes were taken, of {self._sent} that were sent")
            self._taken_there = number
            return b""
        if kind not in {_DATA, _END, _LOST}:
            raise ProtocolError(f"a message of the kind {kind!r}, which there is none of")
        # That the stream is lost is true wherever in it that comes: as from an end which knows it no more.
        if number != self._received_frames and kind != _LOST:
            raise ProtocolError(f"message {number} came where {self._received_frames} was expected: lost, or repeated")
        self._received_frames += 1
        body = frame[_HEADER.size :]
        if kind != _DATA:
            return End(body.decode("utf-8", "replace"), is_lost=kind == _LOST)
        self._received += len(body)
        if self._received - self._taken > WINDOW:
            raise ProtocolError(f"more than {WINDOW} bytes came at once")
        return body

    def _numbered(self, kind: bytes, body: bytes) -> bytes:
        number = self._sent_frames
        self._sent_frames += 1
        return _HEADER.pack(kind, number) + body
