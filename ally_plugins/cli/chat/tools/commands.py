"""Tools that run commands: to their end, or in the background until the chat is left."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import secrets
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.toolsets import FunctionToolset

from ally_plugins.contract.values.compat import override
from ally_plugins.runtime.processes.environment import child_environment
from ally_plugins.runtime.processes.guardian.process_tree import MARKER
from ally_plugins.runtime.processes.guardian_link import kill_marked

__all__ = ["GRACE_S", "CommandTools"]

GRACE_S: Final = 1.0
"""Seconds that a command in the background has to end in order."""

_TIMEOUT_S: Final = 120.0
_LONGEST_S: Final = 600.0
"""Seconds that a command may take: what is longer belongs into the background, where the agent can look after it."""

_HEAD: Final = 8 * 1024
_TAIL: Final = 24 * 1024
"""Bytes of the output that are kept: what a command begins with says what it does, its end how that went."""

_FLOOD: Final = 64 * 1024 * 1024
"""Bytes of output at which a command is killed: reading more takes the time of the chat, and nobody sees it."""

_RUNNING: Final = 8
"""Commands in the background at one time."""

_CLOSING_S: Final = 0.5
"""Seconds to read what is left when a command has ended; a daemon that it started may hold its output open for ever."""

_FAILED: Final = re.compile(r"\[(exit code (?!0\])-?\d+|killed: [^\n]*)\]\Z")


class CommandTools(AbstractCapability[Any]):
    """Runs commands by the system's shell, in one folder and with no secret of this process's environment.

    When its context exits, whatever they have started is killed, on Linux also what went into a session of its own.
    After a `kill -9` of this program those in the background go on.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.id = "commands"
        self._folder: Final = folder
        self._token: Final = secrets.token_hex(8)
        self._numbers: Final = itertools.count(1)
        self._background: Final[dict[str, _Command]] = {}
        self._open: Final[set[_Command]] = set()
        """Those whose end was not seen yet."""

    @override
    def get_toolset(self) -> FunctionToolset[Any]:
        """Return the tools."""
        tools = (self.run_command, self.start_command, self.check_command, self.stop_command)
        return FunctionToolset(tools, id=self.id)

    def ally_tool_failure(self, tool: str, output: str) -> str | None:  # noqa: ARG002 - the adapter's interface
        """Return why a command failed. The last line of a result is ours, whatever the command has written."""
        found = _FAILED.search(output)
        return found[1] if found is not None else None

    async def run_command(self, command: str, timeout_seconds: float = _TIMEOUT_S) -> str:
        """Run a command in the folder, to its end, and return what it wrote and its exit code.

        What it leaves running is killed: use start_command for a server, or for what takes long.

        Args:
            command: A line for the shell.
            timeout_seconds: When it is killed, with all that it started; at most 600.
        """
        running = await self._start(command)
        # Clamped and not refused: a model that gives 0 or an hour gets an answer that says what happened.
        seconds = min(max(timeout_seconds, 0.1), _LONGEST_S)
        try:
            async with asyncio.timeout(seconds):
                await running.ended.wait()
        except TimeoutError:
            running.why = f"killed: it took longer than {seconds:g} s"
        except asyncio.CancelledError:
            running.close()
            raise
        running.kill()  # with what it left in its group, which may hold the output open
        await running.read_rest()
        return running.report()

    async def start_command(self, command: str) -> str:
        """Start a command in the folder that goes on in the background; check_command shows how it does.

        Args:
            command: A line for the shell.
        """
        if sum(not each.ended.is_set() for each in self._background.values()) >= _RUNNING:
            raise ToolFailed(f"{_RUNNING} commands are running in the background; stop one with stop_command")
        running = await self._start(command)
        self._background[running.name] = running
        return f"started as {running.name!r}"

    async def check_command(self, name: str) -> str:
        """Return what a command in the background wrote until now, and its exit code when it has ended."""
        return self._found(name).report()

    async def stop_command(self, name: str) -> str:
        """End a command in the background, and return what it wrote."""
        running = self._found(name)
        await running.stop()
        return running.report()

    def _found(self, name: str) -> _Command:
        if name not in self._background:
            there = ", ".join(map(repr, self._background)) or "none"
            raise ToolFailed(f"there is no command {name!r} in the background; there are: {there}")
        return self._background[name]

    async def _start(self, command: str) -> _Command:
        name = f"c{next(self._numbers)}"
        marker = f"{self._token}.{name}"
        environment = child_environment(os.environ, added={MARKER: f"{marker}."})
        starting = asyncio.ensure_future(
            asyncio.get_running_loop().subprocess_shell(
                lambda: _Command(name, marker, self._open),
                command,
                cwd=self._folder,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,  # a command that asks something gets an end, and no key of the person
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,  # in the order in which it was written
                start_new_session=True,  # a group of its own to kill, and no terminal to ask at
            )
        )
        try:
            _, running = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Until Python 3.12 a start that is cancelled itself waits for ever; it takes a millisecond, so it may end.
            starting.add_done_callback(_close_started)
            await asyncio.wait([starting])
            raise
        except (OSError, ValueError) as error:  # too long, or a NUL in it
            raise ToolFailed(f"the command cannot be started: {error}") from None
        return running

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End all that still runs, each as `stop_command` does. Cancelling it kills them at once."""
        try:
            await asyncio.gather(*(each.stop() for each in set(self._open)))
        finally:
            _kill_marked(self._token)


class _Command(asyncio.SubprocessProtocol):
    """One command. It lives until its transport is closed, which `kill` and the end of its output do."""

    def __init__(self, name: str, marker: str, open_: set[_Command]) -> None:
        self.name: Final = name
        self.ended: Final = asyncio.Event()
        self.why = ""
        """How it was ended, empty when it ended by itself."""
        self._marker: Final = marker
        self._open: Final = open_
        self._closed: Final = asyncio.Event()
        self._head = b""
        self._tail = b""
        self._size = 0
        self._is_killed = False
        self._transport: asyncio.SubprocessTransport

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)  # noqa: S101 - the base class's type is wider
        self._transport = transport
        self._open.add(self)

    @override
    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - asyncio's interface
        self._size += len(data)
        room = _HEAD - len(self._head)
        self._head += data[:room]
        self._tail = (self._tail + data[room:])[-_TAIL:]
        if self._size > _FLOOD and not self.why:
            self.why = f"killed: it wrote more than {_FLOOD // 1024**2} MiB"
            self.kill()

    @override
    def process_exited(self) -> None:
        # Not the transport's `_wait`, which waits for the end of the output too.
        self.ended.set()

    @override
    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's interface
        self._closed.set()
        self._open.discard(self)
        self._transport.close()

    def close(self) -> None:
        """Kill it, and read no more of its output."""
        self.kill()
        # Closing the whole transport now would reap the process behind the back of the loop's watcher, which warns.
        if (output := self._transport.get_pipe_transport(1)) is not None:
            output.close()

    async def read_rest(self) -> None:
        """Wait until the process has ended and its output is read. Cancelling it closes the output at once."""
        try:
            await self.ended.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSING_S):
                    await self._closed.wait()
        finally:
            self._transport.close()

    async def stop(self) -> None:
        """Send SIGTERM, and after `GRACE_S` SIGKILL, to all that it started. Cancelling it kills at once."""
        if not self.ended.is_set():
            self.why = "stopped"
            self._signal_group("SIGTERM")
            try:
                async with asyncio.timeout(GRACE_S):
                    await self.ended.wait()
            except TimeoutError:
                pass
            except asyncio.CancelledError:
                self.close()
                raise
            self.kill()
        await self.read_rest()

    def kill(self) -> None:
        """Kill the command with all that it started, also when it has ended itself. Never waits.

        Call it at once when it has ended: later its process id, and so the group's, may be another's.
        """
        if self._is_killed:
            return
        self._is_killed = True
        is_late = not self.ended.is_set()
        self._signal_group("SIGKILL")
        if is_late:
            # What it started into a session of its own is in no group of ours. One that ended by itself may leave such
            # a daemon (a build's server, an agent for keys): it lives until the chat is left.
            _kill_marked(self._marker)

    def _signal_group(self, name: str) -> None:
        if sys.platform != "win32":
            with suppress(ProcessLookupError, PermissionError):  # macOS refuses where all of them are zombies
                os.killpg(self._transport.get_pid(), signal.Signals[name])
        elif not self.ended.is_set():  # Windows has neither groups of this kind nor SIGTERM
            with suppress(ProcessLookupError):
                self._transport.kill()

    def report(self) -> str:
        """Return the output and, in a line of its own at the end, how it ended or that it runs."""
        left_out = self._size - len(self._head) - len(self._tail)
        parts = [self._head, f"\n[{left_out} bytes are left out]\n".encode() if left_out else b"", self._tail]
        text = b"".join(parts).decode(errors="replace")
        how = self.why or f"exit code {self._transport.get_returncode()}"
        end = f"[{how}]" if self.ended.is_set() else "[it is running]"
        return f"{text}\n{end}" if text and not text.endswith("\n") else f"{text}{end}"


def _close_started(starting: asyncio.Future[tuple[asyncio.SubprocessTransport, _Command]]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result()[1].close()


def _kill_marked(marker: str) -> None:
    if sys.platform == "linux":  # elsewhere nobody can ask for another process's environment
        kill_marked(marker)
