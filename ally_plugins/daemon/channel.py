"""Bytes to and from the host, over two raw descriptors (pipes, or one socket), without a transport in between.

What is written goes out at once when nothing waits; what follows it closely is joined into one more write at the end of
the loop's turn. Where the loop cannot watch the descriptors (Windows, a plain file) threads read and write them.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .streams import Descriptors

__all__ = ["Channel", "ThreadChannel", "open_channel"]

READ_SIZE: Final = 65_536  # what a pipe holds; more at once would be mapped and unmapped by the allocator each time
BACKLOG: Final = 1_048_576
"""Bytes that wait for a host that does not read before mere notifications are dropped (`is_full`)."""

JOINED: Final = 20e-6
"""Seconds after a write within which what is to go out waits for more: a turn of the loop costs as much as a write."""

THREAD_BACKLOG: Final = 1024  # writes, where what waits is in a thread's hands

LAST_WRITE: Final = 0.5  # seconds for the last words of a process whose host may not read

_Received = Callable[[bytes], None]


class Channel:
    """Descriptors that the loop watches. `on_data` gets the bytes, and b"" once when the host has closed its end."""

    def __init__(self, descriptors: Descriptors, on_data: _Received, *, drain: Callable[[], bytes]) -> None:
        self._reading, self._writing = descriptors
        self._on_data = on_data
        self._drain = drain
        self._loop = asyncio.get_running_loop()
        self._waiting = bytearray()
        self._is_flushing = False
        self._written_at = 0.0
        self._is_watching_writes = False
        self.is_closed = False
        for descriptor in descriptors:
            os.set_blocking(descriptor, False)
        self._loop.add_reader(self._reading, self._read)

    @property
    def is_full(self) -> bool:
        """Whether the host has not read for so long that what can be left out should be."""
        return len(self._waiting) > BACKLOG

    def flush(self) -> None:
        """Write what the connection has to send: now, or closely after another write at the end of the loop's turn."""
        # The end of this turn takes it along.
        if self._is_flushing:
            return
        if time.monotonic() - self._written_at <= JOINED:
            self._is_flushing = True
            self._loop.call_soon(self._end_turn)
        elif data := self._drain():
            self._write(data)
            self._written_at = time.monotonic()

    def flush_now(self) -> None:
        """Write what there is, waiting a moment for a host that is busy; for the end of the process.

        It holds up the loop for LAST_WRITE seconds at most. What does not fit the pipe then is lost.
        """
        self._write(self._drain())
        if self._waiting and not self.is_closed:
            import selectors

            # Waits here and not on the loop, of which there may be no further turn. By `poll`, where there is
            # one: `select` takes no descriptor above 1023, and `epoll` needs one more.
            with getattr(selectors, "PollSelector", selectors.SelectSelector)() as selector:
                selector.register(self._writing, selectors.EVENT_WRITE)
                selector.select(LAST_WRITE)
            self._write_waiting()

    def close(self) -> None:
        """Let go of the descriptors; what was not taken is lost."""
        if not self.is_closed:
            # Before the descriptors are closed: the next file that is opened may get the same number.
            self._stop_reading()
            if self._is_watching_writes:
                self._loop.remove_writer(self._writing)
            self.is_closed = True
            _close(self._reading, self._writing)

    def _end_turn(self) -> None:
        self._is_flushing = False
        if data := self._drain():
            self._write(data)
            self._written_at = time.monotonic()

    def _read(self) -> None:
        try:
            data = os.read(self._reading, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # reset by a host that was killed
            data = b""
        if not data:
            # Before `on_data`: a pipe at its end is readable for ever, and the loop would call again and again.
            self._stop_reading()
        self._on_data(data)

    def _stop_reading(self) -> None:
        if not self.is_closed:
            self._loop.remove_reader(self._reading)

    def _write(self, data: bytes) -> None:
        if self.is_closed:
            return
        if self._is_watching_writes:
            # Behind what waits, or the parts of two lines would be mixed.
            self._waiting += data
        elif data:
            written = self._try(data)
            if written < len(data):
                self._waiting += memoryview(data)[written:]  # a slice of bytes would be copied first
                self._is_watching_writes = True
                self._loop.add_writer(self._writing, self._write_waiting)

    def _write_waiting(self) -> None:
        del self._waiting[: self._try(self._waiting)]
        if not self._waiting:
            self._is_watching_writes = False
            self._loop.remove_writer(self._writing)

    def _try(self, data: bytes | bytearray) -> int:
        """Write, and return how many bytes were taken; a host that is gone takes everything: its end is read soon."""
        try:
            return os.write(self._writing, data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            return len(data)


class ThreadChannel:
    """The same with a thread that reads and one that writes, for what no loop can watch."""

    def __init__(self, descriptors: Descriptors, on_data: _Received, *, drain: Callable[[], bytes]) -> None:
        self._reading, self._writing = descriptors
        self._on_data = on_data
        self._drain = drain
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        self.is_closed = False
        if sys.platform != "win32":  # where it has been tried without threads first; Windows cannot before 3.12
            for descriptor in descriptors:
                os.set_blocking(descriptor, True)
        for work in (self._read_all, self._write_all):
            # Daemon threads: one that waits in a read cannot be woken, and must not keep the interpreter from ending.
            threading.Thread(target=work, name="ally-channel", daemon=True).start()

    @property
    def is_full(self) -> bool:
        """As `Channel.is_full`."""
        return self._jobs.qsize() > THREAD_BACKLOG

    def flush(self) -> None:
        """As `Channel.flush`; the thread writes."""
        if (data := self._drain()) and not self.is_closed:
            self._jobs.put(data)

    def flush_now(self) -> None:
        """Give the thread what there is, and LAST_WRITE seconds to write it, in which the loop stands still."""
        self.flush()
        written = threading.Event()
        self._jobs.put(written)
        written.wait(LAST_WRITE)

    def close(self) -> None:
        """Use the descriptors no more; a thread that reads cannot be woken, so they are left to the process's end."""
        self.is_closed = True

    def _read_all(self) -> None:
        data = b"-"  # anything but the end
        while data:
            try:
                data = os.read(self._reading, READ_SIZE)
            except OSError:
                data = b""
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._received, data)

    def _received(self, data: bytes) -> None:
        if not self.is_closed:
            self._on_data(data)

    def _write_all(self) -> None:
        while True:
            job = self._jobs.get()
            if isinstance(job, threading.Event):
                job.set()
                continue
            data = memoryview(job)
            with suppress(OSError):  # a host that is gone: its end is read soon
                while data:
                    data = data[os.write(self._writing, data) :]


def open_channel(
    descriptors: Descriptors, on_data: _Received, *, drain: Callable[[], bytes]
) -> Channel | ThreadChannel:
    """Return the way to the host over these descriptors; belongs to the running loop."""
    if sys.platform != "win32":
        with suppress(PermissionError, NotImplementedError):  # a plain file; a loop that watches no descriptors
            return Channel(descriptors, on_data, drain=drain)
    return ThreadChannel(descriptors, on_data, drain=drain)


def _close(*descriptors: int) -> None:
    # A socket is both: a number that is closed twice may belong to somebody else the second time.
    for descriptor in set(descriptors):
        with suppress(OSError):
            os.close(descriptor)
