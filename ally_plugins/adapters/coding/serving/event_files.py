"""The file in which an agent writes what happens, read as a stranger's: its end, or what is new since the last look.

Nothing here raises, and nothing waits but for the disk: what an agent's file says is news for observers, and no reason
to hold a call up.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from ally_plugins.contract.values.codec import decode

__all__ = ["EventFile", "read_end"]

LOOK_BYTES: Final = 1024 * 1024
"""What is read at one look, and the longest line: a record with a picture in it is passed over."""

_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)


def read_end(path: str, limit: int) -> bytes:
    """Return the last bytes of a file, at most `limit`; nothing for what is no regular file, or cannot be read.

    Blocks for the disk, and for nothing else.
    """
    try:
        # Not a pipe, which would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return b""
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return b""
        return os.pread(descriptor, limit, max(0, found.st_size - limit))
    except OSError:
        return b""
    finally:
        os.close(descriptor)


@define(eq=False)
class EventFile:
    """One file of JSON lines that grows, of which each record is returned once. For one thread at a time.

    It begins at the end of what is there at the first look, and again where the file was replaced or cut off. Neither a
    link nor another user's file is read. Of more than `LOOK_BYTES` at once the oldest is passed over.
    """

    path: str
    _is_begun: bool = field(init=False, default=False)
    _identity: tuple[int, int] | None = field(init=False, default=None)
    _offset: int = field(init=False, default=0)

    def read_new(self) -> list[dict[str, Any]]:
        """Return the whole records that were added since the last look; what is none is left out. Blocks."""
        is_first, self._is_begun = not self._is_begun, True
        try:
            # A path within the agent's working folder would be anybody's.
            if not Path(self.path).is_absolute():
                return []
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | _NO_LINK)
        except (OSError, ValueError):
            return []  # it is not there yet: all of it will be new
        try:
            return self._read(descriptor, is_first=is_first)
        except OSError:
            return []
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int, *, is_first: bool) -> list[dict[str, Any]]:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            return []
        identity = (found.st_dev, found.st_ino)
        is_other = self._identity not in {None, identity} or found.st_size < self._offset
        self._identity = identity
        if is_first or is_other:
            # What stands there was there before, or cannot be told from that.
            self._offset = found.st_size
            return []
        begins_within = found.st_size - self._offset > LOOK_BYTES
        if begins_within:
            self._offset = found.st_size - LOOK_BYTES
        data = os.pread(descriptor, LOOK_BYTES, self._offset)
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) == LOOK_BYTES:
            end = len(data)  # the rest of the line, which is no record by itself, is passed over with the next
        self._offset += end
        lines = data[:end].split(b"\n")
        return [record for line in lines[begins_within:] if (record := _record(line)) is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        found = decode(line) if line.strip() else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
