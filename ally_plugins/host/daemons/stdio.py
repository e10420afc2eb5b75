"""Daemons that speak over their stdin and stdout: launch, `initialize`, `start`, `shutdown`.

The transport of most daemons. `prepare`, `new_link` and `stderr_tail` serve the other transport too.
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
from ally_plugins.runtime.processes.process import Process, ProcessSpec
from ally_plugins.runtime.processes.stderr_reason import reason_lines
from ally_plugins.wire.codes import UNSUPPORTED_PROTOCOL
from ally_plugins.wire.handshake import PROTOCOLS, check_protocol
from ally_plugins.wire.limits import DEFAULT_LIMITS
from ally_plugins.wire.methods import read_initialize_result

from .boxes import box_for
from .calls import REQUESTS
from .refusals import refusal_note, way_to
from .stream_link import FIRST_BYTES, StreamLink
from .supervisor import OtherProtocol, StartFailed

if TYPE_CHECKING:
    from ally_plugins.runtime.lanes.plugin import Plugin
    from ally_plugins.wire.host_params import InitializeResult

from .remote_plugin import RemotePlugin

__all__ = ["StdioOpener", "new_link", "prepare", "stderr_tail"]

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
    _link: StreamLink | None = field(init=False, default=None)
    _lost: Callable[[str], None] = field(init=False, default=lambda _: None)

    async def launch(self) -> Process:
        """Start the process. Raises StartFailed, CannotExecute.

        Cancelling is the launcher's to handle; the check of the files before runs on in its thread.
        """
        remote = self.remote
        daemon = await prepare(remote, self.daemon)
        link = self._link = new_link(remote, self._is_lost)
        env = remote.environment(daemon.env)
        box = await asyncio.to_thread(
            box_for, remote.record, remote.services, daemon.command, daemon.cwd, env, remote.project
        )
        spec = ProcessSpec(
            name=remote.plugin.name,
            argv=daemon.command,
            cwd=daemon.cwd or (box.home if box is not None else remote.services.working_dir()),
            env=env,
            limits=daemon.limits,
            box=box,
            fork=daemon.fork,
        )
        return await remote.services.launcher.launch(spec, lambda: link, remote.log.write)

    def _is_lost(self, reason: str) -> None:
        self._lost(reason)

    async def handshake(self, process: Process, lost: Callable[[str], None]) -> Link:
        """Send `initialize`, and keep the answer for `accept_offers`. Raises StartFailed."""
        del process
        assert self._link is not None  # noqa: S101 - launched just now
        self._lost = lost
        await handshake(self.remote, self._link)
        try:
            self.remote.offers.check(self._link.initialize_result)
        except PluginError as error:
            raise _start_failed(error) from None
        # From here on the supervisor closes the link, with the exit code as the reason where there is one.
        self._link.reason_follows = True
        return self._link

    async def accept_offers(self, link: Link) -> None:
        """Use what the daemon has answered, and let it start. Raises StartFailed."""
        assert isinstance(link, StreamLink)  # noqa: S101 - from `handshake`
        await accept_offers(self.remote, link)

    async def ping(self, link: Link) -> None:
        """Return when it answers a `ping`, with a result or an error."""
        try:
            await link.request("ping", {})
        # An error is an answer too, as of a daemon that knows no `ping`.
        except RemoteError:
            return

    def has_read(self, link: Link) -> bool:
        """Say whether it has read since the last call."""
        return isinstance(link, StreamLink) and link.has_read()

    async def request_shutdown(self, link: Link, reason: str) -> None:
        """Send `shutdown`, and wait for its answer within the deadline of `ally_stop`."""
        await request_shutdown(self.remote, link, reason)

    def release(self) -> None:
        """Do nothing: the connection was all there was."""

    def stderr_tail(self) -> str:
        """Return the end of what it wrote to stderr."""
        return stderr_tail(self.remote)


async def prepare(remote: RemotePlugin, daemon: Daemon) -> Daemon:
    """Check that the code is what the operator agreed to, and return how its process is started.

    Raises StartFailed. Cancelling does not interrupt the check, which runs in a thread.
    """
    # What the process before wrote is no reason why this one fails.
    remote.log.end()
    remote.log.forget_tail()
    problem = await asyncio.to_thread(remote.record.make_ready)  # it reads and hashes files
    if problem:
        raise StartFailed(problem, is_final=True)
    if remote.bridged is None:
        return daemon
    try:
        return remote.bridged.process(daemon)
    except PluginError as error:
        raise StartFailed(str(error), is_final=True) from None


def new_link(remote: RemotePlugin, lost: Callable[[str], None]) -> StreamLink:
    """Return a fresh connection for a daemon."""
    calls = remote.calls
    link = StreamLink(
        remote.plugin.name,
        DEFAULT_LIMITS,
        methods=REQUESTS,
        on_request=calls.on_request,
        on_notice=calls.on_notice,
        on_lost=lost,
        way_to=lambda grant: way_to(remote.record, grant),
        tap=remote.plugin.wire,
    )
    link.on_writable = remote.notify_readable  # type: ignore[method-assign]
    return link


async def handshake(remote: RemotePlugin, link: StreamLink) -> None:
    """Send `initialize` and read the answer. Raises StartFailed, each kind of failure with a sentence of its own.

    Cancelling sends `$/cancel`; the process is ended by the caller.
    """
    try:
        answer = await link.request("initialize", remote.initialize_params())
        result = read_initialize_result(answer, remote.plugin.name)
        check_protocol(result.protocol)
    except DaemonGone as error:
        if (problem := _describe_nonsense(remote.plugin, link)) is not None:
            raise StartFailed(problem, is_final=True) from None
        raise StartFailed(str(error)) from None
    # Final, as are most below: after a restart it would answer the same.
    except VersionError as error:
        raise OtherProtocol(f"speaks another version of the protocol: {error}", is_final=True) from None
    except RemoteError as error:
        if error.code == UNSUPPORTED_PROTOCOL:
            text = f"speaks another version of the protocol: this host speaks {PROTOCOLS[0]!r}, it said: {error}"
            raise OtherProtocol(text, is_final=True) from None
        raise StartFailed(f"answered `initialize` with an error: {error}", is_final=True) from None
    except RemoteCrash as error:
        text = f"could not be built: {error}{_stderr_suffix(remote)}"
        raise StartFailed(text, is_final=True) from None
    except PluginError as error:
        raise StartFailed(str(error), is_final=True) from None
    # It speaks the protocol: a stray print() of the plugin's code must not end it from here on.
    link.is_strict = False
    link.initialize_result = result


def stderr_tail(remote: RemotePlugin) -> str:
    """Return the end of what a daemon wrote to stderr, as one line; empty when that is nothing."""
    tail = " / ".join(reason_lines(remote.log.tail, LAST_LINES))[-LAST_CHARS:]
    return f"{tail}{refusal_note(remote.record, tail)}"


def _stderr_suffix(remote: RemotePlugin) -> str:
    tail = stderr_tail(remote)
    return f", stderr ends: {tail}" if tail else ""


def _describe_nonsense(plugin: Plugin, link: StreamLink) -> str | None:
    """Return a sentence with its first line when its output was not the protocol, else None."""
    if not link.is_nonsense:
        return None
    begun = link.first_bytes.decode("utf-8", "replace")
    line = plugin.secrets.masked(begun, is_cut=len(link.first_bytes) >= FIRST_BYTES).partition("\n")[0][:80]
    return f"spoke no protocol: its first line was {line!r}, expected an answer to `initialize`; {_PROTOCOL_HINT}"


async def accept_offers(remote: RemotePlugin, link: StreamLink) -> None:
    """Accept what the daemon offers, and send `start` where it has `ally_start`. Raises StartFailed.

    Cancelling leaves the start to fail with the process, which the caller ends.
    """
    result: InitializeResult = link.initialize_result
    plugin = remote.plugin
    # First: calls that were sent behind the answer wait, and `ally_start` makes calls.
    link.is_initialized = True
    link.resume()
    try:
        await remote.offers.accept(result)
        if "ally_start" in plugin.implementations:
            limit = plugin.deadline("ally_start", "start")
            try:
                async with asyncio.timeout(limit):
                    await link.request("start", {})
            except (TimeoutError, TimedOut):  # by whichever clock runs out first, the host's or the daemon's
                raise StartFailed(f"ally_start did not return within {limit:g} s") from None
    except StartFailed:
        raise
    except (DaemonGone, TimedOut) as error:  # the daemon's clock may run out before the host's own
        raise StartFailed(str(error)) from None
    except RemoteCrash as error:
        raise StartFailed(f"it could not start: {error}{_stderr_suffix(remote)}", is_final=True) from None
    except (PluginError, RemoteError) as error:
        raise _start_failed(error) from None


def _start_failed(error: Exception) -> StartFailed:
    return StartFailed(f"it could not start: {error}", is_final=True)


async def request_shutdown(remote: RemotePlugin, link: Link, reason: str) -> None:
    """Send `shutdown`, and wait for its answer within the deadline of `ally_stop`; what goes wrong is logged.

    Cancelling sends `$/cancel` for it.
    """
    # Nothing reads an event behind `shutdown`; the lane keeps those for the next process.
    remote.lane.is_ready = False
    limit = remote.plugin.deadline("ally_stop", "stop") + WIND_UP
    try:
        async with asyncio.timeout(limit):
            await link.request("shutdown", {"reason": reason})
    except TimeoutError:
        _log.warning("%r did not answer `shutdown` within %g s", remote.plugin.name, limit)
    except (RemoteCrash, RemoteError, RefusedError, TimedOut) as error:
        why = remote.plugin.describe(error)
        _log.warning("ally_stop of %r failed: %s", remote.plugin.name, why)
