"""Runs plugins once for many hosts: each in one process, in its sandbox, with a link for each host that has asked.

A worker is asked over the server in a group, so that several share the hosts between them. It decides nothing: what a
plugin may do is each host's, and stands at the other end of its link. One more instance gets the events of all homes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeGuard, cast

import attrs
import orjson

from ally_plugins.contract.process_spec import SDK_MODULE
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import CannotExecute, ConfigError
from ally_plugins.contract.values.inert import inert
from ally_plugins.contract.wording import describe
from ally_plugins.daemon.sharing import MAX_OPENING, Opening
from ally_plugins.host.daemons.boxes import box_for
from ally_plugins.policy.restart import Backoff
from ally_plugins.runtime.lanes.teardown import cancel_task
from ally_plugins.runtime.processes.environment import child_environment
from ally_plugins.runtime.processes.process import ProcessSpec

from .connection import connected, raise_if_cancelled
from .credentials import WORKERS, from_host, hello_subject, to_host
from .event_consumer import EventConsumer
from .event_instance import InstanceLost
from .frames import End, FrameStream, ends_stream
from .link_transport import LinkTransport
from .proofs import Certificate, Proof
from .publishing import chunk_of, publish_now

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from ally_plugins.catalog.decide.record import PluginRecord  # noqa: TC004 - nobody reads these annotations at run time
    from ally_plugins.host.daemons.boxes import Places
    from ally_plugins.runtime.processes.launcher import Launcher
    from ally_plugins.runtime.processes.process import Process
    from ally_plugins.runtime.processes.stderrlog import StderrLog

    from .credentials import Credentials

__all__ = ["HOST_SILENT_S", "MOST_LINKS", "Served", "Worker", "certificate_of", "served_by"]

_log: Final = logging.getLogger(__name__)

HOST_SILENT_S: Final = 10.0
"""Seconds without a word after which a host is gone: it asks twice a second whether its worker is there."""

MOST_LINKS: Final = 500
"""Links of one plugin's process: each has a descriptor there, of 1,024 in all, and an instance of the plugin."""

_LOOK_S: Final = 1.0  # between looks for hosts that are silent
_EXIT_DELAY_S: Final = 1.0  # that a process has to exit after it has closed a link, so that its exit is the reason
_MAX_HELLO: Final = 4096
_MAX_TOKEN: Final = 64


class WorkerPlaces(Protocol):
    """What a worker needs of its machine."""

    @property
    def launcher(self) -> Launcher:
        """What starts processes."""
        ...

    def stderr_log(self, plugin: str) -> StderrLog:
        """Return the log of a plugin's stderr."""
        ...


@attrs.frozen
class Served:
    """A plugin that a worker serves: what its operator has agreed to, and the digest of these files."""

    record: PluginRecord
    digest: str


def certificate_of(who: Credentials) -> str:
    """Return what says which plugins a worker may serve. Raises ConfigError for one that is no worker."""
    if who.certificate is None or not who.plugins:
        text = f"{who.name!r} is no worker: `ally-plugins fleet init --worker NAME=PLUGIN,...` makes one"
        raise ConfigError(text, path=who.name)
    return who.certificate


def served_by(record: PluginRecord) -> Served:
    """Return an installed plugin as one that can be served. Reads its files. Raises ConfigError where it cannot."""
    name = record.name
    if not record.is_enabled:
        text = f"{name!r} is {record.state} here: {record.reason}" if record.reason else f"{name!r} is {record.state}"
        raise ConfigError(f"{text}; agree to it on this machine first: ally-plugins enable {name}", path=name)
    daemon = record.daemon
    if record.placement not in {"sandbox", "process"} or daemon is None:
        where = f"ally-plugins place {name} sandbox"
        raise ConfigError(f"{name!r} is placed {record.placement} here, expected a process: {where}", path=name)
    if SDK_MODULE not in daemon.command:
        raise ConfigError(f"{name!r} ships a program and no class; a class alone can be shared", path=name)
    found = record.found
    if found is None or found.bridge is not None:
        raise ConfigError(f"{name!r} is no plugin with files of its own that a host could agree to", path=name)
    try:
        return Served(record, found.content_digest())
    except OSError as error:
        text = f"the files of {name!r} cannot be read: {error.strerror or error}"
        raise ConfigError(text, path=name) from error


class Worker:
    """One worker, from `serve` until that is cancelled."""

    def __init__(
        self,
        who: Credentials,
        plugins: Mapping[str, Served],
        places: Places,
        machine: WorkerPlaces,
        *,
        links_per_host: int = MOST_LINKS,
    ) -> None:
        self.who: Final = who
        self.links_per_host: Final = links_per_host
        self.certificate: Final = certificate_of(who)
        self.instance: Final = secrets.token_hex(8)
        self.places: Final = places
        self.machine: Final = machine
        self.links: Final[dict[tuple[str, str], _HostLink]] = {}
        self._served: Final = {name: _Plugin(self, name, served) for name, served in plugins.items()}
        self.consumers: Mapping[str, EventConsumer] = {}
        """What takes the events of all homes, by plugin; known while it serves."""
        self._seen: Final[dict[tuple[str, str], float]] = {}
        allowed = Certificate.read(self.certificate).plugins
        for name in plugins:
            if name not in allowed:
                text = f"{who.name!r} may not serve {name!r}; `fleet init` has named {', '.join(allowed) or 'nothing'}"
                raise ConfigError(f"{text}, name it there and copy the new file here", path=name)

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Serve in the block; every plugin's process has been started by its beginning, or the reason was logged.

        Raises FleetError when the server cannot be reached at the start.
        """
        async with connected(self.who, self._broken) as client:
            self.client: Client = client
            await client.subscribe(from_host(self.who.name, "*", "*"), cb=self._receive)
            tasks = [asyncio.create_task(each.run(), name=f"ally-{each.name}") for each in self._served.values()]
            tasks.append(asyncio.create_task(self._look(), name="ally-silent"))
            self.consumers = {
                each.name: EventConsumer(client, self.who, each.record, each.digest, each.open_events, each.end_process)
                for each in self._served.values()
                if each.record.durable
            }
            consuming = [
                asyncio.create_task(each.run(), name=f"ally-events-{name}") for name, each in self.consumers.items()
            ]
            try:
                for each in self._served.values():
                    await each.tried.wait()
                await client.flush()
                yield
            finally:
                for each in self._served.values():
                    await each.leave()
                for task in consuming:
                    await cancel_task(task)  # while there is a connection, to give back what they have before them
                self.end_links(lambda _: True, End("the worker stops", is_lost=True))
                with suppress(Exception):  # the server may be away
                    await client.flush(timeout=1)
                for task in tasks:
                    await cancel_task(task)

    def process_of(self, plugin: str) -> Process | None:
        """Return the process that runs a plugin now."""
        return self._served[plugin].process

    async def serve(self) -> None:
        """Serve until cancelled. Raises FleetError when the server cannot be reached at the start."""
        async with self.serving():
            await asyncio.get_running_loop().create_future()

    # --- from the server ---

    async def _receive(self, message: Msg) -> None:
        _, _, _, host, link = message.subject.split(".")
        if link.startswith("beat-"):
            self._seen[host, link.removeprefix("beat-")] = time.monotonic()
            publish_now(self.client, to_host(self.who.name, host, link), self.instance.encode())
            return
        found = self.links.get((host, link))
        if found is not None:
            found.is_used = True
            found.transport.receive(message.data)
        elif not ends_stream(message.data):
            # It has ended here. What said so was lost with this worker's connection, of which the host need not have
            # seen anything: it would wait for an answer to every call, and send the next one here all the same.
            end = FrameStream().end(End("the worker has no such link any more", is_lost=True))
            publish_now(self.client, to_host(self.who.name, host, link), end)

    def _broken(self) -> None:
        self.end_links(lambda _: True, End("the connection to the server broke", is_lost=True))

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            for who, seen in [*self._seen.items()]:
                if now - seen > HOST_SILENT_S:
                    del self._seen[who]
                    self.end_links(partial(_is_of, who), End("the host is silent", is_lost=True))
            # Its host has not waited for the answer, or has refused it: of this link it knows nothing.
            self.end_links(partial(_is_unused, now - HOST_SILENT_S), End("nothing was sent over it", is_lost=True))

    def end_links(self, which: Callable[[_HostLink], bool], end: End) -> None:
        """End some links."""
        for link in [each for each in self.links.values() if which(each)]:
            link.transport.end(end)

    def note_peer(self, host: str, peer: str) -> None:
        """Have a host that has asked count as seen."""
        self._seen[host, peer] = time.monotonic()


class _Plugin:
    """One plugin of a worker: its process, which is started again when it ends, and the questions for it."""

    def __init__(self, worker: Worker, name: str, served: Served) -> None:
        self.worker: Final = worker
        self.name: Final = name
        self.record: Final = served.record
        self.digest: Final = served.digest
        self.tried: Final = asyncio.Event()
        """Whether its process was started, or could not be."""
        self.process: Process | None = None
        self.is_up: Final = asyncio.Event()
        """Whether its process runs, and takes links."""
        self._control: socket.socket | None = None
        self._subscription: Subscription | None = None

    async def run(self) -> None:
        """Keep its process running until cancelled."""
        backoff = Backoff(random.random)
        while True:
            began = time.monotonic()
            try:
                reason, is_started = await self._run_once(), True
            except (CannotExecute, ConfigError, OSError) as error:
                reason, is_started = str(error), False
            delay = backoff.failed(time.monotonic() - began if is_started else 0.0) or 0.0
            _log.warning("%s: %s; it starts again in %.1f s", self.name, inert(reason), delay)
            self.tried.set()
            await asyncio.sleep(delay)

    async def _run_once(self) -> str:
        """Run one process from start to end, and return how it ended."""
        log = self.worker.machine.stderr_log(self.name)
        log.end()
        spec = await asyncio.to_thread(self._spec)
        process = await self.worker.machine.launcher.launch(spec, asyncio.Protocol, log.write)
        self.process = process
        try:
            assert process.transport is not None  # noqa: S101 - the spec has standard input
            ours = process.transport.get_extra_info("socket")
            self._control = socket.socket(fileno=os.dup(ours.fileno()))
            subject = hello_subject(self.name, self.digest, "*")
            self.is_up.set()
            # Only now: a worker that cannot answer must not be asked, since the others could.
            self._subscription = await self.worker.client.subscribe(subject, queue=WORKERS, cb=self._greet)
            self.tried.set()
            raise_if_cancelled()
            exit_ = await asyncio.shield(process.exited)
            return f"its process {exit_.description}"
        finally:
            # First, and without a turn of the loop: nobody is to be given a link to what has ended.
            control, self._control, self.process = self._control, None, None
            self.is_up.clear()
            if control is not None:
                control.close()
            reason = process.exited.result().description if process.exited.done() else "is stopped"
            self.worker.end_links(lambda link: link.plugin is self, End(f"its process {reason}"))
            await self.leave()
            await process.stop(self.record.daemon.timing.shutdown_grace if self.record.daemon is not None else 0.0)

    async def end_process(self) -> None:
        """End a process that hangs; it is started again, and hosts get new links."""
        if self.process is not None:
            await self.process.stop(0.0)

    async def leave(self) -> None:
        """Be asked no more."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with suppress(Exception):  # the connection may be closed
                await subscription.unsubscribe()

    def _spec(self) -> ProcessSpec:
        """Return what is started. Raises CannotExecute, also where its files are not those that were agreed to."""
        record, places = self.record, self.worker.places
        daemon = record.daemon
        assert daemon is not None  # noqa: S101 - see `served_by`
        command = (*daemon.command, "--shared")
        found = record.found
        problem = record.make_ready()
        if not problem and found is not None and found.content_digest() != self.digest:
            problem = "its files have changed since this worker has begun to serve them; start it again"
        if problem:
            raise CannotExecute(f"{self.name!r} is not started: {problem}", plugin=self.name, program=command[0])
        env = child_environment(os.environ, record.variables, daemon.env)
        box = box_for(record, places, daemon.command, daemon.cwd, env)
        home = places.data_dir_of(record.name)
        return ProcessSpec(
            name=self.name,
            argv=command,
            cwd=daemon.cwd or (box.home if box is not None else home or "/"),
            env=env,
            limits=daemon.limits,
            box=box,
            fork=daemon.fork,
        )

    # --- questions ---

    async def _greet(self, message: Msg) -> None:
        """Answer a host that asks for the plugin: with the proof of what runs here, or why there is no link."""
        host = message.subject.rpartition(".")[2]
        try:
            nonce, peer = _read_hello(message.data)
        except ValueError as error:
            return await message.respond(orjson.dumps({"problem": str(error)}))
        mine = [link.host for link in self.worker.links.values() if link.plugin is self]
        most = self.worker.links_per_host
        if (host, nonce) in self.worker.links:
            problem = "a link of that number is there already"
        elif mine.count(host) >= most:
            problem = f"{host!r} has {most} links to it, and one host may have no more (fleet serve --links-per-host)"
        elif len(mine) >= MOST_LINKS:
            problem = f"it has {len(mine)} links, and takes no more"
        else:
            problem = await self._open(host, peer, nonce)
            if not problem and (host, nonce) not in self.worker.links:
                problem = "its process has ended just now"
        if problem:
            return await message.respond(orjson.dumps({"problem": problem}))
        worker = self.worker
        proof = Proof(
            nonce, host, self.name, self.record.version, self.digest, worker.certificate, worker.instance
        )  # fmt: skip
        return await message.respond(proof.signed(worker.who.seed))

    async def _open(self, host: str, peer: str, nonce: str) -> str:
        """Hand the process one end of a new link; return why that was not possible, empty when it was."""
        try:
            ours, _ = await self._link(host, "hosts", host)
        except InstanceLost as error:
            return str(error)
        link = _HostLink(self, host, peer, nonce)
        self.worker.links[host, nonce] = link
        self.worker.note_peer(host, peer)
        await asyncio.get_running_loop().create_unix_connection(lambda: link.to_process, sock=ours)
        return ""

    async def open_events(self) -> tuple[socket.socket, str | None]:
        """Wait until its process runs; return a link to a new instance for the events of all homes, and its folder.

        Raises InstanceLost where it takes none.
        """
        await self.is_up.wait()
        return await self._link("all homes", "events")

    async def _link(self, name: str, *folder: str) -> tuple[socket.socket, str | None]:
        """Return one end of a new link to the process, and the data folder at the other. Raises InstanceLost."""
        control, process = self._control, self.process
        if control is None or process is None or process.exited.done():
            raise InstanceLost("its process is being started")
        try:
            data_dir = await asyncio.to_thread(self._data_dir, *folder)
            opening = Opening(name, data_dir).to_bytes()
            ours, theirs = socket.socketpair()
        except (OSError, ConfigError) as error:
            raise InstanceLost(f"no link can be made: {error}") from error
        with theirs:
            try:
                if len(opening) > MAX_OPENING:
                    raise OSError("its path is too long")  # noqa: TRY301 - as what the kernel refuses
                socket.send_fds(control, [opening], [theirs.fileno()])
            except OSError as error:  # it does not read: it hangs, or has ended
                ours.close()
                raise InstanceLost(f"its process takes no link: {error.strerror or error}") from error
        ours.setblocking(False)  # noqa: FBT003 - the socket's own
        return ours, data_dir

    def _data_dir(self, *parts: str) -> str | None:
        """Return a folder of an instance's own in the plugin's: instances of the plugin must not meet in one."""
        folder = self.worker.places.data_dir_of(self.name)
        if folder is None:
            return None
        own = Path(folder).joinpath(*parts)
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(own)


class _HostLink:
    """One host's link: what comes from the server goes to the process, and the other way round."""

    def __init__(self, plugin: _Plugin, host: str, peer: str, nonce: str) -> None:
        self.plugin: Final = plugin
        self.host: Final = host
        self.peer: Final = peer
        self.opened_at: Final = time.monotonic()
        self.is_used = False
        """Whether the host has sent anything over it, as it does at once."""
        worker = plugin.worker
        subject, client = to_host(worker.who.name, host, nonce), worker.client
        self._key: Final = (host, nonce)
        from_server, self.to_process = _Relay(), _Relay()
        self.transport: Final = LinkTransport(
            from_server, lambda frame: publish_now(client, subject, frame), self._closed, chunk_of(client)
        )
        self.to_process.on_lost = self._process_closed
        from_server.other, self.to_process.other = self.to_process, from_server

    def _closed(self, _: str) -> None:
        self.plugin.worker.links.pop(self._key, None)
        self.to_process.close()

    def _process_closed(self) -> None:
        process = self.plugin.process
        if process is None:
            self.transport.end(End("its process has ended"))
            return
        # No reference is kept: it ends by itself, after a moment.
        asyncio.get_running_loop().create_task(self._tell_end(process))

    async def _tell_end(self, process: Process) -> None:
        # How the process ended says more than that it has closed the link.
        await asyncio.wait([process.exited], timeout=_EXIT_DELAY_S)
        reason = "closed its connection"
        if process.exited.done():
            reason = f"its process {process.exited.result().description}"
        self.transport.end(End(reason))


class _Relay(asyncio.Protocol):
    """One half of a link: what it receives is written at the other half, as fast as that takes it."""

    def __init__(self) -> None:
        self.other: _Relay | None = None
        self.on_lost: Callable[[], None] = lambda: None
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._is_closed = False

    def write(self, data: bytes) -> None:
        """Write, now or when there is a connection."""
        if self._transport is None:
            self._early.append(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close it after what was written."""
        self._is_closed = True
        if self._transport is not None:
            self._transport.close()

    def pause(self, is_paused: bool) -> None:  # noqa: FBT001 - one word
        """Read no more, or go on."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            (transport.pause_reading if is_paused else transport.resume_reading)()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = made = cast("asyncio.Transport", transport)
        for data in self._early:
            made.write(data)
        self._early.clear()
        if self._is_closed:
            made.close()

    @override
    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.write(data)

    @override
    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.pause(True)  # noqa: FBT003

    @override
    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.pause(False)  # noqa: FBT003

    @override
    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self.on_lost()


def _is_of(who: tuple[str, str], link: _HostLink) -> bool:
    return (link.host, link.peer) == who


def _is_unused(since: float, link: _HostLink) -> bool:
    return not link.is_used and link.opened_at < since


def _read_hello(data: bytes) -> tuple[str, str]:
    """Return the number of a question, and which of its host's connections has asked. Raises ValueError."""
    if len(data) > _MAX_HELLO:
        raise ValueError(f"a question of {len(data)} bytes, expected at most {_MAX_HELLO}")
    try:
        value: Any = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError("a question that is no JSON") from error
    nonce, peer = (value.get(key) if isinstance(value, dict) else None for key in ("nonce", "peer"))
    if not (_is_token(nonce) and _is_token(peer)):
        raise ValueError(f"expected a question with two numbers, found {describe(value)}")
    return nonce, peer


def _is_token(value: Any) -> TypeGuard[str]:
    """Say whether a value can be a part of a subject."""
    return isinstance(value, str) and value.isascii() and value.isalnum() and len(value) <= _MAX_TOKEN
