"""One process of a plugin for many hosts: each has an instance of its own, whose link comes as a descriptor.

What the plugin's module holds (a model, a cache) is there once; what an instance holds, its handle, settings, log and
data folder are its host's alone. A worker hands over the links at the socket that is standard input.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
import threading
from typing import TYPE_CHECKING, Final, NoReturn, Self

import attrs
import orjson

from ally_plugins.contract.values.errors import ProtocolError

from .ending import end_within
from .logs import write_stderr
from .process import EXIT_HUNG, EXIT_PROTOCOL, PluginProcess, SharedPlace
from .streams import Descriptors, take_stdio

if TYPE_CHECKING:
    from .loading import Factory

__all__ = ["MAX_OPENING", "Opening", "run_shared"]

EXIT_USAGE: Final = 64  # sysexits' number

MAX_OPENING: Final = 16 * 1024
"""Bytes of what comes with a descriptor: a host's name and a path."""


@attrs.frozen
class Opening:
    """What comes with the descriptor of a link."""

    host: str
    data_dir: str | None

    def to_bytes(self) -> bytes:
        """Return it as JSON."""
        return orjson.dumps(attrs.asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, descriptors: int = 1) -> Self:
        """Read it, with so many descriptors beside it. Raises ProtocolError."""
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise ProtocolError(f"a link is opened by what is no JSON: {error}") from error
        host, data_dir = (value.get(key) if isinstance(value, dict) else None for key in ("host", "data_dir"))
        if not (isinstance(host, str) and isinstance(data_dir, str | None)):
            raise ProtocolError("a link is opened without its host's name and a data folder or null")
        if descriptors != 1:
            raise ProtocolError(f"a link was opened with {descriptors} descriptors, expected one")
        return cls(host, data_dir)


def run_shared(factory: Factory | str) -> NoReturn:
    """Serve the links that come at standard input, a socket, until that is closed or SIGTERM; ends the process."""
    from .running import run_to_end

    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        write_stderr("this is the process of a plugin that hosts share: `ally-plugins fleet serve` starts it")
        sys.exit(EXIT_USAGE)
    taken = take_stdio()
    os.close(taken.writing)  # the same socket; nothing is said over it
    run_to_end(lambda: _SharedProcess(factory, socket.socket(fileno=taken.reading)).serve())


class _SharedProcess:
    """The instances of one plugin's process."""

    def __init__(self, factory: Factory | str, control: socket.socket) -> None:
        self._factory = factory
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._links: dict[asyncio.Task[None], PluginProcess] = {}
        self._made = 0
        self._over: asyncio.Future[int] = self._loop.create_future()

    async def serve(self) -> int:
        """Serve until the worker has closed its end, and every instance has ended."""
        self._control.setblocking(False)  # noqa: FBT003 - the socket's own
        self._loop.add_reader(self._control, self._receive)
        self._loop.add_signal_handler(signal.SIGTERM, self._end, 0)
        try:
            code = await self._over
        finally:
            self._loop.remove_reader(self._control)
            self._control.close()
        for process in self._links.values():
            process.stop()
        if self._links:
            # Each has its own limit, beyond which it ends this process.
            await asyncio.wait(self._links)
        return code

    def _receive(self) -> None:
        try:
            # One descriptor at most: the kernel gives no more bytes in one read than came with it.
            data, descriptors, _, _ = socket.recv_fds(self._control, MAX_OPENING, 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # reset by a worker that was killed
            data, descriptors = b"", []
        if not data:
            self._end(0)
            return
        try:
            opening = Opening.from_bytes(data, len(descriptors))
        except ProtocolError as error:
            for descriptor in descriptors:
                os.close(descriptor)
            write_stderr(f"the worker does not keep to the protocol: {error}")
            self._end(EXIT_PROTOCOL)
            return
        self._open(opening, descriptors[0])

    def _open(self, opening: Opening, descriptor: int) -> None:
        self._made += 1
        timer = _Timer()
        place = SharedPlace(self._made, opening.data_dir)
        process = PluginProcess(self._factory, end_within=timer.start, shared=place)
        task = self._loop.create_task(self._serve(process, descriptor, timer), name=f"ally-host-{opening.host}")
        self._links[task] = process
        task.add_done_callback(self._links.pop)

    async def _serve(self, process: PluginProcess, descriptor: int, timer: _Timer) -> None:
        try:
            await process.serve(Descriptors(descriptor, descriptor))
        finally:
            timer.cancel()

    def _end(self, code: int) -> None:
        if not self._over.done():
            self._over.set_result(code)


class _Timer:
    """Ends the whole process for an instance that does not end; as `end_within`, but for one that does meanwhile.

    A thread that hangs cannot be ended by itself; the others' hosts lose their links with it, and get new ones.
    """

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def start(self, seconds: float, code: int) -> None:
        if not seconds:
            end_within(0, code)
        elif self._timer is None:
            self._timer = threading.Timer(seconds, os._exit, (code or EXIT_HUNG,))
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
