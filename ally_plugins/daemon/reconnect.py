"""Talking back: a `socket` daemon's own connection to its host, over ALLY_SOCKET with ALLY_TOKEN.

The host gives both to a daemon that opted in. The connection is made again when it breaks; calls meanwhile are refused.
How such a daemon listens for events is its own business.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self

from ally_plugins.contract.handle import Ally
from ally_plugins.contract.values.errors import AllyError, RemoteError, UnavailableRefused
from ally_plugins.contract.values.scope import SCOPE
from ally_plugins.wire.codes import UNAUTHORIZED
from ally_plugins.wire.connection import Connection
from ally_plugins.wire.handshake import PROTOCOL
from ally_plugins.wire.limits import DEFAULT_LIMITS, FROM_HOST

from .init_params import Initialization
from .logs import write_stderr
from .outbound import WireOutbound
from .peer import Peer
from .service import METHODS, Service, scope_of
from .streams import Descriptors

if TYPE_CHECKING:
    from ally_plugins.wire.messages import Notification, Request

__all__ = ["TalkBack", "connect_back"]

FIRST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 5.0
"""Seconds between two attempts; each wait is twice the last, and up to a half shorter so that daemons do not march."""

GRACE: Final = 1.0  # seconds for tools that run when the daemon lets go


def connect_back(*, name: str | None = None, path: str | None = None, token: str | None = None) -> TalkBack:
    """Make a connection to the host; in `async with ... as back`, `back.ally` is the plugin's handle.

    `path` and `token` are those of the environment, ALLY_SOCKET and ALLY_TOKEN. Raises UnavailableRefused when there
    are none: the operator has not let the daemon talk back.
    """
    path, token = path or os.environ.get("ALLY_SOCKET"), token or os.environ.get("ALLY_TOKEN")
    if not path or not token:
        raise UnavailableRefused("ALLY_SOCKET and ALLY_TOKEN are not set; this daemon was not let talk back")
    return TalkBack(path, token, name)


class TalkBack:
    """A connection to the host that is made again when it breaks; it lives as long as its `async with` block."""

    ally: Ally
    """The plugin's handle. Outside of `reacting_to`, calls name their session where several are open."""

    def __init__(self, path: str, token: str, name: str | None) -> None:
        self._path = path
        self._token = token
        self._name = name
        self._service: Service | None = None
        self._outbound: WireOutbound | None = None
        self._peer: Peer | None = None
        self._broken = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect. Raises OSError when no host listens, RemoteError when it refuses the token.

        Cancelling it closes the connection that it was making.
        """
        await self._connect()
        self._keeper = asyncio.create_task(self._keep(), name="ally-talk-back")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            # Not awaited itself: it would raise its own CancelledError here.
            await asyncio.wait([self._keeper])
        if self._service is not None:
            # While there is a connection: what is cancelled answers.
            await self._service.stop(GRACE)
        self._let_go()

    @contextmanager
    def reacting_to(self, params: Mapping[str, Any]) -> Generator[None]:
        """Say what the calls in the block react to: the params of an `on_event`, or of a request, as they came."""
        about = dict(params)
        scope = scope_of(self.ally.name, {**about, "cause": about.get("id") or about.get("cause")})
        before = SCOPE.set(scope)
        try:
            yield
        finally:
            SCOPE.reset(before)

    # --- what the host sends ---

    def request(self, message: Request) -> None:
        """As `peer.Handler.request`: tools, actions and tasks of this connection."""
        if self._service is None:
            raise UnavailableRefused("the connection has only begun")
        self._service.request(message)

    def notification(self, message: Notification) -> None:
        """As `peer.Handler.notification`; there is none that matters here."""

    def cancelled(self, request_id: int | str) -> None:
        """As `peer.Handler.cancelled`."""
        if self._service is not None:
            self._service.cancelled(request_id)

    def ended(self, why: str) -> None:
        """As `peer.Handler.ended`."""
        if why:
            write_stderr(f"the host does not keep to the protocol: {why}")
        self._broken.set()

    # --- the connection ---

    async def _connect(self) -> None:
        # Before anything is sent: a connection that breaks while it opens counts.
        self._broken.clear()
        self._peer = peer = Peer(Connection(limits=FROM_HOST, methods=METHODS), self, self._name or "")
        peer.open(await self._open_socket())
        own = {"name": self._name} if self._name is not None else {}
        try:
            params = {"token": self._token, "protocol": PROTOCOL, **own}
            # `then`, before the next message is read: a request may come with the same bytes.
            await peer.call("initialize", params, then=lambda told: self._adopt(Initialization.read(told), peer))
        # A cancellation too: nobody else knows these descriptors.
        except BaseException:
            peer.close()
            raise

    def _adopt(self, initialization: Initialization, peer: Peer) -> None:
        peer.name = initialization.plugin
        peer.connection.send_limit = initialization.frame_bytes or DEFAULT_LIMITS.frame_bytes
        if self._service is None or self._outbound is None:
            self._service = service = Service(initialization.plugin, peer)
            self._outbound = WireOutbound(
                initialization.plugin, peer, initialization.capabilities, service.handlers, service.tasks
            )
            self.ally = Ally(
                initialization.plugin,
                self._outbound,
                settings=initialization.settings,
                data_dir=initialization.data_dir,
            )
        else:
            # The same handle over all connections: a plugin keeps its `ally`, and what was made with it.
            self._service.peer = peer
            self._outbound.use(peer)
        self._outbound.is_open = True

    async def _open_socket(self) -> Descriptors:
        if sys.platform == "win32":
            raise OSError("this platform has no sockets of the kind that ALLY_SOCKET is")
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            ours.setblocking(False)  # noqa: FBT003 - the name says it
            await asyncio.get_running_loop().sock_connect(ours, self._path)
        except BaseException:
            ours.close()
            raise
        descriptor = ours.detach()
        return Descriptors(descriptor, descriptor)

    async def _keep(self) -> None:
        """Connect again, ever more slowly, whenever the connection has broken; give up when the token is refused."""
        while True:
            await self._broken.wait()
            # At once, so that calls are refused while there is no host, and do not wait for one.
            self._let_go()
            if self._service is not None:
                self._service.drop()
            wait = FIRST_WAIT
            while True:
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - only to spread attempts
                try:
                    await self._connect()
                except (OSError, AllyError) as error:
                    # Revoked, or of a host that is gone: no later attempt would be answered otherwise.
                    if isinstance(error, RemoteError) and error.code == UNAUTHORIZED:
                        write_stderr(f"the host does not take the token any more: {error}")
                        return
                    wait = min(LONGEST_WAIT, wait * 2)
                else:
                    break

    def _let_go(self) -> None:
        if self._outbound is not None:
            self._outbound.is_open = False
        if self._peer is not None:
            with suppress(OSError):
                self._peer.close()
