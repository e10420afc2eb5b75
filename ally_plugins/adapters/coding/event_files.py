"""The file in which an agent writes what happens: its end, read as a stranger's."""

from __future__ import annotations

import os
import stat

__all__ = ["read_end"]


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
