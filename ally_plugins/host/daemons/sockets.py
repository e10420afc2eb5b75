"""Daemons that listen on a Unix socket: how their process is started and spoken with.

They hear events and answer calls of their own methods; who wants to call the host connects to its socket. The sockets
themselves are `host.sockets`'.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field

from ally_plugins.contract.process_spec import Daemon, path_problem
from ally_plugins.contract.values.errors import PluginError, ValidationRefused
from ally_plugins.host.sockets.claims import MARK_VARIABLE, SocketClaim, claim_in_thread
from ally_plugins.host.sockets.link import SocketLink
from ally_plugins.host.sockets.talkback import SOCKET_VARIABLE, TOKEN_VARIABLE
from ally_plugins.runtime.lanes.link import DaemonGone, Link
from ally_plugins.runtime.processes.process import Process, ProcessSpec
from ally_plugins.wire.methods import read_params

from .remote_plugin import RemotePlugin
from .stdio import begin, last_words, make_peer
from .supervisor import StartFailed

if TYPE_CHECKING:
    from .peer import Peer

__all__ = ["SocketOpener"]

SOCKET_PATH: str = "SOCKET_PATH"
"""The variable that tells a daemon where to listen; Code-Ally's daemons know it."""


@define(eq=False)
class SocketOpener:
    """Starts a daemon that listens on a socket; see `supervisor.Opener`."""

    remote: RemotePlugin
    daemon: Daemon
    run_id: str
    """What `{session_id}` in the path becomes: this host, and no other."""
    _claim: SocketClaim | None = field(init=False, default=None)
    _link: SocketLink | None = field(init=False, default=None)
    _process: Process | None = field(init=False, default=None)

    async def launch(self) -> Process:
        """Claim the path, which may end an orphan there, and start the process. Raises StartFailed, CannotExecute."""
        remote = self.remote
        daemon = await begin(remote, self.daemon)
        path = self._path()
        self._release()
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

    def _release(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.release()

    async def greet(self, process: Process, lost: Callable[[str], None]) -> Link:
        """Wait until its socket accepts; such a daemon says nothing of itself."""
        del lost  # a connection a message: there is none that could break
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

    async def welcome(self, link: Link) -> None:
        """Let it hear what it is granted; its tools stand in its manifest, and are registered already."""
        del link
        remote = self.remote
        remote.plugin.instance = self.daemon
        remote.update_observers()
        remote.services.replan()

    async def ping(self, link: Link) -> None:
        """See whether it takes a connection."""
        await link.request("ping", {})

    def has_read(self, link: Link) -> bool:
        """Say no: it gets a connection for each message, and a health check never waits behind one."""
        del link
        return False

    async def say_goodbye(self, link: Link, reason: str) -> None:
        """Let the events that are on their way arrive; SIGTERM is all that such a daemon hears."""
        del reason
        async with asyncio.timeout(1.0):
            await link.request("drain", {})

    def ended(self) -> None:
        """Let the path go, and take the token back."""
        self._release()
        self.remote.services.revoke_token(self.remote.plugin.name)
        self.remote.calls.link = None

    def last_words(self) -> str:
        """Return the end of what it wrote to stderr."""
        return last_words(self.remote)

    # --- talking back ---

    async def _talk_back(self) -> dict[str, str]:
        remote = self.remote
        if not self.daemon.talks_back:
            return {}
        server = await remote.services.talk_back_server()
        path, token = server.expect(remote.plugin.name, self._connected, self._initialize, self._is_its)
        return {SOCKET_VARIABLE: path, TOKEN_VARIABLE: token}

    def _initialize(self, params: dict[str, Any]) -> Mapping[str, Any]:
        """Answer the first frame; the token has been looked at."""
        read_params("initialize", params, self.remote.plugin.name)
        if self._process is None or self._process.exited.done():
            raise ValidationRefused("the process that this token was given to has ended", field="token")
        return self.remote.initialize_params()

    def _connected(self) -> Peer:
        calls = self.remote.calls
        peer = make_peer(self.remote, lambda _: calls.let_go(peer))
        peer.is_strict = False
        peer.is_greeted = True
        calls.link = peer
        return peer

    def _is_its(self, pid: int) -> bool:
        """Say whether a process is of the daemon's tree: of its session, or with its mark in the environment."""
        if self._process is None or self._claim is None:
            return False
        try:
            if os.getsid(pid) == self._process.pid:
                return True
            return f"{MARK_VARIABLE}={self._claim.mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
