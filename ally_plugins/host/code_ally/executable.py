"""Tools that are programs: one process a call, a JSON object on its standard input, and one on its standard output.

Who starts processes and ends their trees is the launcher; what the output means stands in `results`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

from attrs import define, field, frozen

from ally_plugins.catalog.code_ally import limits as numbers
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import ToolResult
from ally_plugins.contract.values.errors import CannotExecute, EncodeError
from ally_plugins.runtime.processes.launcher import Launcher
from ally_plugins.runtime.processes.process import Process, ProcessSpec
from ally_plugins.runtime.processes.stdio import CHUNK

from .results import Ran, executable_result

if TYPE_CHECKING:
    from ally_plugins.catalog.code_ally.plugin import LegacyTool

__all__ = ["Programs", "run_program"]

_STDERR_KEPT: Final = 64 * 1024  # the end of it, which says why it failed


@frozen(kw_only=True)
class Programs:
    """Where and with what one plugin's programs run. `python` is the one of its own environment."""

    launcher: Launcher
    folder: str
    environment: Mapping[str, str]
    python: str = ""
    make_ready: Callable[[], str] | None = None
    """See `PluginRecord.make_ready`; called before each run, in a thread."""

    def command(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return a command as it is run: `python3` and `python` are the environment's own."""
        program, *arguments = words
        own = self.python if self.python and program in {"python", "python3"} else program
        return (own, *arguments)

    async def run(self, tool: LegacyTool, arguments: Mapping[str, Any]) -> ToolResult:
        """Run a tool's program once. What goes wrong is a result; cancelling ends the program's whole tree."""
        if self.make_ready is not None and (problem := await asyncio.to_thread(self.make_ready)):
            return ToolResult(success=False, error=f"{tool.name!r} is not run: {problem}")
        spec = ProcessSpec(
            name=tool.name,
            argv=self.command((tool.command, *tool.args)),
            cwd=f"{self.folder}/{tool.cwd}" if tool.cwd else self.folder,
            env=self.environment,
        )
        try:
            ran = await run_program(self.launcher, spec, encode(arguments) + b"\n", tool.timeout)
        except EncodeError as error:
            return ToolResult(success=False, error=f"{tool.name!r} was not run: {error}")
        except CannotExecute as error:
            return ToolResult(success=False, error=str(error))
        except TimeoutError:
            return ToolResult(
                success=False, error=f"{tool.name!r} did not end within {tool.timeout:g} s and was stopped"
            )
        return executable_result(tool.name, ran)


async def run_program(
    launcher: Launcher,
    spec: ProcessSpec,
    given: bytes,
    timeout: float,
    *,
    grace: float = numbers.GRACE,
    max_output: int = numbers.MAX_OUTPUT,
) -> Ran:
    """Run a program until it ends, `timeout` seconds at most, and end everything that it has started.

    Raises TimeoutError after SIGTERM, `grace` seconds and SIGKILL; CannotExecute when it cannot be started. What it
    writes beyond `max_output` bytes is read and left out.
    """
    stderr = _Tail(_STDERR_KEPT)
    protocol = _Talk(given, max_output)
    process = await launcher.launch(spec, lambda: protocol, stderr.take)
    try:
        async with asyncio.timeout(timeout):
            how = await asyncio.shield(process.exited)
        protocol.drain()
    except BaseException:
        await _end(process, grace)
        raise
    await _end(process, 0.0)
    return Ran(
        stdout=bytes(protocol.output),
        stderr=bytes(stderr.data),
        is_cut=protocol.is_cut,
        ended="" if how.code == 0 else how.words,
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
        if len(self.data) > 2 * self.limit:
            del self.data[: -self.limit]


class _Talk(asyncio.Protocol):
    """Gives a program its input and keeps the first bytes of its output."""

    def __init__(self, given: bytes, limit: int) -> None:
        self.output: Final = bytearray()
        self.is_cut = False
        self._transport: asyncio.WriteTransport | None = None
        self._given = given
        self._limit = limit

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.WriteTransport", transport)  # uvloop's are not derived from it
        transport.write(self._given)
        transport.write_eof()

    @override
    def data_received(self, data: bytes) -> None:
        room = self._limit - len(self.output)
        self.output.extend(data[:room])
        self.is_cut = self.is_cut or len(data) > room

    @override
    def eof_received(self) -> bool:
        return True  # a program may close its output and go on working

    @override
    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it is lost does not matter here
        self.drain()  # before the descriptor is closed, which is behind this call
        self._transport = None

    def drain(self) -> None:
        """Read what is there.

        That a program has ended is known before the loop has read what it wrote last; and one that ends without reading
        its input breaks the pipe, at which the transport gives up, whatever waits in the other direction.
        """
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None:  # pipes, of which one that breaks leaves the other alone
            return
        with suppress(OSError):  # nothing more now, or the end
            while not self.is_cut and (data := os.read(sock.fileno(), CHUNK)):
                self.data_received(data)
