"""The descriptors between the host and one process: what is made for it, and how its stderr is read.

What the bytes mean is left to the protocol and to the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Final

from attrs import define

__all__ = ["Ends", "StderrReader", "unread"]

CHUNK: Final = 65_536  # a full pipe of Linux; one a turn, so that a flood leaves the loop to the others
DRAIN: Final = 16  # chunks that are read at once from a dead process: more than its pipe holds


def unread(transport: asyncio.BaseTransport | None) -> Iterator[bytes]:
    """Yield what a process has written and its transport has not read, without waiting; to be called before it closes.

    A process that ends without reading its input breaks the pipe, at which a transport gives up, whatever waits in the
    other direction; and a process's end may be known before the loop has read what it wrote last. Two pipes, of which
    one that breaks leaves the other alone, have nothing to be read here.
    """
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None:
        with contextlib.suppress(OSError):  # nothing more now, or the end
            while data := os.read(sock.fileno(), CHUNK):
                yield data


class StderrReader:
    """Reads the host's end of a pipe from its making until the other ends are closed, or `close`."""

    def __init__(self, descriptor: int, on_data: Callable[[bytes], None]) -> None:
        self._descriptor = descriptor
        self._on_data = on_data
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._read)

    def drain(self) -> None:
        """Read what is there; stops after `DRAIN` chunks, since a grandchild may go on writing."""
        for _ in range(DRAIN):
            if not self._read():
                break

    def close(self) -> None:
        """Read what is there and close."""
        self.drain()
        self._close()

    def _read(self) -> bool:
        if self._descriptor < 0:
            return False
        try:
            data = os.read(self._descriptor, CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._on_data(data)
            return True
        self._close()
        return False

    def _close(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


@define
class Ends:
    """Both ends of what one process gets; each is closed by `close_*` unless it was handed on."""

    host_stdio: socket.socket | None
    child_stdio: socket.socket | None
    host_stderr: int
    child_stderr: int

    @classmethod
    def make(cls, *, has_stdio: bool) -> Ends:
        """Make them: one socket pair for input and output (as libuv does), a pipe for stderr. Raises OSError."""
        host_stderr, child_stderr = os.pipe()
        try:
            host, child = socket.socketpair() if has_stdio else (None, None)
        except OSError:
            os.close(host_stderr)
            os.close(child_stderr)
            raise
        os.set_blocking(host_stderr, False)  # the host's end only; the child's own stays as programs expect it
        if host is not None:
            host.setblocking(False)  # noqa: FBT003
        return cls(host, child, host_stderr, child_stderr)

    @property
    def child_descriptors(self) -> tuple[int, ...]:
        """What the process gets: its standard input and output where it has one, then stderr."""
        return (*([self.child_stdio.fileno()] if self.child_stdio is not None else []), self.child_stderr)

    def close_child(self) -> None:
        """Close the process's ends in this process."""
        if self.child_stdio is not None:
            self.child_stdio.close()
        if self.child_stderr >= 0:
            os.close(self.child_stderr)
            self.child_stderr = -1

    def close_host(self) -> None:
        """Close the host's ends that were not handed on."""
        if self.host_stdio is not None:
            self.host_stdio.close()
        if self.host_stderr >= 0:
            os.close(self.host_stderr)
            self.host_stderr = -1

    async def connect(
        self, factory: Callable[[], asyncio.Protocol] | None, on_stderr: Callable[[bytes], None]
    ) -> tuple[asyncio.Protocol | None, asyncio.Transport | None, StderrReader]:
        """Put the host's ends on the running loop and hand them on.

        Raises what the factory raises. Cancelling it closes the reader of stderr; the caller closes the rest.
        """
        protocol = None if factory is None or self.host_stdio is None else factory()
        stderr = StderrReader(self.host_stderr, on_stderr)
        self.host_stderr = -1
        if protocol is None or self.host_stdio is None:
            return None, None, stderr
        sock, self.host_stdio = self.host_stdio, None
        try:
            transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=sock)
        except BaseException:
            stderr.close()
            raise
        return protocol, transport, stderr
