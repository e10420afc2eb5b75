"""This end of the daemon benchmarks: hosts of ours with daemons, and what the same is with other libraries or none.

Everything here is a context manager that leaves no process behind.
"""

# ruff: noqa: D102 - asyncio.Protocol says what its methods are for

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import orjson

from ally_plugins import Host, PluginRecord
from ally_plugins.catalog.home.config import Placement, PluginConfig
from ally_plugins.contract.process_spec import Daemon, Timing
from ally_plugins.contract.values.compat import override
from ally_plugins.policy.budget import Limits
from ally_plugins.policy.permissions import GrantSet

HERE: Final = Path(__file__).parent
PEERS: Final = str(HERE / "daemon_peers.py")
TEXT: Final = "x" * 500
"""The payload of everything that is measured."""

_PLENTY: Final = 1_000_000_000
ISOLATED: Final = ("-I",)

Call = Callable[[], Awaitable[Any]]
"""One round trip with the payload."""


# --- ours ---


def sdk(name: str) -> Daemon:
    """Return a daemon that runs a class of `daemon_plugins`."""
    return Daemon.python(f"daemon_plugins:{name}", env={"PYTHONPATH": str(HERE)})


def raw(kind: str, *arguments: str) -> Daemon:
    """Return a daemon that is a kind of `daemon_peers`."""
    command = (sys.executable, *ISOLATED, PEERS, kind, *arguments)
    return Daemon(command, timing=Timing(shutdown_grace=0.1, startup_timeout=60))


@asynccontextmanager
async def host_of(
    daemons: Mapping[str, Daemon], home: Path | None = None, placement: Placement | None = None
) -> AsyncIterator[Host]:
    """Run a host with daemons that may do everything, as much as they like; in a process, or in a sandbox."""
    grants = GrantSet.everything()
    limits = Limits(messages_per_minute=_PLENTY, context_reads_per_minute=_PLENTY, calls_in_flight=_PLENTY)
    config = PluginConfig(
        enabled=True, is_decided=True, grants=grants, limits=limits, deadlines={"stop": 0.5}, placement=placement
    )
    plugins = {name: (it, PluginRecord.by_code(name, grants=grants, config=config)) for name, it in daemons.items()}
    async with Host("bench", home=home, discover=False, plugins=plugins) as host:
        for plugin in host.plugins.values():
            if plugin.state != "running":
                raise RuntimeError(f"{plugin.name} is {plugin.state}: {plugin.reason}")
        yield host


# --- without a library, and Code-Ally's scheme ---


class Bare(asyncio.Protocol):
    """A connection with ids and futures, and nothing else."""

    def __init__(self) -> None:
        self._rest = b""
        self._last = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.transport: Any = None
        self.pid = 0
        """The process at the other end."""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            answer = orjson.loads(line)
            self._waiting.pop(answer["id"]).set_result(answer["result"])

    def ask(self, method: str, params: Any) -> asyncio.Future[Any]:
        """Send a request; the future gets its result."""
        self._last += 1
        future = self._waiting[self._last] = asyncio.get_running_loop().create_future()
        line = orjson.dumps({"jsonrpc": "2.0", "id": self._last, "method": method, "params": params}) + b"\n"
        self.transport.write(line)
        return future

    async def echo(self) -> None:
        """Make one round trip."""
        await self.ask("echo", {"text": TEXT})


@contextmanager
def child(kind: str, *arguments: str, flags: Sequence[str] = (), **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a kind of `daemon_peers`, and kill it in the end."""
    process = subprocess.Popen([sys.executable, *flags, PEERS, kind, *arguments], **options)
    try:
        yield process
    finally:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        process.kill()
        process.wait()


@asynccontextmanager
async def bare(kind: str = "echo", flags: Sequence[str] = ()) -> AsyncIterator[Bare]:
    """Run a child at the other end of a socket pair."""
    ours, theirs = socket.socketpair()
    with child(kind, flags=flags, stdin=theirs, stdout=theirs) as process:
        theirs.close()
        transport, protocol = await asyncio.get_running_loop().create_connection(Bare, sock=ours)
        protocol.pid = process.pid
        yield protocol
        transport.close()


@asynccontextmanager
async def bare_ones(count: int, kind: str = "echo", flags: Sequence[str] = ()) -> AsyncIterator[list[Bare]]:
    """Run some, and wait until they answer."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(bare(kind, flags)) for _ in range(count)]
        await asyncio.gather(*(one.ask("initialize", {}) for one in found))
        yield found


@contextmanager
def server(kind: str, path: str) -> Iterator[None]:
    """Run a server on a socket, once it listens."""
    with child(kind, path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield


@asynccontextmanager
async def message_call(folder: Path) -> AsyncIterator[Call]:
    """Make a connection for each message."""
    path = str(folder / "message")

    async def call() -> None:
        reading, writing = await asyncio.open_unix_connection(path)
        asked = {"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"text": TEXT}}
        writing.write(orjson.dumps(asked) + b"\n")
        orjson.loads(await reading.readline())
        writing.close()
        await writing.wait_closed()

    with server("message", path):
        yield call


# --- other libraries ---


@asynccontextmanager
async def rpyc_call(folder: Path) -> AsyncIterator[Call]:
    """Call over rpyc, which blocks."""
    from rpyc.utils.factory import unix_connect

    path = str(folder / "rpyc")
    with server("rpyc", path):
        connection = None
        while connection is None:  # it binds when it is built, and listens a little later
            with suppress(ConnectionRefusedError):
                connection = unix_connect(path)
            await asyncio.sleep(0.01)

        async def call() -> None:
            connection.root.echo(TEXT)

        yield call
        connection.close()


@asynccontextmanager
async def grpc_call(folder: Path) -> AsyncIterator[Call]:
    """Call over gRPC's asyncio, with JSON as messages."""
    import grpc

    path = str(folder / "grpc")
    with server("grpc", path):
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            method = channel.unary_unary(
                "/Echo/call", request_serializer=orjson.dumps, response_deserializer=orjson.loads
            )
            yield lambda: method({"text": TEXT})


@asynccontextmanager
async def mcp_client() -> AsyncIterator[Any]:
    """Run an mcp server over stdio, and connect to it."""
    from mcp import Client, StdioServerParameters

    arguments = ["-W", "ignore", PEERS, "mcp"]
    parameters = StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))
    async with Client(parameters, mode="legacy") as client:
        yield client


@asynccontextmanager
async def mcp_clients(count: int) -> AsyncIterator[list[Any]]:
    """Run some mcp servers, started at once."""
    loop, found = asyncio.get_running_loop(), []
    ready, ended = [loop.create_future() for _ in range(count)], asyncio.Event()

    async def keep(future: asyncio.Future[Any]) -> None:
        # A task for each, since its client has to be left in the task that entered it.
        async with mcp_client() as client:
            future.set_result(client)
            await ended.wait()

    tasks = [loop.create_task(keep(future)) for future in ready]
    try:
        found = await asyncio.gather(*ready)
        yield found
    finally:
        ended.set()
        await asyncio.gather(*tasks)


@contextmanager
def published(folder: Path, count: int) -> Iterator[Callable[[Iterable[bytes]], None]]:
    """Give what publishes messages over pyzmq and waits until every subscriber has read them."""
    import zmq

    events, answers = f"ipc://{folder}/events", f"ipc://{folder}/answers"
    context = zmq.Context()
    publishing, answering = context.socket(zmq.PUB), context.socket(zmq.PULL)
    publishing.setsockopt(zmq.SNDHWM, 0)
    publishing.bind(events)
    answering.bind(answers)

    def ask(question: bytes) -> int:
        publishing.send(question)
        heard = 0
        while heard < count and answering.poll(1000 if question == b"?" else 20):
            heard += answering.recv() == question
        return heard

    def publish(messages: Iterable[bytes]) -> None:
        for message in messages:
            publishing.send(message)
        if ask(b"?") < count:
            raise RuntimeError("a subscriber did not answer")

    children = [subprocess.Popen([sys.executable, PEERS, "subscriber", events, answers]) for _ in range(count)]
    try:
        attempt = 0
        while ask(b"?%d" % attempt) < count:
            attempt += 1
        yield publish
    finally:
        publishing.send(b"!")
        for one in children:
            one.kill()
            one.wait()
        context.destroy(linger=0)
