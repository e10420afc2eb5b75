"""Processes as children of the host by asyncio's own subprocesses, over pipes: what Windows has.

Standard input and output are two pipes there; they are joined to one transport, as the protocols expect.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final, cast

from ally_plugins.contract.values.compat import override

from .direct import GAPS, DirectLauncher, DirectProcess, explained
from .executing import check_command
from .process import Process, ProcessSpec, absolute_folder

__all__ = ["PipedLauncher"]

WINDOWS_GAPS: Final = (
    GAPS[0],
    "what a daemon starts itself is not stopped with it, and it is told to stop by the end of its input only",
    "memory, processor time, file size and descriptors of a daemon are not limited",
)


class PipePair(asyncio.Transport):
    """Writes to a process's standard input and reads its standard output, from its start until both are closed."""

    def __init__(self, owner: asyncio.SubprocessTransport, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._input = cast("asyncio.WriteTransport", owner.get_pipe_transport(0))
        self._output = cast("asyncio.ReadTransport", owner.get_pipe_transport(1))
        self._protocol = protocol
        self._is_lost = False

    # --- events of the process's pipes ---

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
        """Set the sizes at which the protocol is paused and resumed."""
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
        """Return whether it reads."""
        return self._output.is_reading()

    @override
    def is_closing(self) -> bool:
        """Return whether it is closed."""
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
            # In the next turn, as asyncio's own transports do: never within the call that closes.
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


class _Watcher(asyncio.SubprocessProtocol):
    """Receives asyncio's callbacks for one process."""

    def __init__(self) -> None:
        self.process: DirectProcess | None = None
        self._pair: PipePair | None = None
        self._stderr: PipedStderr | None = None
        # asyncio reads the pipes from the start, when there is no protocol to hand on to yet.
        self._early: list[tuple[int, bytes]] = []

    def connect(self, pair: PipePair | None, stderr: PipedStderr) -> None:
        """Hand on what comes, and what came already."""
        self._pair, self._stderr = pair, stderr
        early, self._early = self._early, []
        for descriptor, data in early:
            self.pipe_data_received(descriptor, data)

    @override
    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Hand on what it wrote."""
        if self._stderr is None:
            self._early.append((fd, data))
        elif fd == 1 and self._pair is not None:
            self._pair.receive(data)
        else:
            self._stderr.receive(data)

    @override
    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        """Hand on the end of its standard output."""
        if fd == 1 and self._pair is not None:
            self._pair.receive_eof()

    @override
    def pause_writing(self) -> None:
        """Hand on that its input is full."""
        if self._pair is not None:
            self._pair.pause(is_paused=True)

    @override
    def resume_writing(self) -> None:
        """Hand on that its input takes more."""
        if self._pair is not None:
            self._pair.pause(is_paused=False)

    @override
    def process_exited(self) -> None:
        """Hand on that it is dead, whoever holds its pipes."""
        if self.process is not None:
            self.process.note_death()


class PipedLauncher(DirectLauncher):
    """Launches children of the host over pipes."""

    def __init__(self) -> None:
        super().__init__()
        if sys.platform == "win32":
            self.gaps = WINDOWS_GAPS

    @override
    async def launch(
        self,
        spec: ProcessSpec,
        protocol_factory: Callable[[], asyncio.Protocol] | None,
        on_stderr: Callable[[bytes], None],
    ) -> Process:
        """Start a child, as `Launcher.launch`."""
        check_command(spec)
        owner, watcher = await _start(spec)
        process = watcher.process = self._adopt(owner, spec)
        protocol = protocol_factory() if spec.stdio and protocol_factory is not None else None
        pair = None if protocol is None else PipePair(owner, protocol)
        stderr = PipedStderr(owner, on_stderr)
        process.attach(protocol, pair, stderr)
        if protocol is not None and pair is not None:
            protocol.connection_made(pair)
        watcher.connect(pair, stderr)
        process.note_death()  # it may be dead already
        return process


async def _start(spec: ProcessSpec) -> tuple[asyncio.SubprocessTransport, _Watcher]:
    folder = absolute_folder(spec)
    options: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # Ctrl-C is the host's to handle
    stdin = subprocess.PIPE if spec.stdio else subprocess.DEVNULL
    with explained(spec, folder):
        return await asyncio.get_running_loop().subprocess_exec(
            _Watcher, *spec.argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=folder, env=dict(spec.env), **options,
        )  # fmt: skip
