"""What answers agents' hooks on the host's socket: only those of this user's processes.

A hook sends one line, `ally1 AGENT EVENT BYTES MILLISECONDS`, and its payload; it gets `ally1 CODE BYTES BYTES`, and
what its command is to print. What is none of this gets no answer, which closes the hook.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from ally_plugins.adapters.coding.client.hook_client import CLOSED, MAGIC, MAX_BYTES
from ally_plugins.adapters.coding.tools.plugin_tools import CALL
from ally_plugins.runtime.processes.unixsocket import is_own

from .agent_process import AgentProcess
from .conversations import Conversations, NoConversations
from .hook_socket import HookSocket
from .peers import agent_of_peer

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ally_plugins.adapters.coding.replies import Reply

__all__ = ["HookServer"]

_log: Final = logging.getLogger(__name__)

HEAD_BYTES: Final = 256
"""The longest first line: names of agents and events have some ten characters."""

READ_SECONDS: Final = 10.0
"""Within which a hook has sent all of its payload; it has it in memory before it connects."""

DRAIN_SECONDS: Final = 5.0
"""How long a host that ends waits for answers of plugins; then the hooks that wait for them are closed."""


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
