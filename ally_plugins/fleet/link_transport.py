"""A transport of asyncio whose bytes travel as messages of a NATS server; both ends of a link have one."""

# ruff: noqa: D102 - asyncio.Transport says what its methods are for

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import ProtocolError

from .frames import CHUNK, End, FrameStream

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LinkTransport"]

_HIGH: Final = 256 * 1024  # bytes that may wait before the protocol is told to pause, as a socket's transport has it


class LinkTransport(asyncio.Transport):
    """One link; it lives from the handshake until either end, or what is between them, ends it.

    `publish` sends one message, does not wait, and says whether it could; `chunk` is what fits in one. `on_closed` is
    called once, with the reason.
    """

    def __init__(
        self,
        protocol: asyncio.Protocol,
        publish: Callable[[bytes], bool],
        on_closed: Callable[[str], None],
        chunk: int = CHUNK,
    ) -> None:
        super().__init__()
        self._protocol = protocol
        self._publish = publish
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._stream = FrameStream(chunk)
        self._arrived: deque[bytes] = deque()
        self._high, self._low = _HIGH, _HIGH // 4
        self._is_reading = True
        self._is_paused = False
        self._is_closing = False
        self._is_ended = False
        self.is_lost = True
        """Whether it was lost between its two ends, once it is closed; else what one of them leads to has ended."""
        protocol.connection_made(self)

    # --- from the server ---

    def receive(self, frame: bytes) -> None:
        """Take a message of the other end."""
        if self._is_ended:
            return
        try:
            found = self._stream.receive(frame)
        except ProtocolError as error:
            self.lose(f"the link is broken: {error}")
            return
        if isinstance(found, End):
            self._deliver(is_last=True)
            self._end(found)
            return
        if found:
            self._arrived.append(found)
            self._deliver()
        self._send()

    def lose(self, reason: str) -> None:
        """End the link, since the way is broken; what was not sent is lost. May be called again."""
        self.end(End(reason, is_lost=True))

    def end(self, end: End) -> None:
        """End the link, and tell the other end why. May be called again."""
        if not self._is_ended:
            self._publish(self._stream.end(end))
            self._end(end)

    def _end(self, end: End) -> None:
        if self._is_ended:
            return
        self._is_ended = self._is_closing = True
        self.is_lost = end.is_lost
        self._on_closed(end.reason)
        # As asyncio has it: never from within a call of the protocol.
        self._loop.call_soon(self._protocol.connection_lost, None)

    def _deliver(self, *, is_last: bool = False) -> None:
        while self._arrived and (self._is_reading or is_last):
            data = self._arrived.popleft()
            self._stream.take(len(data))
            self._protocol.data_received(data)

    # --- asyncio.Transport ---

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing:
            return
        self._stream.write(data)
        self._send()
        if not self._is_paused and self._stream.unread > self._high:
            self._is_paused = True
            self._protocol.pause_writing()

    @override
    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    @override
    def close(self) -> None:
        # What waits for room at an end that does not read is lost, as with a socket that is aborted.
        self.abort()

    @override
    def abort(self) -> None:
        self.end(End("the other end has closed it"))

    @override
    def is_closing(self) -> bool:
        return self._is_closing

    @override
    def can_write_eof(self) -> bool:
        return False

    @override
    def pause_reading(self) -> None:
        self._is_reading = False

    @override
    def resume_reading(self) -> None:
        self._is_reading = True
        self._loop.call_soon(self._go_on)

    @override
    def is_reading(self) -> bool:
        return self._is_reading and not self._is_closing

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = _HIGH if high is None else high
        self._low = self._high // 4 if low is None else low

    @override
    def get_write_buffer_size(self) -> int:
        return self._stream.unread

    @override
    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002 - there is nothing to tell
        return default

    def _go_on(self) -> None:
        if not self._is_ended:
            self._deliver()
            self._send()

    def _send(self) -> None:
        for frame in self._stream.frames():
            if not self._publish(frame):
                # Not at once: who writes does not expect its connection to end within.
                self._loop.call_soon(self.lose, "a message could not be sent")
                return
        if self._is_paused and self._stream.unread <= self._low:
            self._is_paused = False
            self._protocol.resume_writing()
