"""Whether a daemon reads what was written to it: a sign of life while it is too far behind to answer a ping."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

__all__ = ["Unread"]


class Unread:
    """What waits for the reader of one connection, here and (on Linux) in the kernel.

    Each call of `has_shrunk` compares with the call before.
    """

    def __init__(self) -> None:
        self._written = 0
        self._taken = 0
        self._here = 0
        self._in_kernel = 0

    def wrote(self, size: int) -> None:
        """Count what was handed to the transport, in bytes."""
        self._written += size

    def has_shrunk(self, transport: asyncio.Transport) -> bool:
        """Say whether the other end has read since the last call, of what waited then; false when nothing did."""
        here, in_kernel = transport.get_write_buffer_size(), _kernel_unread(transport)
        taken = self._written - here
        # Bytes that the kernel takes are a sign of a reader only when its buffer was full before.
        has_shrunk = (self._here > 0 and taken > self._taken) or in_kernel < self._in_kernel
        self._taken, self._here, self._in_kernel = taken, here, in_kernel
        return has_shrunk


def _kernel_unread(transport: asyncio.Transport) -> int:
    """Return how much the other end of a socket has not read, in bytes with the kernel's own; 0 where unknown."""
    sock = transport.get_extra_info("socket")
    if sys.platform != "linux" or sock is None:
        return 0
    # Not at the top: Windows has neither.
    import fcntl
    import termios

    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0
