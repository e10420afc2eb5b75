"""What a plugin's process writes to its stderr: a bounded file of inert lines, and the last ones in memory.

One record a line: the time (ISO 8601, UTC), a space, and the text, in which the plugin's secrets are masked and every
control, direction and invisible character is escaped. The file has one predecessor and both are capped; what comes
faster than the rate is dropped, and counted in a line of the log's own (in square brackets). Who reads the file is left
to the commands.

Bytes are written on the loop: at most `RATE` a second, into the page cache, so that a flood costs the counting of its
line feeds only. Two hosts that share a home share the file; whichever fills it rotates it.
"""

from __future__ import annotations

import codecs
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ally_plugins.contract.values.inert import inert
from ally_plugins.contract.values.masking import MaskedStream, Secrets
from ally_plugins.journal.owned_files import open_file
from ally_plugins.policy.budget import TokenBucket

__all__ = ["StderrLog", "log_file"]

FILE_BYTES: Final = 1 << 20  # of the file and as much of its predecessor; Docker's usual advice is ten times that
LINE_BYTES: Final = 4096  # of one line before escaping: a long traceback line; the rest of the line is counted
RATE: Final = 64 << 10  # bytes a second, in the long run; a chatty program writes a tenth
BURST: Final = 1 << 20  # bytes at once: a full log, so that the start of a crash's output is never lost
TAIL_BYTES: Final = 16 << 10  # Node.js and Java print some dozens of frames, of a hundred bytes, behind the error
TAIL_LINES: Final = 100
RECORD_BYTES: Final = 26  # time, space and line feed, which count as well: a flood of empty lines is a flood

_NAME: Final = re.compile(r"[^A-Za-z0-9._-]")
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT


def log_file(folder: Path, plugin: str) -> Path:
    """Return where a plugin's log lies; what a file name cannot have is escaped, so that no two plugins share one."""
    return folder / f"{_NAME.sub(lambda found: f'%{ord(found[0]):02X}', plugin)}.log"


class StderrLog:
    """The log of one plugin, across the processes that it has; from the plugin's start to `close`."""

    def __init__(
        self,
        path: Path | None,
        *,
        file_bytes: int = FILE_BYTES,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._file_bytes = file_bytes
        self._now = now
        self._clock = clock
        self._bucket = TokenBucket(BURST, RATE)
        self._partial = b""
        self._cut = 0
        self._is_midway = False
        self._last = b""
        self._masking = MaskedStream(Secrets())
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._descriptor = -1
        self.lines = 0
        """Records that were written."""
        self.dropped_lines = 0
        """Lines that were dropped since the beginning, because they came too fast or the file could not be written."""
        self._unreported_lines = self._unreported_bytes = 0

    def hide(self, secrets: Secrets) -> None:
        """Mask these from now on, with those before: a process that was given the old ones may still run."""
        self._masking.secrets |= secrets

    def write(self, data: bytes) -> None:
        """Take what was read from stderr; never waits and never raises."""
        # First of all, since a secret that was cut, by a limit or by the pipe, would not be found.
        self._take(self._masking.feed(self._decoder.decode(data)).encode() if self._masking.secrets else data)

    def _take(self, data: bytes) -> None:
        # Before the rate is looked at: the last lines of a flood, too, may say why the process ended.
        self._last = (self._last + data)[-TAIL_BYTES:]
        cost = len(data) + RECORD_BYTES * data.count(b"\n")
        if not self._is_affordable(cost):
            self._drop(data)
            return
        if self._is_midway:  # the rest of a line whose beginning was dropped
            rest, found, data = data.partition(b"\n")
            self._unreported_bytes += len(rest)
            if not found:
                return
            self._is_midway = False
        self._write_records([*self._drop_notice(), *self._split(data)])

    def end(self) -> None:
        """Write the line that a process left unfinished, and what was dropped; call it when the process is gone."""
        if rest := self._masking.rest() + self._decoder.decode(b"", final=True):
            self._take(rest.encode())
        records = self._drop_notice()
        if self._partial:
            records.append(self._line(b""))
        self._is_midway = False
        self._write_records(records)

    def note(self, text: str) -> None:
        """Write a line of the host's own, in square brackets: that the process started, or how it ended."""
        self._write_records([*self._drop_notice(), f"[{inert(self._masking.secrets.masked(text))}]"])

    def forget_tail(self) -> None:
        """Begin `tail` anew, for the next process."""
        self._last = b""

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, inert, the unfinished one too; for the reason why a process ended."""
        lines = self._last.decode("utf-8", "replace").splitlines()
        return tuple(inert(line) for line in lines[-TAIL_LINES:] if line.strip())

    def close(self) -> None:
        """Write what is left and close the file."""
        self.end()
        self._close()

    # --- what is written ---

    def _is_affordable(self, cost: int) -> bool:
        """Pay for it; once something was dropped, a second's worth is saved first, so that whole pieces are kept."""
        now = self._clock()
        if self._unreported_bytes and self._bucket.level(now) < RATE:
            return False
        return self._bucket.take(now, cost) <= 0

    def _drop(self, data: bytes) -> None:
        lines = data.count(b"\n")
        self._unreported_bytes += len(self._partial) + self._cut + len(data)
        self._unreported_lines += lines
        self.dropped_lines += lines
        self._partial, self._cut = b"", 0
        self._is_midway = not data.endswith(b"\n")

    def _drop_notice(self) -> list[str]:
        if not self._unreported_bytes:
            return []
        lines, count = self._unreported_lines, self._unreported_bytes
        self._unreported_lines = self._unreported_bytes = 0
        return [f"[{lines} lines, {count} bytes dropped: more than {RATE >> 10} KiB a second]"]

    def _split(self, data: bytes) -> list[str]:
        *whole, rest = data.split(b"\n")
        records = [self._line(line) for line in whole]
        self._keep(rest)
        return records

    def _keep(self, rest: bytes) -> None:
        """Keep the beginning of a line whose end has not come."""
        room = LINE_BYTES - len(self._partial)
        self._partial += rest[:room]
        self._cut += max(0, len(rest) - room)

    def _line(self, end: bytes) -> str:
        self._keep(end)
        text, cut = self._partial, self._cut
        self._partial, self._cut = b"", 0
        shown = inert(text.removesuffix(b"\r").decode("utf-8", "replace"))
        return f"{shown} ... [{cut} more bytes]" if cut else shown

    # --- the file ---

    def _write_records(self, records: list[str]) -> None:
        if not records:
            return
        at = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
        data = "".join(f"{at}Z {record}\n" for record in records).encode()
        try:
            self._append(data)
            self.lines += len(records)
        except OSError:  # a full disk, or a folder that is not there, is no reason to stop the daemon
            self.dropped_lines += len(records)
            self._close()  # the next record opens it anew: disk or folder may be there again

    def _append(self, data: bytes) -> None:
        if self._path is None:  # a host that keeps nothing on disk: the end in memory is all
            return
        if self._descriptor < 0:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = open_file(self._path, _FLAGS, is_own=False)
        if self._is_too_much(len(data)):
            self._rotate()
        os.write(self._descriptor, data[: self._file_bytes])

    def _is_too_much(self, count: int) -> bool:
        size = os.fstat(self._descriptor).st_size
        # An empty file takes whatever comes: it would be rotated again and again for what is larger than a file.
        return size > 0 and size + count > self._file_bytes

    def _rotate(self) -> None:
        assert self._path is not None  # noqa: S101 - there is a file
        number = os.fstat(self._descriptor).st_ino
        self._close()
        if self._path.stat().st_ino == number:  # else another host has rotated it already
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._descriptor = open_file(self._path, _FLAGS, is_own=False)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
