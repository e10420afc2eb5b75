"""Records on a line that is not one JSON text: several in a row, zeros around one, one behind a cut one.

Two programs that write to one file, and one that is killed while it writes, leave such lines. Nothing here raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from attrs import define

from .json_lines import decode_record, iterate_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

__all__ = ["IsRecord", "iterate_records", "read_line"]

IsRecord = Callable[[dict[str, Any]], bool]
"""Whether an object that follows a cut record is a record of the format, and no part of the cut one."""

# A longer line is not searched: as text it takes up to four times its bytes.
_MAX_BYTES: Final = 8 * 1024 * 1024
# Characters that may be looked at, for each one of the line: no line makes the search quadratic.
_LOOKS: Final = 16
_TOO_DEEP: Final = 100_000  # what a text that is nested too deeply counts for: it takes as long as so many
_START: Final = '{"'
_PADDING: Final = re.compile(r"[\0\s]*")
_DECODE: Final = json.JSONDecoder().raw_decode


def iterate_records(file: BinaryIO, is_record: IsRecord) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield each record with the number of its line, from 1; for a line that is broken also the reason, as text."""
    for number, line in iterate_lines(file):
        records, fault = read_line(line, is_record)
        for record in records:
            yield number, record
        if fault:
            yield number, fault


def read_line(line: bytes | None, is_record: IsRecord) -> tuple[list[dict[str, Any]], str]:
    """Return the records of a line, and why it is not simply one record; the empty string for one that is."""
    record = decode_record(line)
    if type(record) is dict:
        return [record], ""
    if line is None or len(line) > _MAX_BYTES:
        return [], str(record)
    # `surrogateescape`: what is no UTF-8 does not shift positions, and is the same bytes again for the decoder.
    search = _Search(line.decode("utf-8", "surrogateescape"), is_record)
    found = list(search.records())
    return found, f"{record}; read from it: {len(found)} whole" if found else str(record)


@define
class _Search:
    """The records of one line. Lives as long as the line is read."""

    text: str
    is_record: IsRecord
    looks: int = 0

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the whole records: those in a row, then the first that begins behind a fault, and so on."""
        position, fault = self._skip(0), 0
        while position < len(self.text) and self.looks <= _LOOKS * len(self.text):
            end, fault = self._decode(position)
            if end:
                record = self._record(position, end)
                if record is not None:
                    yield record
                position = self._skip(end)
            else:
                position = self._next(position, fault)

    def _next(self, position: int, fault: int) -> int:
        """Return where a record begins that the cut one before it runs into, else the first one behind the fault."""
        start = self.text.rfind(_START, position + 1, fault)
        while start > 0:
            if self._begins(start):
                return start
            start = self.text.rfind(_START, position + 1, start)
        start = self.text.find(_START, max(fault - 1, position + 1))
        while start > 0 and not self._begins(start):
            start = self.text.find(_START, start + 1)
        return start if start > 0 else len(self.text)

    def _begins(self, start: int) -> bool:
        """Return whether a whole record begins here. What has more of its own container behind it is a part of one."""
        if self.looks > _LOOKS * len(self.text):
            return False
        end, _ = self._decode(start)
        if not end:
            return False
        behind = self._skip(end)
        # A comma or a bracket behind it belongs to a container that began before.
        if behind < len(self.text) and self.text[behind] != "{":
            return False
        record = self._record(start, end)
        return record is not None and self.is_record(record)

    def _decode(self, start: int) -> tuple[int, int]:
        """Return where the JSON text from `start` ends, 0 where there is none, and where it was given up."""
        try:
            _, end = _DECODE(self.text, start)
        except json.JSONDecodeError as error:
            is_open = error.msg.startswith("Unterminated")  # its position is where the string begins
            fault = len(self.text) if is_open else error.pos
            self.looks += fault - start + error.pos // 8  # the error counts the lines up to its position
            return 0, fault
        except RecursionError:
            self.looks += _TOO_DEEP
            return 0, start
        self.looks += end - start
        return end, end

    def _record(self, start: int, end: int) -> dict[str, Any] | None:
        record = decode_record(self.text[start:end].encode("utf-8", "surrogateescape"))
        return record if type(record) is dict else None

    def _skip(self, position: int) -> int:
        padding = _PADDING.match(self.text, position)
        return padding.end() if padding is not None else position
