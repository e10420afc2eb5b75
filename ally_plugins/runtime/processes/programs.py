"""Running a program once, to its end: what it reads on its standard input, and what it writes.

Which program, and what its output means, is left to whoever runs it; ending its tree is the launcher's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from attrs import define, field

from ally_plugins.contract.programs import Ran
from ally_plugins.contract.values.compat import override

from .stdio import unread

if TYPE_CHECKING:
    from .launcher import Launcher
    from .process import Process, ProcessSpec

__all__ = ["GRACE", "run_program"]

GRACE: Final = 5.0  # seconds from SIGTERM to SIGKILL; Code-Ally's number, as is the next
MAX_OUTPUT: Final = 10 * 1024 * 1024  # bytes; the rest is read, so that the program can end, and left out
PIPE_WAIT: Final = 0.5
"""Seconds from a program's end to that of its output where that is a pipe, which the loop reads on its own: what it
has started may hold it open for longer, and is ended then."""
_STDERR_KEPT: Final = 64 * 1024  # the end of it, which says why it failed


async def run_program(
    launcher: Launcher,
    spec: ProcessSpec,
    stdin: bytes,
    timeout: float,
    *,
    grace: float = GRACE,
    max_output: int = MAX_OUTPUT,
) -> Ran:
    """Run a program until it ends, `timeout` seconds at most, and end everything that it has started.

    Raises TimeoutError after SIGTERM, `grace` seconds and SIGKILL, whose text is the end of stderr; CannotExecute when
    it cannot be started. What it writes beyond `max_output` bytes is read and left out. Cancelling it ends the program
    by the same signals.
    """
    stderr = _Tail(_STDERR_KEPT)
    protocol = _ProgramProtocol(stdin, max_output)
    process = await launcher.launch(spec, lambda: protocol, stderr.take)
    try:
        async with asyncio.timeout(timeout):
            # Shielded: the deadline would cancel the future, which is the process's and set when it is dead.
            how = await asyncio.shield(process.exited)
        protocol.drain()
        if process.transport is not None and process.transport.get_extra_info("socket") is None:
            await asyncio.wait([protocol.ended], timeout=PIPE_WAIT)
    except TimeoutError:
        await _end(process, grace)
        raise TimeoutError(stderr.data.decode("utf-8", "replace")) from None
    except BaseException:
        await _end(process, grace)
        raise
    # No grace: the program itself has ended, and what it left running serves nobody.
    await _end(process, 0.0)
    return Ran(
        stdout=bytes(protocol.output),
        stderr=bytes(stderr.data),
        is_cut=protocol.is_cut,
        ended="" if how.code == 0 else how.description,
    )


async def _end(process: Process, grace: float) -> None:
    """Wait until nothing is left of it, also when the caller is cancelled meanwhile: the tree ends all the same."""
    await process.stop(grace)


@define(eq=False)
class _Tail:
    """The last bytes of a stream."""

    limit: int
    data: bytearray = field(init=False, factory=bytearray)

    def take(self, data: bytes) -> None:
        self.data += data
        # At twice the limit: cutting moves the bytes, which each piece need not pay for.
        if len(self.data) > 2 * self.limit:
            del self.data[: -self.limit]


class _ProgramProtocol(asyncio.Protocol):
    """Gives a program its input and keeps the first bytes of its output."""

    def __init__(self, stdin: bytes, limit: int) -> None:
        self.output: Final = bytearray()
        self.is_cut = False
        self.ended: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        """Done when the other end of its output is closed, by the program and all that has inherited it."""
        self._transport: asyncio.WriteTransport | None = None
        self._stdin = stdin
        self._limit = limit

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.WriteTransport", transport)  # uvloop's are not derived from it
        transport.write(self._stdin)
        transport.write_eof()

    @override
    def data_received(self, data: bytes) -> None:
        room = self._limit - len(self.output)
        self.output.extend(data[:room])
        self.is_cut = self.is_cut or len(data) > room

    @override
    def eof_received(self) -> bool:
        self._end()
        return True  # a program may close its output and go on working

    @override
    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it is lost does not matter here
        self.drain()  # before the descriptor is closed, which is behind this call
        self._transport = None
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def drain(self) -> None:
        """Read what is there, as far as it is kept."""
        for data in unread(self._transport):
            self.data_received(data)
            if self.is_cut:
                break
