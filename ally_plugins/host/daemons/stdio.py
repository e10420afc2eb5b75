"""Daemons that speak over their stdin and stdout: started, greeted, and told goodbye.

The transport of most. What is said before anything else, and the words for each way in which that fails, serve the
other transport too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from attrs import define, field

from ally_plugins.contract.process_spec import Daemon
from ally_plugins.contract.values.errors import PluginError, RefusedError, RemoteError, TimedOut, VersionError
from ally_plugins.runtime.lanes.link import DaemonGone, Link, RemoteCrash
from ally_plugins.runtime.lanes.plugin import describe
from ally_plugins.runtime.processes.process import Process, ProcessSpec
from ally_plugins.wire.codes import UNSUPPORTED_PROTOCOL
from ally_plugins.wire.handshake import PROTOCOLS, check_protocol
from ally_plugins.wire.limits import DEFAULT_LIMITS
from ally_plugins.wire.methods import read_initialize_result

from .peer import Peer
from .supervisor import StartFailed

if TYPE_CHECKING:
    from ally_plugins.wire.host_params import InitializeResult

from .remote_plugin import RemotePlugin

__all__ = ["StdioOpener", "begin", "last_words", "make_peer"]

_log: Final = logging.getLogger(__name__)

LAST_LINES: Final = 3
LAST_CHARS: Final = 300
"""Of its stderr in the reason why a daemon ended; the log has the rest."""

WIND_UP: Final = 1.0
"""Seconds beyond the deadline of `ally_stop` that a daemon has to end its tasks and acknowledge what it has done."""

_PROTOCOL_HINT: Final = "stdout is the protocol's own: what is for people goes to stderr"


@define(eq=False)
class StdioOpener:
    """Starts a daemon that speaks over its stdin and stdout; see `supervisor.Opener`."""

    remote: RemotePlugin
    daemon: Daemon
    _peer: Peer | None = field(init=False, default=None)
    _lost: Callable[[str], None] = field(init=False, default=lambda _: None)

    async def launch(self) -> Process:
        """Start the process."""
        remote = self.remote
        daemon = await begin(remote, self.daemon)
        peer = self._peer = make_peer(remote, self._is_lost)
        spec = ProcessSpec(
            name=remote.plugin.name,
            argv=daemon.command,
            cwd=daemon.cwd or remote.services.working_dir(),
            env=remote.environment(daemon.env),
            limits=daemon.limits,
        )
        return await remote.services.launcher.launch(spec, lambda: peer, remote.log.write)

    def _is_lost(self, reason: str) -> None:
        self._lost(reason)

    async def greet(self, process: Process, lost: Callable[[str], None]) -> Link:
        """Say `initialize`, and keep the answer for `welcome`."""
        del process
        assert self._peer is not None  # noqa: S101 - launched just now
        self._lost = lost
        await greet(self.remote, self._peer)
        self._peer.is_watched = True
        return self._peer

    async def welcome(self, link: Link) -> None:
        """Take on what the daemon has answered, and let it start."""
        assert isinstance(link, Peer)  # noqa: S101 - from `greet`
        await welcome(self.remote, link)

    async def ping(self, link: Link) -> None:
        """Ask whether it is there; any answer says so."""
        try:
            await link.request("ping", {})
        except RemoteError:
            return

    def has_read(self, link: Link) -> bool:
        """Say whether it has read since this was asked last."""
        return isinstance(link, Peer) and link.has_read()

    async def say_goodbye(self, link: Link, reason: str) -> None:
        """Send `shutdown`, and wait for its answer within the deadline of `ally_stop`."""
        await say_goodbye(self.remote, link, reason)

    def ended(self) -> None:
        """Do nothing: the connection was all there was."""

    def last_words(self) -> str:
        """Return the end of what it wrote to stderr."""
        return last_words(self.remote)


async def begin(remote: RemotePlugin, daemon: Daemon) -> Daemon:
    """Make ready for a new process, and return how it is started: all that it may run must be what was agreed to.

    Raises StartFailed.
    """
    remote.log.end()
    remote.log.forget_tail()
    problem = await asyncio.to_thread(remote.record.make_ready)  # it reads them all
    if problem:
        raise StartFailed(problem, is_final=True)
    if remote.bridged is None:
        return daemon
    try:
        return remote.bridged.process(daemon)
    except PluginError as error:
        raise StartFailed(str(error), is_final=True) from None


def make_peer(remote: RemotePlugin, lost: Callable[[str], None]) -> Peer:
    """Return a fresh connection for a daemon."""
    calls = remote.calls
    peer = Peer(
        remote.plugin.name, DEFAULT_LIMITS, on_request=calls.on_request, on_notice=calls.on_notice, on_lost=lost
    )
    peer.on_writable = remote.notify_readable  # type: ignore[method-assign]
    return peer


async def greet(remote: RemotePlugin, peer: Peer) -> None:
    """Say `initialize` and take the answer. Raises StartFailed, each kind of failure with a sentence of its own."""
    try:
        answer = await peer.request("initialize", remote.initialize_params())
        hello = read_initialize_result(answer, remote.plugin.name)
        check_protocol(hello.protocol)
    except DaemonGone as error:
        if (heard := _no_protocol(peer)) is not None:
            raise StartFailed(heard, is_final=True) from None
        raise StartFailed(str(error)) from None
    except VersionError as error:
        raise StartFailed(f"speaks another version of the protocol: {error}", is_final=True) from None
    except RemoteError as error:
        if error.code == UNSUPPORTED_PROTOCOL:
            text = f"speaks another version of the protocol: this host speaks {PROTOCOLS[0]!r}, it said: {error}"
            raise StartFailed(text, is_final=True) from None
        raise StartFailed(f"answered `initialize` with an error: {error}", is_final=True) from None
    except RemoteCrash as error:
        text = f"could not be built: {error}{_tail(remote)}"
        raise StartFailed(text, is_final=True) from None
    except PluginError as error:
        raise StartFailed(str(error), is_final=True) from None
    peer.is_strict = False
    peer.hello = hello


def last_words(remote: RemotePlugin) -> str:
    """Return the end of what a daemon wrote to stderr, as one line; empty when that is nothing."""
    lines = [line.strip() for line in remote.log.tail if line.strip(" ^~")]  # Python marks places below its lines
    return remote.plugin.masked(" / ".join(lines[-LAST_LINES:]))[-LAST_CHARS:]  # half a secret would not be found


def _tail(remote: RemotePlugin) -> str:
    words = last_words(remote)
    return f", stderr ends: {words}" if words else ""


def _no_protocol(peer: Peer) -> str | None:
    """Return in words that it said something, and that this was no protocol."""
    if not peer.is_nonsense:
        return None
    said = peer.first_words.split(b"\n")[0][:80].decode("utf-8", "replace")
    return f"spoke no protocol: its first line was {said!r}, expected an answer to `initialize`; {_PROTOCOL_HINT}"


async def welcome(remote: RemotePlugin, peer: Peer) -> None:
    """Take on what the daemon has answered, and let it start. Raises StartFailed."""
    hello: InitializeResult = peer.hello
    plugin = remote.plugin
    peer.is_greeted = True
    peer.go_on()
    try:
        await remote.offers.accept(hello)
        if "ally_start" in plugin.implementations:
            limit = plugin.deadline("ally_start", "start")
            try:
                async with asyncio.timeout(limit):
                    await peer.request("start", {})
            except (TimeoutError, TimedOut):  # by whichever clock runs out first, the host's or the daemon's
                raise StartFailed(f"ally_start did not return within {limit:g} s") from None
    except StartFailed:
        raise
    except (DaemonGone, TimedOut) as error:  # the daemon's clock may run out before the host's own
        raise StartFailed(str(error)) from None
    except RemoteCrash as error:
        raise StartFailed(f"it could not start: {error}{_tail(remote)}", is_final=True) from None
    except (PluginError, RemoteError) as error:
        raise StartFailed(f"it could not start: {error}", is_final=True) from None


async def say_goodbye(remote: RemotePlugin, link: Link, reason: str) -> None:
    """Send `shutdown`, and wait for its answer within the deadline of `ally_stop`; what goes wrong is logged."""
    remote.lane.is_ready = False
    limit = remote.plugin.deadline("ally_stop", "stop") + WIND_UP
    try:
        async with asyncio.timeout(limit):
            await link.request("shutdown", {"reason": reason})
    except TimeoutError:
        _log.warning("%r did not answer `shutdown` within %g s", remote.plugin.name, limit)
    except (RemoteCrash, RemoteError, RefusedError, TimedOut) as error:
        why = remote.plugin.masked(describe(error))
        _log.warning("ally_stop of %r failed: %s", remote.plugin.name, why)
