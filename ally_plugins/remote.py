"""A plugin in a process of its own, from its record to a running daemon: what it is told, and what it offers.

The transport `stdio`; how a daemon that listens on a socket is spoken with is in `legacy`. Starting, watching and
ending the process is the supervisor's.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import define, field

from .calls import DaemonCalls
from .daemons import Daemon
from .errors import PluginError, RefusedError, RemoteError, UndeclaredError, VersionError
from .hookspecs import HOOKS
from .manifest import HOST_API, manifest_line
from .policy.permissions import Grant, GrantSet
from .records import PluginRecord
from .remote_hooks import remote_implementations, remote_observers
from .runtime.bridge import DaemonLane
from .runtime.environment import child_environment
from .runtime.links import DaemonGone, Link, RemoteCrash
from .runtime.loading import check_declared
from .runtime.observers import Observers
from .runtime.peer import Peer
from .runtime.plugin import DEADLINES, Plugin, describe
from .runtime.process import Launcher, Process, ProcessSpec
from .runtime.supervisor import StartFailed
from .settings import Secret
from .wire.codes import UNSUPPORTED_PROTOCOL
from .wire.handshake import PROTOCOL, PROTOCOLS, check_protocol
from .wire.host_params import HostInfo, InitializeParams, InitializeResult
from .wire.limits import DEFAULT_LIMITS
from .wire.methods import read_initialize_result, write_params

if TYPE_CHECKING:
    from .activations import SessionActivations
    from .bus import PluginMessageBus
    from .home import Home
    from .legacy.plugin import LegacyPlugin
    from .legacy.talkback import TalkBackServer
    from .runtime.anylane import AnyLane
    from .runtime.stderrlog import StderrLog  # noqa: TC004 - nobody reads this annotation at run time

__all__ = ["Offers", "Remote", "RemoteSide", "StdioOpener", "new_remote"]

_log: Final = logging.getLogger(__name__)

LAST_LINES: Final = 3
LAST_CHARS: Final = 300
"""Of its stderr in the reason why a daemon ended; the log has the rest."""

WIND_UP: Final = 1.0
"""Seconds beyond the deadline of `ally_stop` that a daemon has to end its tasks and acknowledge what it has done."""

_PROTOCOL_HINT: Final = "stdout is the protocol's own: what is for people goes to stderr"


class RemoteSide(Protocol):
    """What daemons need of the host that they belong to."""

    app: str

    activations: SessionActivations
    home: Home | None
    """The host's, None when it keeps nothing on disk."""

    @property
    def launcher(self) -> Launcher:
        """Who starts processes."""
        ...

    async def talk_back(self) -> TalkBackServer:
        """Return the host's own socket, which is made when it is first needed."""
        ...

    def forget_talk_back(self, plugin: str) -> None:
        """Take back the token of a process that has ended."""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The names that `supports` says yes to."""
        ...

    def working_dir(self) -> str:
        """Where a daemon works that names no folder."""
        ...

    def session_ids(self) -> tuple[str, ...]:
        """Return the ids of the open sessions."""
        ...

    def data_dir_of(self, plugin: str) -> str | None:
        """Return the plugin's own directory, None for a host without a home."""
        ...

    def stderr_log(self, plugin: str) -> StderrLog:
        """Where the plugin's stderr goes."""
        ...

    async def feed(self, plugin: Plugin, lane: AnyLane, types: Iterable[str]) -> None:
        """Give a plugin its durable events from the journal."""

    async def feed_no_more(self, plugin: Plugin) -> None:
        """End the durable subscription of a plugin."""

    def is_readable(self, plugin: str) -> None:
        """Say that a daemon is ready for its durable events, or reads again."""

    def is_gone(self, plugin: str) -> None:
        """Say that the process of a daemon is gone."""

    async def acknowledge(self, plugin: str, offset: str) -> None:
        """Take a daemon's word that it has done everything of its durable subscription up to an offset."""

    def replan(self) -> None:
        """Compute the order of hooks anew, after a daemon's have become known."""


@define(eq=False)
class Remote:
    """One daemon's plugin, its lane, and who answers its calls. It lives as long as the plugin."""

    plugin: Plugin
    record: PluginRecord
    daemon: Daemon | None
    """None for a plugin of Code-Ally's that has only programs, run once for each call."""
    is_declared: bool
    side: RemoteSide
    lane: DaemonLane
    calls: DaemonCalls
    log: StderrLog
    offers: Offers = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.offers = Offers(self)

    @property
    def legacy(self) -> LegacyPlugin | None:
        """What its `plugin.json` says, for a plugin of Code-Ally's."""
        found = self.record.found
        return found.legacy if found is not None else None

    def told(self) -> dict[str, Any]:
        """Return what a daemon is told when it is greeted."""
        plugin = self.plugin
        return write_params(
            InitializeParams(
                protocol=PROTOCOL,
                protocols=PROTOCOLS,
                plugin=plugin.name,
                host=HostInfo(name=self.side.app, version=_version(), api=HOST_API),
                capabilities=self.side.capabilities,
                grants=plugin.grants.texts(),
                settings=dict(self.record.settings),
                secrets=tuple(name for name, value in self.record.settings.items() if isinstance(value, Secret)),
                sessions=self.side.session_ids(),
                data_dir=self.side.data_dir_of(plugin.name),
                deadlines={**DEADLINES, **plugin.options.deadlines},
                limits={"frame_bytes": DEFAULT_LIMITS.frame_bytes},
            )
        )

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the variables of its process: the allowed ones, those granted, and those set for it."""
        return child_environment(
            os.environ, self.record.variables, {**(self.daemon.env if self.daemon is not None else {}), **(more or {})}
        )

    def observe(self) -> None:
        """Let the lane carry what the daemon wants of what it is granted now."""
        found = remote_observers(self.plugin.implementations, self.offers.wanted, self.plugin.grants.receives)
        self.lane.observers = lively(found, self.record)

    def can_read(self) -> None:
        """Say that the daemon is ready, or reads again."""
        self.lane.wake()
        self.side.is_readable(self.plugin.name)

    def is_gone(self) -> None:
        """Say that the daemon's process is gone."""
        self.side.is_gone(self.plugin.name)


@define(eq=False)
class Offers:
    """What a daemon offers, taken on when it is greeted; the same after a restart stays as it is."""

    remote: Remote
    wanted: tuple[str, ...] | None = None
    _tools: dict[tuple[str, str], Any] = field(factory=dict)

    async def take(self, hello: InitializeResult) -> None:
        """Check what a daemon says against its manifest, and take it on. Raises PluginError."""
        remote = self.remote
        plugin = remote.plugin
        if hello.name is not None and hello.name != plugin.name:
            _log.warning("the daemon %r calls itself %r; it goes on as %r", plugin.name, hello.name[:80], plugin.name)
        implementations = remote_implementations(plugin.name, hello.hooks)
        if remote.is_declared:
            for hook in implementations:
                check_declared(plugin.name, HOOKS[hook], remote.record.manifest)
            for kind, offered in (("tool", hello.tools), ("action", hello.actions)):
                _check_offer(remote, kind, bool(offered))
        plugin.implementations = implementations
        plugin.instance = remote.daemon
        plugin.version = hello.version or plugin.version
        self.wanted = hello.events
        remote.observe()
        remote.side.replan()
        await self._take_tools(hello)

    async def _take_tools(self, hello: InitializeResult) -> None:
        offered = {("tool", offer.name): offer for offer in hello.tools}
        offered |= {("action", offer.name): offer for offer in hello.actions}
        for (kind, name), old in list(self._tools.items()):
            if offered.get((kind, name)) != old:
                del self._tools[kind, name]
                await self.remote.calls.unregister(name)
        for (kind, name), offer in offered.items():
            if (kind, name) not in self._tools and await self.remote.calls.offer(kind, offer):
                self._tools[kind, name] = offer

    def forget(self) -> None:
        """Forget what was offered: the plugin was stopped, and its tools are gone."""
        self._tools.clear()


def _check_offer(remote: Remote, kind: str, has_any: bool) -> None:  # noqa: FBT001
    permission = f"{kind}s"
    if has_any and not GrantSet(remote.record.manifest.grants).may(permission):
        line = manifest_line(Grant(permission))
        text = f"plugin {remote.plugin.name!r} offers a {kind}, which its manifest does not declare; add: {line}"
        raise UndeclaredError(text, plugin=remote.plugin.name, line=line)


@define(eq=False)
class StdioOpener:
    """Starts a daemon that speaks over its stdin and stdout; see `supervisor.Opener`."""

    remote: Remote
    daemon: Daemon
    _peer: Peer | None = field(init=False, default=None)
    _lost: Callable[[str], None] = field(init=False, default=lambda _: None)

    async def launch(self) -> Process:
        """Start the process."""
        remote = self.remote
        await begin(remote)
        peer = self._peer = make_peer(remote, self._is_lost)
        spec = ProcessSpec(
            name=remote.plugin.name,
            argv=self.daemon.command,
            cwd=self.daemon.cwd or remote.side.working_dir(),
            env=remote.environment(),
            limits=self.daemon.limits,
        )
        return await remote.side.launcher.launch(spec, lambda: peer, remote.log.write)

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

    async def say_goodbye(self, link: Link, reason: str) -> None:
        """Send `shutdown`, and wait for its answer within the deadline of `ally_stop`."""
        await say_goodbye(self.remote, link, reason)

    def ended(self) -> None:
        """Do nothing: the connection was all there was."""

    def last_words(self) -> str:
        """Return the end of what it wrote to stderr."""
        return last_words(self.remote)


async def begin(remote: Remote) -> None:
    """Make ready for a new process: its files must be those that were agreed to. Raises StartFailed."""
    remote.log.end()
    remote.log.forget_tail()
    problem = await asyncio.to_thread(remote.record.files_problem)  # it reads them all
    if problem:
        raise StartFailed(problem, is_final=True)


def make_peer(remote: Remote, lost: Callable[[str], None]) -> Peer:
    """Return a fresh connection for a daemon."""
    calls = remote.calls
    calls.is_open = False
    peer = Peer(
        remote.plugin.name, DEFAULT_LIMITS, on_request=calls.on_request, on_notice=calls.on_notice, on_lost=lost
    )
    peer.on_writable = remote.can_read  # type: ignore[method-assign]
    return peer


async def greet(remote: Remote, peer: Peer) -> None:
    """Say `initialize` and take the answer. Raises StartFailed, each kind of failure with a sentence of its own."""
    try:
        answer = await peer.request("initialize", remote.told())
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


def last_words(remote: Remote) -> str:
    """Return the end of what a daemon wrote to stderr, as one line; empty when that is nothing."""
    lines = [line.strip() for line in remote.log.tail if line.strip(" ^~")]  # Python marks places below its lines
    return remote.plugin.masked(" / ".join(lines[-LAST_LINES:]))[-LAST_CHARS:]  # half a secret would not be found


def _tail(remote: Remote) -> str:
    words = last_words(remote)
    return f", stderr ends: {words}" if words else ""


def _no_protocol(peer: Peer) -> str | None:
    """Return in words that it said something, and that this was no protocol."""
    if not peer.is_nonsense:
        return None
    said = peer.first_words.split(b"\n")[0][:80].decode("utf-8", "replace")
    return f"spoke no protocol: its first line was {said!r}, expected an answer to `initialize`; {_PROTOCOL_HINT}"


async def welcome(remote: Remote, peer: Peer) -> None:
    """Take on what the daemon has answered, and let it start. Raises StartFailed."""
    hello: InitializeResult = peer.hello
    plugin = remote.plugin
    remote.calls.is_open = True
    peer.go_on()
    try:
        await remote.offers.take(hello)
        if "ally_start" in plugin.implementations:
            limit = plugin.deadline("ally_start", "start")
            try:
                async with asyncio.timeout(limit):
                    await peer.request("start", {})
            except TimeoutError:
                raise StartFailed(f"ally_start did not return within {limit:g} s") from None
    except StartFailed:
        raise
    except DaemonGone as error:
        raise StartFailed(str(error)) from None
    except RefusedError as error:
        raise StartFailed(f"it could not start: {error}", is_final=True) from None
    except RemoteCrash as error:
        raise StartFailed(f"it could not start: {error}{_tail(remote)}", is_final=True) from None
    except PluginError as error:
        raise StartFailed(f"it could not start: {error}", is_final=True) from None
    except RemoteError as error:
        raise StartFailed(f"it could not start: {error}", is_final=True) from None


async def say_goodbye(remote: Remote, link: Link, reason: str) -> None:
    """Send `shutdown`, and wait for its answer within the deadline of `ally_stop`; what goes wrong is logged."""
    remote.lane.is_ready = False
    limit = remote.plugin.deadline("ally_stop", "stop") + WIND_UP
    try:
        async with asyncio.timeout(limit):
            await link.request("shutdown", {"reason": reason})
    except TimeoutError:
        _log.warning("%r did not answer `shutdown` within %g s", remote.plugin.name, limit)
    except (RemoteCrash, RemoteError, RefusedError) as error:
        why = remote.plugin.masked(describe(error))
        _log.warning("ally_stop of %r failed: %s", remote.plugin.name, why)


def _version() -> str:
    from . import __version__

    return __version__


def new_remote(
    plugin: Plugin, record: PluginRecord, bus: PluginMessageBus, side: RemoteSide, *, is_declared: bool
) -> Remote:
    """Return what a plugin needs to run outside; nothing of it runs yet."""
    lane = DaemonLane(plugin.name, Observers(types=frozenset()))
    found = record.found
    if found is not None and found.legacy is not None:
        side.activations.add(plugin.name, found.legacy.activation)
        lane.was_active = partial(side.activations.was_active, plugin.name)
    calls = DaemonCalls(plugin, bus, lane, side.acknowledge)
    log = side.stderr_log(plugin.name)
    return Remote(plugin, record, record.daemon, is_declared, side, lane, calls, log)


def lively(observers: Observers, record: PluginRecord) -> Observers:
    """Return what a lane carries itself: without the durable types, which come from the journal."""
    if not record.durable:
        return observers
    from .durable import without_durable

    return without_durable(observers, record.durable)
