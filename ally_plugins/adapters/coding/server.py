"""The socket that agents' hooks reach the host by: one instance for a home, and only this user's processes.

A hook sends one line, `ally1 AGENT EVENT BYTES MILLISECONDS`, and its payload; it gets `ally1 CODE BYTES BYTES`, and
what its command is to print. What is none of this gets no answer, which closes the hook.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from ally_plugins.catalog.home.agent_processes import HOOK_LOCK
from ally_plugins.catalog.home.folder import try_lock, unlock, write_atomically
from ally_plugins.contract.values.errors import HostError
from ally_plugins.runtime.processes.unixsocket import is_own, listening_socket, who_listens

from .agent_process import AgentProcess
from .conversations import Conversations, NoConversations
from .hook_client import CLOSED, MAGIC, MAX_BYTES, SOCKET
from .peers import agent_of_peer
from .plugin_tools import CALL

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine

    from ally_plugins.catalog.home.folder import Home

    from .replies import Reply

__all__ = ["HookServer", "HookSocket", "is_served", "last_hook", "newer_fields"]

_log: Final = logging.getLogger(__name__)

HEAD_BYTES: Final = 256
"""The longest first line: names of agents and events have some ten characters."""

READ_SECONDS: Final = 10.0
"""Within which a hook has sent all of its payload; it has it in memory before it connects."""

LOCK_SECONDS: Final = 20.0
"""How long a host waits for one that is ending: it answers what it was asked, and stops its plugins."""

DRAIN_SECONDS: Final = 5.0
"""How long a host that ends waits for answers of plugins; then the hooks that wait for them are closed."""

_MAX_SEEN: Final = 64 * 1024
_POLL: Final = 0.05  # seconds between two looks at a lock


def is_served(home: Home) -> bool:
    """Say whether a host takes the hooks of agents on this home now."""
    with _inside(home.run_dir):
        return who_listens(SOCKET) is not None


def last_hook(home: Home, agent: str) -> int | None:
    """Return when an agent's hook was last answered, in Unix ms; None where none ever was."""
    try:
        return int(_seen_file(home, agent).stat().st_mtime * 1000)
    except OSError:
        return None


def newer_fields(home: Home, agent: str) -> tuple[str, ...]:
    """Return the fields that an agent sent to the last host and that no version has which was seen."""
    try:
        found = home.read(_seen_file(home, agent), _MAX_SEEN) or b""
    except OSError:
        return ()
    return tuple(found.decode("utf-8", "replace").splitlines())


def _seen_file(home: Home, agent: str) -> Path:
    return home.run_dir / f"coding-{agent}.seen"


class HookSocket:
    """The listening socket of the one host that takes hooks; made before the host starts, so that hooks wait for it."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock: int | None = None
        self._noted: dict[str, tuple[str, ...]] = {}
        self.listening: socket.socket | None = None

    def open(self) -> bool:
        """Take the lock and listen; say whether it did: False where another host takes the hooks. Blocks.

        Raises ConfigError for a home that cannot be used, OSError, HostError where another one neither answers nor
        ends.
        """
        self._home.prepare()
        descriptor, end = self._home.open_lock(HOOK_LOCK), time.monotonic() + LOCK_SECONDS
        while not try_lock(descriptor):
            if is_served(self._home):
                os.close(descriptor)
                return False
            if time.monotonic() > end:
                os.close(descriptor)
                raise HostError(f"another host of {str(self._home.path)!r} neither takes hooks nor ends; end it")
            time.sleep(_POLL)
        self._lock = descriptor
        with _inside(self._home.run_dir):
            # Of a host that was killed: whoever listens holds the lock.
            Path(SOCKET).unlink(missing_ok=True)
            self.listening = listening_socket(SOCKET)
        return True

    def note_hook(self, agent: str, newer: tuple[str, ...] = ()) -> None:
        """Leave the time of an agent's last hook in the home, and what it sends that is not known, for the status."""
        file = _seen_file(self._home, agent)
        with suppress(OSError):
            if self._noted.get(agent) != newer:
                write_atomically(file, "\n".join(newer).encode(), durable=False, follow=False)
                self._noted[agent] = newer
            else:
                file.touch()

    def unlink(self) -> None:
        """Let no new hook connect; the next one starts another host."""
        with suppress(OSError):
            (self._home.run_dir / SOCKET).unlink()

    def close(self) -> None:
        """Let go of the lock. Another host takes the hooks from here on."""
        if self.listening is not None:
            self.listening.close()
        if self._lock is not None:
            unlock(self._lock)
            self._lock = None


class _inside:  # noqa: N801 - reads as the context that it is
    """Work in a folder, since a socket's address has no room for a long path; the one thread of a start does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = "/"

    def __enter__(self) -> None:
        with suppress(OSError):
            self._before = str(Path.cwd())
        os.chdir(self._folder)

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)


@define(eq=False)
class HookServer:
    """Takes hooks from `start` to `stop`, on the loop of a running host."""

    socket: HookSocket
    conversations: Conversations | NoConversations
    last_hook: float = field(init=False, default=0.0)
    """When a hook came last, by the loop's clock."""
    _server: asyncio.Server | None = field(init=False, default=None)
    _answering: set[asyncio.Task[None]] = field(init=False, factory=set)

    async def start(self) -> None:
        """Begin to answer; hooks that connected before are answered now."""
        self.last_hook = asyncio.get_running_loop().time()
        self._server = await asyncio.start_unix_server(self._take, sock=self.socket.listening, limit=HEAD_BYTES * 2)

    def is_idle(self, seconds: float) -> bool:
        """Say whether no hook came for so long, and no call waits for its end."""
        if self._answering or self.conversations.are_busy:
            return False
        return asyncio.get_running_loop().time() - self.last_hook >= seconds

    async def stop(self) -> None:
        """Take no new hooks, and answer those that are there. Cancelling leaves the rest without an answer."""
        self.socket.unlink()
        if self._server is None:
            return
        for _ in range(5):  # turns in which the loop takes those that had connected before
            await asyncio.sleep(0)
        self._server.close()
        if self._answering:
            _, late = await asyncio.wait(self._answering, timeout=DRAIN_SECONDS)
            for task in late:
                task.cancel()  # which closes its hook
            if late:
                await asyncio.wait(late)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs it as one
        self._answering.add(task)
        self.last_hook = asyncio.get_running_loop().time()
        try:
            if is_own(writer.get_extra_info("socket")):
                await self._answer(reader, writer)
            else:
                _log.warning("a process of another user connected to the socket for hooks, and was turned away")
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            _log.warning("a hook got no answer, which closes it: %s: %s", type(error).__name__, error)
        finally:
            self._answering.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one hook. Raises OSError, ValueError, IncompleteReadError, LimitOverrunError for what is none."""
        async with asyncio.timeout(READ_SECONDS):
            agent, event, size, milliseconds = _read_head(await reader.readuntil(b"\n"))
            payload = await reader.readexactly(size)
        process = agent_of_peer(writer.get_extra_info("socket"), agent) if agent in CLOSED else None
        if process is not None:
            # Before the answer: what it lets the agent start finds the agent among those that loosen nothing.
            self.conversations.note_agent(agent, *process)
        about = AgentProcess(*process) if process is not None else None
        asking = self.conversations.reply(agent, event, payload, milliseconds / 1000, about)
        reply = await (_while_connected(reader, asking) if event == CALL else asking)
        if event in CLOSED.get(agent, {}):
            self.socket.note_hook(agent, self.conversations.newer.get(agent, ()))
        is_taken = False
        try:
            writer.write(_written(reply))
            await writer.drain()
            # Not by a hook that its agent has ended: what is said then is due again.
            is_taken = not writer.is_closing()
        finally:
            if reply.said is not None and not is_taken:
                reply.said.take_back()
        if reply.said is not None and is_taken:
            writer.close()  # the agent does not wait for the disk
            await reply.said.confirm()


async def _while_connected(reader: asyncio.StreamReader, asking: Coroutine[Any, Any, Reply]) -> Reply:
    """Return the reply; cancel what makes it when the other end is gone, which means that nobody wants it any more."""
    task, gone = asyncio.ensure_future(asking), asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
        return await task
    finally:
        task.cancel()
        gone.cancel()


def _read_head(line: bytes) -> tuple[str, str, int, int]:
    fields = line.decode("ascii").rstrip("\n").split(" ")
    if len(fields) != 5 or fields[0] != MAGIC.decode():  # noqa: PLR2004 - a magic word, two names and two numbers
        raise ValueError(f"the first line is {line[:80]!r}")
    _, agent, event, size, milliseconds = fields
    if not 0 <= int(size) <= MAX_BYTES:
        raise ValueError(f"the payload has {size} bytes; expected {MAX_BYTES} at most")
    return agent, event, int(size), int(milliseconds)


def _written(reply: Reply) -> bytes:
    out, err = reply.stdout.encode("utf-8", "replace"), reply.stderr.encode("utf-8", "replace")
    return MAGIC + f" {reply.exit_code} {len(out)} {len(err)}\n".encode() + out + err
