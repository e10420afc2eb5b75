"""A process's two standard pipes as one transport, where there are no socket pairs (Windows).

Joins asyncio's own pipe transports; who starts the process is left to `direct`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from ally_plugins.compat import override

__all__ = ["PipePair", "PipedStderr"]


class PipePair(asyncio.Transport):
    """Writes to a process's standard input and reads its standard output, from its start until both are closed."""

    def __init__(self, owner: asyncio.SubprocessTransport, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._input = cast("asyncio.WriteTransport", owner.get_pipe_transport(0))
        self._output = cast("asyncio.ReadTransport", owner.get_pipe_transport(1))
        self._protocol = protocol
        self._is_lost = False

    # --- what the process's pipes say ---

    def receive(self, data: bytes) -> None:
        """Hand on what came from its standard output."""
        if not self._is_lost:
            self._protocol.data_received(data)

    def receive_eof(self) -> None:
        """Say that nothing more comes; unless the protocol wants to go on writing, the rest is closed."""
        if not self._is_lost and not self._protocol.eof_received():
            self.abort()

    def pause(self, *, is_paused: bool) -> None:
        """Hand on that the input's buffer is full, or is not any more."""
        if is_paused:
            self._protocol.pause_writing()
        else:
            self._protocol.resume_writing()

    # --- what the protocol asks for ---

    @override
    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Write, or buffer what the pipe does not take."""
        self._input.write(data)

    @override
    def can_write_eof(self) -> bool:
        """Say that the input can be closed alone."""
        return True

    @override
    def write_eof(self) -> None:
        """Close the input after what is buffered."""
        self._input.close()

    @override
    def get_write_buffer_size(self) -> int:
        """Return the bytes that wait."""
        return self._input.get_write_buffer_size()

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the protocol is told to pause."""
        self._input.set_write_buffer_limits(high, low)

    @override
    def pause_reading(self) -> None:
        """Read no more for now."""
        self._output.pause_reading()

    @override
    def resume_reading(self) -> None:
        """Read on."""
        self._output.resume_reading()

    @override
    def is_reading(self) -> bool:
        """Say whether it reads."""
        return self._output.is_reading()

    @override
    def is_closing(self) -> bool:
        """Say whether it is closed."""
        return self._is_lost

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Talk to another protocol."""
        self._protocol = cast("asyncio.Protocol", protocol)

    @override
    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._protocol

    @override
    def close(self) -> None:
        """Close after what is buffered."""
        self._input.close()
        self._output.close()
        self._lose()

    @override
    def abort(self) -> None:
        """Close at once."""
        if not self._input.is_closing():  # asyncio's own fails on one that has ended
            self._input.abort()
        self._output.close()
        self._lose()

    def _lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


class PipedStderr:
    """A process's stderr as asyncio reads it; what it wrote last may come after its exit."""

    def __init__(self, owner: asyncio.SubprocessTransport, on_data: Callable[[bytes], None]) -> None:
        self._transport = owner.get_pipe_transport(2)
        self.receive = on_data

    def drain(self) -> None:
        """Do nothing: the loop reads it."""

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()
