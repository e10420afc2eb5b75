"""The host's end of the control socket: who may connect, how many and how long, and the answers to their requests.

A command that hangs, exits or sends garbage loses its connection and nothing else happens; its request is still carried
out to the end.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from ally_plugins.catalog.home.agent_processes import GuardedAgents
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import AllyError, NotFoundRefused, ProtocolError, UnavailableRefused
from ally_plugins.host.sessions.overrides import LONGEST_PAUSE
from ally_plugins.host.sockets.leftovers import remove_left_folders, remove_left_sockets
from ally_plugins.runtime.lanes.teardown import finished
from ally_plugins.runtime.processes.ancestry import lineage_of_peer
from ally_plugins.runtime.processes.unixsocket import is_own
from ally_plugins.wire import codes
from ally_plugins.wire.connection import Connection
from ally_plugins.wire.limits import WireLimits
from ally_plugins.wire.messages import Request

from . import addresses

if TYPE_CHECKING:
    import socket

    from ally_plugins.catalog.home.folder import Home

    from .interface import Controls

__all__ = ["ControlServer"]

_log: Final = logging.getLogger(__name__)

CONNECTIONS: Final = 16
"""Commands that are connected at once; each needs its connection for milliseconds."""

FRAME_BYTES: Final = 64 * 1024
"""The longest request; those of our commands have a hundred bytes."""

ANSWER_BYTES: Final = 1024 * 1024
"""The longest answer, and what a connection may leave untaken: a state with its reason for a thousand plugins."""

IDLE: Final = 30.0
"""Seconds after which a connection is closed that sends nothing, or does not read its answers."""

_LOOKS: Final = frozenset({"ping", "status", "offers", "tasks"})
"""Requests that change nothing: all that a plugin's process or a coding agent's may make. What else there is might
loosen what holds it; `may_change` does nothing itself, and so says whether one may."""

_TURNS: Final = 5  # of the loop; asyncio takes two to make a connection, and two to close one
_LIMITS: Final = WireLimits(frame_bytes=FRAME_BYTES, malformed=4, in_flight=16)


class ControlServer:
    """Listens in `run/` of the home from `start` to `close`, on the loop that it was started on."""

    def __init__(
        self, home: Home, controls: Controls, *, idle: float = IDLE, agents: GuardedAgents | None = None
    ) -> None:
        self._home = home
        self.agents: Final = agents if agents is not None else GuardedAgents(home)
        self._controls = controls
        self._idle = idle
        self._address: addresses.Address | None = None
        self._listening: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._peers: set[_Peer] = set()
        self._working: set[asyncio.Task[Any]] = set()
        self._is_closing = False

    @property
    def address(self) -> addresses.Address | None:
        """Where it listens, None while it does not."""
        return self._address

    async def start(self) -> None:
        """Begin to listen. Where that fails, it is logged: the host runs, and commands do not reach it.

        Cancelling removes the socket again.
        """
        if not addresses.is_supported():
            _log.info("this system has no local sockets: changes take effect when the host starts next")
            return
        try:
            await finished(asyncio.to_thread(self._bind))
        except (OSError, AllyError) as error:
            _log.warning(
                "commands will not reach this host, since it cannot listen in %s: %s", self._home.run_dir, error
            )
            return
        except asyncio.CancelledError:
            # The thread has ended by now: `finished` waits for it.
            self._unbind()
            raise
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(self._accept, sock=self._listening)
        except BaseException:
            self._unbind()
            raise

    def _bind(self) -> None:
        self._home.prepare()
        _sweep(self._home)
        self._listening, self._address = addresses.bind(self._home.run_dir, os.getpid())

    def _unbind(self) -> None:
        if self._listening is not None:
            self._listening.close()
        if self._address is not None:
            self._address.remove()
            self._address = None

    async def close(self) -> None:
        """Listen no more, and cancel requests that run. Safe to call twice, and without `start`."""
        self._is_closing = True
        server, self._server = self._server, None
        # First: a command that still finds the socket would take the host for one that hangs.
        if self._address is not None:
            self._address.remove()
            self._address = None
        if server is not None:
            # Queued connections are accepted and refused first: asyncio would leak a transport made after `close`.
            await _let_the_loop_turn()
            server.close()
        for task in self._working:
            task.cancel()
        answering = [peer.answering for peer in self._peers if peer.answering is not None]
        if self._working or answering:
            await asyncio.wait([*self._working, *answering])
        for peer in list(self._peers):
            peer.end()
        await _let_the_loop_turn()  # it closes what was ended

    def _accept(self) -> _Peer:
        return _Peer(self, self._controls, self._idle)

    def admit(self, peer: _Peer) -> bool:
        """Add a connection, if there is room; say whether there was."""
        if self._is_closing or len(self._peers) >= CONNECTIONS:
            return False
        self._peers.add(peer)
        return True

    def forget(self, peer: _Peer) -> None:
        """Remove a connection that is closed."""
        self._peers.discard(peer)

    def work(self, request: Callable[[], Awaitable[Mapping[str, Any]]]) -> asyncio.Task[Mapping[str, Any]]:
        """Carry a request out in a task that outlives its connection.

        Raises UnavailableRefused while the host stops.
        """
        if self._is_closing:
            raise UnavailableRefused("the host stops")

        async def carry_out() -> Mapping[str, Any]:
            return await request()

        task = asyncio.get_running_loop().create_task(carry_out(), name="ally-control")
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return task


class _Peer(asyncio.Protocol):
    """One connected command; its requests are answered one after the other."""

    def __init__(self, server: ControlServer, controls: Controls, idle: float) -> None:
        self._server = server
        self._idle = idle
        self._methods: dict[str, Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]] = {
            "ping": lambda _: _immediate({"pong": True}),
            "status": lambda _: _immediate(controls.describe()),
            "usage": lambda _: controls.costs(),
            "apply": lambda params: controls.apply(_plugin(params)),
            "restart": lambda params: controls.restart(_plugin(params)),
            "place": lambda params: controls.place(_plugin(params)),
            "release": lambda params: controls.release(_plugin(params)),
            "offers": lambda params: _immediate(controls.offers(_plugin(params))),
            # Not one of `_LOOKS`: a plugin's process, or an agent, would read what others are asked and answer.
            "wire": lambda params: _now(lambda: controls.wire(_plugin(params), _after(params))),
            "tasks": lambda _: _immediate(controls.tasks()),
            "cancel_task": lambda params: controls.cancel_task(_text(params, "task", "a task's id")),
            "allow": lambda params: controls.allow(_text(params, "decision", "a decision's id")),
            "pause": lambda params: controls.pause(_text(params, "agent", "an agent's name"), _seconds(params)),
            "may_change": lambda _: _immediate({"may_change": True}),
        }
        self._refuse = controls.refuse
        self._connection = Connection(limits=_LIMITS, methods=self._methods)
        self._connection.send_limit = ANSWER_BYTES
        self._requests: deque[Request] = deque()
        self._transport: asyncio.Transport | None = None
        self.answering: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._is_admitted(transport):
            self._transport.abort()
            return
        # Beyond it asyncio calls `pause_writing`, which ends the connection.
        self._transport.set_write_buffer_limits(ANSWER_BYTES)
        self._wait()

    def _is_admitted(self, transport: asyncio.BaseTransport) -> bool:
        try:
            if is_own(transport.get_extra_info("socket")):
                return self._server.admit(self)
        except OSError:  # it is gone already
            return False
        _log.warning("a process of another user connected to the control socket, and was turned away")
        return False

    @override
    def data_received(self, data: bytes) -> None:
        try:
            messages = self._connection.receive_data(data)
        # Its reason is in the output already, and is to reach the command before the end.
        except ProtocolError:
            self._flush()
            if self._transport is not None:
                self._transport.close()  # once what is written is taken, or the timer ends it
            return
        self._requests.extend(message for message in messages if isinstance(message, Request))
        self._flush()
        if self._requests and self.answering is None:
            # Who waits for an answer is not idle: a start may take longer than `IDLE`.
            self._unwatch()
            self.answering = asyncio.get_running_loop().create_task(self._answer(), name="ally-control-peer")

    async def _answer(self) -> None:
        try:
            while self._requests and self._transport is not None:
                await self._answer_one(self._requests.popleft())
                self._flush()
                await asyncio.sleep(0)  # the host's own work comes between two of them
        finally:
            self.answering = None
            self._wait()

    async def _answer_one(self, request: Request) -> None:
        method = self._methods.get(request.method)
        if method is None:
            names = ", ".join(self._methods)
            self._fail(request, codes.METHOD_NOT_FOUND, f"no method {request.method!r:.80}; expected one of {names}")
            return
        if request.method not in _LOOKS and (text := self._why_refused(request)):
            self._fail(request, codes.PERMISSION, text)
            return
        try:
            task = self._server.work(partial(method, request.params))
            await asyncio.wait([task])
            if task.cancelled():
                self._fail(request, codes.SHUTTING_DOWN, "the host stops")
            else:
                self._connection.respond(request.id, dict(task.result()))
        except _WrongParamsError as error:
            self._fail(request, codes.INVALID_PARAMS, str(error))
        except NotFoundRefused as error:
            self._fail(request, codes.NOT_FOUND, str(error))
        except AllyError as error:
            self._fail(request, codes.UNAVAILABLE, str(error))
        except Exception:  # noqa: BLE001 - a fault of ours, and no command may end the host
            _log.exception("the control request %r failed", request.method)
            self._fail(request, codes.INTERNAL_ERROR, "internal error")

    def _why_refused(self, request: Request) -> str:
        """Return why the process at the other end may change nothing, empty when it may."""
        # For each request: it may have been forked, or have ended, since the one before.
        connection = self._transport.get_extra_info("socket") if self._transport is not None else None
        lineage = lineage_of_peer(connection) if connection is not None else None
        if lineage is None or lineage.chain:
            return self._refuse(request.method, lineage.chain if lineage is not None else ())
        try:
            agent = self._server.agents.above(lineage.processes)
        except OSError as error:
            _log.warning("the agents of this home cannot be read: %s", error)
            return self._refuse(request.method, ())
        return "" if agent is None else self._refuse(request.method, (agent.identity.pid,), agent.agent)

    def _fail(self, request: Request, code: int, text: str) -> None:
        self._connection.fail(request.id, code, text, {"reason": codes.REASONS[code]})

    def _flush(self) -> None:
        transport = self._transport
        data = self._connection.data_to_send()
        if data and transport is not None and not transport.is_closing():
            transport.write(data)

    def _wait(self) -> None:
        """Close the connection after `idle` seconds, unless a request comes."""
        self._unwatch()
        if self._transport is not None:
            self._timer = asyncio.get_running_loop().call_later(self._idle, self.abort)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @override
    def pause_writing(self) -> None:
        self.abort()  # it does not take its answers, and our commands take each before they ask again

    @override
    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None
        self._requests.clear()
        self._unwatch()
        self._server.forget(self)

    def end(self) -> None:
        """Close the connection without waiting for the peer to take what is left."""
        if self._transport is not None and not self._transport.get_write_buffer_size():
            self._transport.close()
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection now."""
        if self._transport is not None:
            self._transport.abort()


def _sweep(home: Home) -> None:
    """Remove what killed hosts have left in the home and in the system's temporary folders."""
    for folder in (home.path, home.run_dir):
        remove_left_sockets(folder)
    remove_left_folders(addresses.temporary_folders())


class _WrongParamsError(Exception):
    """The params of a request are not what its method takes."""


async def _let_the_loop_turn() -> None:
    """Let the loop make the connections that it has accepted, and close those that were ended."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def _immediate(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    return answer


async def _now(work: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    return work()


def _after(params: Mapping[str, Any]) -> int:
    value = params.get("after", 0)
    if type(value) is not int or value < 0:
        raise _WrongParamsError(f"'after' is {value!r:.40}; expected the number of a line")
    return value


def _plugin(params: Mapping[str, Any]) -> str:
    return _text(params, "plugin", "a plugin's name")


def _text(params: Mapping[str, Any], key: str, expected: str) -> str:
    value = params.get(key)
    if not isinstance(value, str) or not value:
        raise _WrongParamsError(f"{key!r} is {type(value).__name__}; expected {expected}")
    return value


def _seconds(params: Mapping[str, Any]) -> float:
    value = params.get("seconds")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LONGEST_PAUSE:
        raise _WrongParamsError(f"'seconds' is {value!r:.40}; expected a number from 0 to {LONGEST_PAUSE:g}")
    return float(value)
