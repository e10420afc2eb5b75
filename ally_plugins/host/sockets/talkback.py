"""The host's own socket, for daemons that listen on theirs and want to talk back.

A connection that shows the token of a running daemon is handed to that daemon's link; any other is refused, and no byte
of it is interpreted beyond its first frame. The daemon's requests are then handled as any daemon's, in `daemons.calls`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from attrs import define, field

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import RefusedError, UnavailableRefused, VersionError
from ally_plugins.runtime.processes.unixsocket import LONGEST_PATH, listening_socket, other_end
from ally_plugins.wire.codes import (
    BUSY,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    NOT_INITIALIZED,
    UNAUTHORIZED,
    UNSUPPORTED_PROTOCOL,
    write_error,
)
from ally_plugins.wire.handshake import check_protocol
from ally_plugins.wire.limits import WireLimits
from ally_plugins.wire.messages import Malformed, MessageId, Request, encode_error, encode_response, parse

from .directories import private_directory, short_directory, unlink
from .leftovers import remove_left_sockets

__all__ = ["SOCKET_VARIABLE", "TOKEN_VARIABLE", "TalkBackCounts", "TalkBackServer"]

_log: Final = logging.getLogger(__name__)

SOCKET_VARIABLE: Final = "ALLY_SOCKET"
TOKEN_VARIABLE: Final = "ALLY_TOKEN"  # noqa: S105 - the name of a variable

GREETING_TIMEOUT: Final = 5.0
"""Seconds that a connection has for its first frame; a daemon sends it at once."""

# For one frame of somebody unknown: `initialize` has a few hundred bytes, and no second try.
_LIMITS: Final = WireLimits(frame_bytes=16 * 1024, depth=8, nodes=200, malformed=1)
_GREETING_MOST: Final = 64  # connections at once without a first frame
_OF_ONE_PROCESS: Final = 4  # of these for one process, so that it cannot keep the others out
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 2.0  # seconds until a wrong token is answered: it doubles with each
_LONGEST_TOKEN: Final = 256  # characters that are compared; ours have 43
_FROM_STRANGERS: Final = frozenset({INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, NOT_INITIALIZED})
"""Answers to a first frame that is not `initialize`, or not of its form."""


@define
class TalkBackCounts:
    """Counts of connections to the socket, over the life of the host."""

    accepted: int = 0
    refused: int = 0
    """Wrong tokens, and right ones of a daemon that is connected already or of a process that is not its."""
    strangers: int = 0
    """Connections of other users, and those whose first frame was missing, too long, or not `initialize`."""


@define(eq=False)
class _Expected:
    """One running daemon that may connect; it lives as long as the daemon's process."""

    token: bytes
    make_peer: Callable[[], asyncio.Protocol]
    on_initialize: Callable[[dict[str, Any]], Mapping[str, Any]]
    is_its: Callable[[int], bool] | None
    transport: asyncio.Transport | None = None

    @property
    def is_connected(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()


@define(eq=False)
class TalkBackServer:
    """The socket of one host, from `start` to `close`. Only for the loop's thread.

    `directory` is made private (0700); where it has too long a name for a socket, a short private one stands in.
    """

    directory: Path
    counts: TalkBackCounts = field(init=False, factory=TalkBackCounts)
    path: str = field(init=False, default="")
    _server: asyncio.Server | None = field(init=False, default=None)
    _expected: dict[str, _Expected] = field(init=False, factory=dict)
    _greetings: set[_Greeting] = field(init=False, factory=set)

    async def start(self) -> None:
        """Listen. Raises UnavailableRefused where there are no Unix sockets, and OSError.

        Cancelling closes the socket and removes its file.
        """
        if not hasattr(socket, "AF_UNIX"):
            raise UnavailableRefused("this machine has no Unix sockets, so that no daemon can talk back over one")
        if self._server is not None:
            return
        self.path = self._choose_path()
        sock = listening_socket(self.path)
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Greeting(self), sock=sock)
        except BaseException:
            sock.close()
            unlink(self.path)
            raise

    def _choose_path(self) -> str:
        name = f"talk-{os.getpid()}-{secrets.token_hex(6)}.sock"
        directory = private_directory(self.directory)
        if len(os.fsencode(directory / name)) > LONGEST_PATH:
            directory = short_directory()
        remove_left_sockets(directory)
        return str(directory / name)

    async def close(self) -> None:
        """Listen no more, and end every connection. May be called twice."""
        server, self._server = self._server, None
        for name in list(self._expected):
            self.forget(name)
        for greeting in list(self._greetings):
            greeting.abort()
        if server is not None:
            server.close()
            unlink(self.path)

    def expect(
        self,
        name: str,
        make_peer: Callable[[], asyncio.Protocol],
        on_initialize: Callable[[dict[str, Any]], Mapping[str, Any]],
        is_its: Callable[[int], bool] | None = None,
    ) -> tuple[str, str]:
        """Let a daemon connect from now until `forget`, and return its ALLY_SOCKET and ALLY_TOKEN; call `start` first.

        When it has shown its token, `on_initialize` takes the params and gives the answer (RefusedError and
        VersionError are answered as such), then `make_peer` gives the protocol that the connection goes on with:
        `connection_made` is called on it, and `data_received` for what came with the greeting. `is_its` says whether a
        process id is of the daemon's tree, where that is known.
        """
        # The process before may still have its connection.
        self.forget(name)
        token = secrets.token_urlsafe(32)
        self._expected[name] = _Expected(token.encode(), make_peer, on_initialize, is_its)
        return self.path, token

    def forget(self, name: str) -> None:
        """Revoke a daemon's token, and end its connection: its process has ended."""
        found = self._expected.pop(name, None)
        if found is not None and found.transport is not None:
            found.transport.abort()

    # --- for the greetings ---

    def has_room(self, pid: int) -> bool:
        """Say whether there is room for one more connection, of this process, that waits for its first frame."""
        of_it = sum(greeting.pid == pid for greeting in self._greetings)
        # 0 where the system gives the user only: those share the room of all.
        return len(self._greetings) < _GREETING_MOST and (pid <= 0 or of_it < _OF_ONE_PROCESS)

    def find(self, token: object) -> _Expected | None:
        """Return the daemon with this token. Every one is compared, each in constant time."""
        given = token.encode("utf-8", "replace") if isinstance(token, str) and len(token) <= _LONGEST_TOKEN else b""
        found = None
        for expected in self._expected.values():
            if hmac.compare_digest(expected.token, given):
                found = expected
        return found

    def add(self, greeting: _Greeting) -> None:
        """Count a connection that waits for its first frame."""
        self._greetings.add(greeting)

    def discard(self, greeting: _Greeting) -> None:
        """Forget a connection that was handed on, or has ended."""
        self._greetings.discard(greeting)

    def delay(self) -> float:
        """Return how long to wait before a wrong token is answered."""
        # 16 at most: the delay has long reached its limit, and the power must not grow with each wrong token.
        return float(min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(self.counts.refused - 1, 16)))


class _Greeting(asyncio.Protocol):
    """A connection that waits for its first frame, for `GREETING_TIMEOUT` seconds at most."""

    def __init__(self, server: TalkBackServer) -> None:
        self.pid = 0
        self._server = server
        self._data = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's transports are not derived from it
        self._transport = transport
        if not self._is_admitted(transport.get_extra_info("socket")):
            self._reject()
            return
        self._server.add(self)
        self._timer = asyncio.get_running_loop().call_later(GREETING_TIMEOUT, self._reject)

    def _is_admitted(self, connection: Any) -> bool:
        try:
            found = other_end(connection)
        except OSError:  # it is gone already
            return False
        self.pid = found.pid if found is not None else 0
        return (found is None or found.uid == os.geteuid()) and self._server.has_room(self.pid)

    @override
    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        before = len(self._data)
        self._data += data
        # From where the last look ended: what comes byte by byte must not cost the square of its length.
        end = self._data.find(b"\n", before)
        if end > _LIMITS.frame_bytes or (end < 0 and len(self._data) > _LIMITS.frame_bytes):
            self._reject()
        elif end >= 0:
            self._is_over = True
            self._check_first_frame(bytes(self._data[:end]), bytes(self._data[end + 1 :]))

    @override
    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._is_over = True
        self._cancel_timer()
        self._server.discard(self)

    def abort(self) -> None:
        """End it without an answer."""
        self._is_over = True
        self._cancel_timer()
        self._server.discard(self)
        if self._transport is not None:
            self._transport.abort()

    def _reject(self) -> None:
        self._server.counts.strangers += 1
        self.abort()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_first_frame(self, line: bytes, rest: bytes) -> None:
        try:
            request = parse(line, _LIMITS, methods=("initialize",))
        except Malformed as error:
            self._refuse(error.id, error.code, f"the first message is not one: {error.text}", 0.0)
            return
        if not isinstance(request, Request) or request.method != "initialize":
            number = request.id if isinstance(request, Request) else None
            self._refuse(number, NOT_INITIALIZED, "the first message must be 'initialize' with the token", 0.0)
            return
        counts = self._server.counts
        expected = self._server.find(request.params.get("token"))
        if expected is None or not _is_its(expected, self.pid):
            counts.refused += 1
            text = "the token is not the one of a daemon of this host that is running"
            self._refuse(request.id, UNAUTHORIZED, text, self._server.delay())
        elif expected.is_connected:
            counts.refused += 1
            text = "this daemon is connected already; one connection at a time"
            # Not `unauthorized`: the connection before may have broken without this host having seen it yet.
            self._refuse(request.id, BUSY, text, self._server.delay())
        else:
            self._accept(expected, request, rest)

    def _accept(self, expected: _Expected, request: Request, rest: bytes) -> None:
        try:
            check_protocol(request.params.get("protocol"))
            answer = encode_response(request.id, expected.on_initialize(request.params))
        except VersionError as error:
            self._refuse(request.id, UNSUPPORTED_PROTOCOL, str(error), 0.0)
        except RefusedError as error:
            refusal = write_error(error)
            self._refuse(request.id, refusal.code, refusal.message, 0.0)
        except Exception:  # noqa: BLE001 - logged here; the daemon is sent no details of the host
            _log.exception("a daemon that talks back could not be answered")
            self._refuse(request.id, INTERNAL_ERROR, "internal error", 0.0)
        else:
            self._hand_over(expected, answer, rest)

    def _hand_over(self, expected: _Expected, answer: bytes, rest: bytes) -> None:
        transport = self._transport
        assert transport is not None  # noqa: S101 - it has received data
        self._cancel_timer()
        self._server.discard(self)
        self._server.counts.accepted += 1
        expected.transport = transport
        # Before the peer is made, which may write: the daemon reads its answer first.
        transport.write(answer)
        peer = expected.make_peer()
        transport.set_protocol(peer)
        peer.connection_made(transport)
        if rest:
            peer.data_received(rest)

    def _refuse(self, number: MessageId | None, code: int, text: str, delay: float) -> None:
        """Answer with an error and close, after a delay in which nothing more is read."""
        if number is None or code in _FROM_STRANGERS:
            self._server.counts.strangers += 1
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(
            delay, self._send_and_close, encode_error(number, code, text)
        )

    def _send_and_close(self, line: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(line)
            self._transport.close()


def _is_its(expected: _Expected, pid: int) -> bool:
    return expected.is_its is None or pid <= 0 or expected.is_its(pid)
