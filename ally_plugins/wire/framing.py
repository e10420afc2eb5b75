"""Lines out of bytes: one frame is what stands before a newline.

What is kept between two chunks never holds a newline, so no byte is searched twice and a long line costs linear time.
"""

from __future__ import annotations

__all__ = ["LineFramer"]


class LineFramer:
    """Cuts a stream of bytes into lines, for the life of one connection.

    `is_overflowed` becomes True with the first line of more than `limit` bytes, finished or not; from then on nothing
    is kept and nothing returned.
    """

    __slots__ = ("_limit", "_tail", "is_overflowed")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tail = bytearray()  # grows in place: bytes would be copied with each chunk of a long line
        self.is_overflowed = False

    def receive_data(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` finishes, without their newlines, up to one that is too long."""
        if self.is_overflowed:
            return []
        lines = data.split(b"\n")  # in C; the last item is what follows the last newline, perhaps nothing
        # Where the whole chunk is small, so is each line in it: one comparison instead of one a line.
        if len(self._tail) + len(data) > self._limit:
            lines = lines[: self._count_fitting(lines)]
        rest = b"" if self.is_overflowed else lines.pop()
        if lines and self._tail:
            self._tail += lines[0]
            lines[0] = self.receive_eof()
        if self.is_overflowed:
            self._tail.clear()
        self._tail += rest
        return lines

    def receive_eof(self) -> bytes:
        """Return what stands after the last newline, and forget it."""
        rest, self._tail = bytes(self._tail), bytearray()
        return rest

    def _count_fitting(self, lines: list[bytes]) -> int:
        """Return how many come before the first line that is too long."""
        held = len(self._tail)
        for number, line in enumerate(lines):
            if held + len(line) > self._limit:
                self.is_overflowed = True
                return number
            # Only the first line has its beginning in the tail.
            held = 0
        return len(lines)
