"""A host's side of plugins that workers run: one connection to the server, the question for a worker, and links to it.

`host.daemons` makes it where a plugin is placed `shared`. Whatever is wrong with a link ends it, and its plugin's gates
are closed until there is another one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import attrs
import orjson

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import ConfigError, ProtocolError
from ally_plugins.host.daemons.stdio import StdioOpener, new_link
from ally_plugins.host.daemons.stream_link import StreamLink
from ally_plugins.host.daemons.supervisor import OtherProtocol, StartFailed
from ally_plugins.runtime.lanes.plugin import RunState
from ally_plugins.runtime.processes.process import NO_PID, Exit, Process

from .connection import FleetError, connected, raise_if_cancelled
from .credentials import from_host, hello_subject, read_credentials, to_host
from .link_transport import LinkTransport
from .proofs import Proof
from .publishing import chunk_of, publish_now

if TYPE_CHECKING:
    from pathlib import Path

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from ally_plugins.contract.process_spec import Daemon
    from ally_plugins.host.daemons.remote_plugin import RemotePlugin

    from .credentials import Credentials

__all__ = ["BEAT_S", "SharedPlugins"]

BEAT_S: Final = 0.5
"""Seconds between questions to a worker whether it is there: how long a call waits for one that was killed."""

BEATS_MISSED: Final = 6
"""Questions without an answer after which a worker is taken for gone: it hangs, or is cut off."""

QUIET_S: Final = 0.05
"""Seconds after which a message asks the server whether anybody takes it, since nothing has come meanwhile."""

MOST_EARLY: Final = 4
"""Messages that are kept of a link that is not made yet: before `initialize` it has nothing to say but its end."""

# Seconds that a worker has for its answer. One that was cut off is asked until the server has noticed, and each time
# in vain; a link that it makes too late is never used, and ends there by itself.
_HELLO_S: Final = 2.0
_PAUSES: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between questions while nobody answers


class SharedPlugins:
    """Links of one host to workers; it lives from the first plugin that is shared to the host's stop.

    `file` says who the host is to the server; it is read when the first link is opened.
    """

    def __init__(self, file: Path | None) -> None:
        self._file: Final = file
        self._who: Credentials | None = None
        self._id: Final = secrets.token_hex(8)  # of this host: another one may have the same credentials
        self._breaks = 0
        self._client: Client | None = None
        self._closing: Final = AsyncExitStack()
        self._connecting: Final = asyncio.Lock()
        self._workers: Final[dict[tuple[str, str], _Worker]] = {}
        self._links: Final[dict[str, LinkTransport]] = {}
        self._early: Final[dict[str, list[bytes]]] = {}
        """For each question under way what has come over its link already: it may have ended before it is made here."""

    @property
    def who(self) -> Credentials:
        """Who this host is to the server; known once it has been connected."""
        assert self._who is not None  # noqa: S101 - by whoever has a link
        return self._who

    def opener(self, remote: RemotePlugin, daemon: Daemon) -> SharedOpener:
        """Return what opens links for a plugin."""
        return SharedOpener(remote, daemon, plugins=self)

    async def close(self) -> None:
        """End all links and the connection. Cancelling leaves the connection to the end of the loop."""
        self._lose_all("the host stops")
        await self._closing.aclose()

    @property
    def peer(self) -> str:
        """What this connection is to workers: another one after each break, since links of the one before are gone."""
        return f"{self._id}x{self._breaks}"

    # --- links ---

    async def open(self, plugin: str, digest: str, link: StreamLink) -> SharedProcess:
        """Ask for a worker, check who has answered, and connect a link to it.

        Raises Nobody where there is no server, no worker or none who may, StartFailed without an authority, ConfigError
        for credentials that are none. Cancelling leaves a worker with a link that it soon ends.
        """
        client = await self._connected()
        authority = self.who.authority
        if authority is None:
            text = "fleet.toml has no authority that workers are certified by; `ally-plugins fleet init` writes one"
            raise StartFailed(text, is_final=True)
        nonce = secrets.token_hex(16)
        early: list[bytes] = []
        self._early[nonce] = early
        try:
            proof = await self._ask(client, plugin, digest, nonce)
        finally:
            del self._early[nonce]
        try:
            worker = proof.check(authority, nonce=nonce, host=self.who.name, plugin=plugin, digest=digest).worker
        except ProtocolError as error:
            raise Nobody(f"its answer is refused: {error}") from error
        watch = self._workers.get((worker, proof.instance))
        if watch is None:
            watch = self._workers[worker, proof.instance] = _Worker(self, client, worker, proof.instance)
        process = SharedProcess(worker)

        def closed(reason: str) -> None:
            link.lose(reason)  # before its connection is: that would know no reason
            self._closed(watch, nonce, process, reason)

        transport = LinkTransport(link, watch.sender(nonce), closed, chunk_of(client))
        process.attach(link, transport, None)
        self._links[nonce] = watch.links[nonce] = transport
        for frame in early:
            transport.receive(frame)
        return process

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None:
                if self._file is None:
                    text = "what is placed shared needs credentials: a home with a fleet.toml, or Host(fleet=FILE)"
                    raise ConfigError(text)
                self._who = await asyncio.to_thread(read_credentials, self._file)
                try:
                    client = await self._closing.enter_async_context(connected(self.who, self._broken))
                except FleetError as error:
                    raise Nobody(str(error)) from error
                await client.subscribe(to_host("*", self.who.name, "*"), cb=self._receive)
                await client.subscribe(f"{self.who.inbox}.gone.{self._id}.*", cb=self._nobody)
                raise_if_cancelled()
                self._client = client
        if not self._client.is_connected:
            raise Nobody(f"the server {self.who.server!r} is away")
        return self._client

    async def _ask(self, client: Client, plugin: str, digest: str, nonce: str) -> Proof:
        from nats.errors import Error, NoRespondersError

        peer = self.peer
        question = orjson.dumps({"nonce": nonce, "peer": peer})
        try:
            answer = await client.request(hello_subject(plugin, digest, self.who.name), question, timeout=_HELLO_S)
        except NoRespondersError:
            raise Nobody(f"no worker serves it with the files that were agreed to ({digest[:12]}...)") from None
        except (Error, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise Nobody(f"no worker has answered within {_HELLO_S:g} s: {reason}") from error
        finally:
            raise_if_cancelled()
        if self.peer != peer:
            raise Nobody("the connection to the server broke")
        try:
            value = orjson.loads(answer.data)
            if isinstance(value, dict) and isinstance(problem := value.get("problem"), str):
                raise Nobody(f"a worker cannot serve it now: {problem[:200]}")
            return Proof.read(value)
        except (orjson.JSONDecodeError, ProtocolError) as error:
            raise Nobody(f"what has answered is no worker: {error}") from error

    def _closed(self, watch: _Worker, nonce: str, process: SharedProcess, reason: str) -> None:
        self._links.pop(nonce, None)
        transport = watch.links.pop(nonce, None)
        # Its own word that its process has ended is a crash of the plugin's; all else is no fault of what runs there.
        process.is_away = transport is None or transport.is_lost
        process.note_end(reason)
        if not watch.links:
            watch.close()
            self._workers.pop((watch.name, watch.instance), None)

    def _lose_all(self, reason: str) -> None:
        for transport in [*self._links.values()]:
            transport.lose(reason)

    # --- from the server ---

    def _broken(self) -> None:
        # Messages may have been lost: what was asked is asked anew, over new links.
        self._lose_all("the connection to the server broke")
        self._breaks += 1

    async def _receive(self, message: Msg) -> None:
        _, _, worker, _, link = message.subject.split(".")
        known = [each for each in self._workers.values() if each.name == worker]
        if (early := self._early.get(link)) is not None:
            # Nobody else knows the number. One message more than are kept breaks the link, as one that was lost does.
            if len(early) < MOST_EARLY:
                early.append(message.data)
        elif (transport := self._links.get(link)) is not None:
            for watch in known:
                # That the name in the subject is the worker's, the server has seen to.
                if watch.links.get(link) is transport:
                    watch.heard()
                    transport.receive(message.data)
        elif link == f"beat-{self.peer}":
            instance = message.data.decode("ascii", "replace")
            for watch in known:
                if watch.instance == instance:
                    watch.heard()
                else:
                    watch.lose("the worker has started anew")

    async def _nobody(self, message: Msg) -> None:
        """Take the server's word that nobody takes a message: the worker is gone."""
        name = message.subject.rpartition(".")[2]
        for watch in [each for each in self._workers.values() if each.name == name]:
            watch.lose(f"the worker {name!r} is gone")


class _Worker:
    """What a host knows of one worker that it has links to."""

    def __init__(self, plugins: SharedPlugins, client: Client, name: str, instance: str) -> None:
        self.name: Final = name
        self.instance: Final = instance
        self.links: Final[dict[str, LinkTransport]] = {}
        self._plugins: Final = plugins
        self._client: Final = client
        self._loop: Final = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._missed = 0
        who = plugins.who
        self._gone: Final = f"{who.inbox}.gone.{plugins._id}.{name}"  # noqa: SLF001 - a part of it
        self._beats: Final = from_host(name, who.name, f"beat-{plugins.peer}")
        self._task: Final = asyncio.create_task(self._beat(), name=f"ally-worker-{name}")

    def sender(self, link: str) -> Callable[[bytes], bool]:
        """Return what sends a message over a link."""
        subject = from_host(self.name, self._plugins.who.name, link)

        def send(frame: bytes) -> bool:
            # The server says at once when nobody takes it, where it is asked; and need not be in a busy exchange.
            is_quiet = self._loop.time() - self._heard_at > QUIET_S
            return publish_now(self._client, subject, frame, self._gone if is_quiet else "")

        return send

    def heard(self) -> None:
        """Note that it is there."""
        self._heard_at = self._loop.time()
        self._missed = 0

    def lose(self, reason: str) -> None:
        """End all links to it."""
        for transport in [*self.links.values()]:
            transport.lose(reason)

    def close(self) -> None:
        """Stop asking."""
        self._task.cancel()

    async def _beat(self) -> None:
        while True:
            publish_now(self._client, self._beats, b"", self._gone)
            await asyncio.sleep(BEAT_S)
            # Counted, not timed: a loop that stood still has let nothing be heard either.
            self._missed += 1
            if self._missed >= BEATS_MISSED:
                self.lose(f"the worker {self.name!r} does not answer")


class Nobody(StartFailed):
    """Nobody who may runs the plugin now; that is no fault of the plugin's, and may be over soon."""

    def __init__(self, message: str) -> None:
        super().__init__(message, is_away=True)


@attrs.frozen
class LinkEnd(Exit):
    """How a link ended, in the place of a process."""

    reason: str = ""

    @property
    @override
    def description(self) -> str:
        """What a person reads."""
        return self.reason


class SharedProcess(Process):
    """A link to a worker, to the supervisor: a process elsewhere, which ends with the link."""

    def __init__(self, worker: str) -> None:
        super().__init__(NO_PID)
        self.worker: Final = worker

    def note_end(self, reason: str) -> None:
        """Note that the link has ended."""
        self.note_exit(LinkEnd(None, None, reason))
        self.note_gone()

    @override
    def _end(self, grace: float) -> None:  # noqa: ARG002 - the worker's process goes on for others
        if self.transport is not None:
            self.transport.abort()

    @override
    def _close_input(self) -> None:
        """Do nothing: a link has no half that could be closed."""


@attrs.define(eq=False)
class SharedOpener(StdioOpener):
    """Opens links to workers, for one plugin; see `supervisor.Opener`."""

    plugins: SharedPlugins = attrs.field(kw_only=True)
    _has_settled: bool = attrs.field(init=False, default=False)
    """Whether the host has had its answer of this plugin's start, and need not wait."""

    @override
    async def launch(self) -> Process:
        """Find a worker, and return the link to it. Raises StartFailed; the first time too where there is nobody.

        From then on it waits until there is somebody: a server or worker that is away is no crash of the plugin's.
        """
        plugin = self.remote.plugin
        digest = self._digest()
        tries = 0
        while True:
            self._link = new_link(self.remote, self._is_lost)
            try:
                return await self.plugins.open(plugin.name, digest, self._link)
            except Nobody as error:
                if not self._has_settled:
                    self._has_settled = True
                    raise
                plugin.set_state(RunState.BACKOFF, str(error))
            except ConfigError as error:
                raise StartFailed(str(error), is_final=True) from error
            await asyncio.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
            tries += 1

    def _digest(self) -> str:
        """Return the digest of the files that were agreed to. Raises StartFailed where nobody has."""
        agreement = self.remote.record.agreement
        if agreement is None or not agreement.files:
            text = "nothing says which files of it were agreed to, and a worker proves which it runs"
            raise StartFailed(f"{text}; agree to it: ally-plugins enable {self.remote.plugin.name}", is_final=True)
        return agreement.files

    @override
    async def handshake(self, process: Process, lost: Callable[[str], None]) -> Any:
        """As for a process; what is lost with the link is known at once, and another worker may speak our protocol."""
        plugin = self.remote.plugin
        if plugin.state == RunState.BACKOFF:
            plugin.set_state(RunState.STARTING, "")
        try:
            link = await super().handshake(process, lost)
        except OtherProtocol as error:
            # Another worker may speak ours: they are brought to a new version one after the other.
            assert isinstance(process, SharedProcess)  # noqa: S101 - from `launch`
            raise Nobody(f"the worker {process.worker!r} {error}") from error
        self._has_settled = True
        assert isinstance(link, StreamLink)  # noqa: S101 - ours
        link.reason_follows = False
        return link
