"""Daemons that listen on a Unix socket: how their process is started and spoken with.

They receive events and answer calls of their own methods; one that calls the host connects to the host's socket. The
sockets themselves are in `host.sockets`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import define, field

from ally_plugins.contract.process_spec import Daemon, path_problem
from ally_plugins.contract.values.errors import PluginError, ValidationRefused
from ally_plugins.host.sockets.claims import MARK_VARIABLE, SocketClaim, claim_in_thread
from ally_plugins.host.sockets.link import SocketLink
from ally_plugins.host.sockets.talkback import SOCKET_VARIABLE, TOKEN_VARIABLE
from ally_plugins.journal.process_identity import has_variable
from ally_plugins.runtime.lanes.link import DaemonGone, Link
from ally_plugins.runtime.processes.process import Process, ProcessSpec
from ally_plugins.wire.methods import read_params

from .remote_plugin import RemotePlugin
from .stdio import new_link, prepare, stderr_tail
from .supervisor import StartFailed

if TYPE_CHECKING:
    from .stream_link import StreamLink

__all__ = ["SocketOpener"]

SOCKET_PATH: str = "SOCKET_PATH"
"""The variable that tells a daemon where to listen; Code-Ally's daemons know it."""


@define(eq=False)
class SocketOpener:
    """Starts a daemon that listens on a socket; see `supervisor.Opener`."""

    remote: RemotePlugin
    daemon: Daemon
    run_id: str
    """Replaces `{session_id}` in the path; differs for each host."""
    _claim: SocketClaim | None = field(init=False, default=None)
    _link: SocketLink | None = field(init=False, default=None)
    _process: Process | None = field(init=False, default=None)

    async def launch(self) -> Process:
        """Claim the path, which may end an orphan there, and start the process. Raises StartFailed, CannotExecute.

        Cancelling may leave the path claimed, until `release` or the next launch.
        """
        remote = self.remote
        daemon = await prepare(remote, self.daemon)
        path = self._path()
        # That of the process before: each process has a mark of its own.
        if remote.record.placement == "sandbox":
            raise StartFailed("it listens on a Unix socket, which there is none of in a sandbox", is_final=True)
        self._release_claim()
        try:
            self._claim = claim = await claim_in_thread(path, remote.plugin.name)
        except (OSError, PluginError) as error:
            raise StartFailed(f"cannot listen at {path!r}: {error}", is_final=True) from None
        more = {**daemon.env, SOCKET_PATH: path, MARK_VARIABLE: claim.mark}
        spec = ProcessSpec(
            name=remote.plugin.name,
            argv=daemon.command,
            cwd=daemon.cwd or remote.services.working_dir(),
            env=remote.environment({**more, **await self._talk_back()}),
            limits=daemon.limits,
            fork=daemon.fork,
            stdio=False,
        )
        self._process = process = await remote.services.launcher.launch(spec, None, remote.log.write)
        claim.write(process.pid)
        self._link = SocketLink(
            remote.plugin.name,
            path,
            is_running=lambda: not process.exited.done(),
            health_timeout=self.daemon.timing.ping_timeout,
            on_writable=remote.notify_readable,
        )
        return process

    def _path(self) -> str:
        path = self.daemon.socket.replace("{session_id}", self.run_id)
        if (problem := path_problem(path)) is not None:
            raise StartFailed(f"its socket path {problem}", is_final=True)
        return path

    def _release_claim(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.release()

    async def handshake(self, process: Process, lost: Callable[[str], None]) -> Link:
        """Wait until its socket accepts; there is no `initialize`. Raises StartFailed. Cancelling stops the waiting."""
        del lost  # each message has its own connection: there is none to lose
        link = self._link
        assert link is not None  # noqa: S101 - launched just now
        try:
            await link.wait_ready(self.daemon.timing.startup_timeout, process.exited)
        except DaemonGone as error:
            raise StartFailed(str(error)) from None
        except PluginError as error:
            raise StartFailed(f"{error}") from None
        if self._claim is not None:
            self._claim.note_socket()
        return link

    async def accept_offers(self, link: Link) -> None:
        """Deliver the events that it is granted; its tools are in its manifest, and registered already."""
        del link
        remote = self.remote
        remote.plugin.instance = self.daemon
        remote.update_observers()
        remote.services.replan()

    async def ping(self, link: Link) -> None:
        """Return when it accepts a connection. Raises PluginError when it does not within its health timeout."""
        await link.request("ping", {})

    def has_read(self, link: Link) -> bool:
        """Return false: each message has its own connection, so a health check never waits behind events."""
        del link
        return False

    async def request_shutdown(self, link: Link, reason: str) -> None:
        """Wait a second at most until the events on their way are sent.

        SIGTERM is the only request that it understands.
        """
        del reason
        async with asyncio.timeout(1.0):
            await link.request("drain", {})

    def release(self) -> None:
        """Release the path, and revoke the token."""
        # By now the token may be that of the next process, which another opener has launched.
        if self._claim is None:
            return
        self._release_claim()
        self.remote.services.revoke_token(self.remote.plugin.name)
        self.remote.calls.link = None

    def stderr_tail(self) -> str:
        """Return the end of what it wrote to stderr."""
        return stderr_tail(self.remote)

    # --- talking back ---

    async def _talk_back(self) -> dict[str, str]:
        remote = self.remote
        if not self.daemon.talks_back:
            return {}
        server = await remote.services.talk_back_server()
        path, token = server.expect(remote.plugin.name, self._connected, self._initialize, self._is_its)
        return {SOCKET_VARIABLE: path, TOKEN_VARIABLE: token}

    def _initialize(self, params: dict[str, Any]) -> Mapping[str, Any]:
        """Return the answer to the first frame, whose token was checked. Raises RefusedError."""
        read_params("initialize", params, self.remote.plugin.name)
        # `release` revokes the token only when the whole tree has ended; until then a child could show it.
        if self._process is None or self._process.exited.done():
            raise ValidationRefused("the process that this token was given to has ended", field="token")
        return self.remote.initialize_params()

    def _connected(self) -> StreamLink:
        calls = self.remote.calls
        link = new_link(self.remote, lambda _: calls.forget_link(link))
        # The server has read and answered `initialize`: what comes now is the rest.
        link.is_strict = False
        link.is_initialized = True
        calls.link = link
        return link

    def _is_its(self, pid: int) -> bool:
        """Say whether a process is of the daemon's tree: of its session, or with its mark in the environment."""
        if self._process is None or self._claim is None:
            return False
        try:
            is_of_session = os.getsid(pid) == self._process.pid
        except OSError:
            return False
        # Either: a child may have left the session, and only Linux shows the environment of a process.
        return is_of_session or has_variable(pid, MARK_VARIABLE, self._claim.mark)
