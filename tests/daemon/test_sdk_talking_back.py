"""`connect_back`: a daemon with a socket of its own calls its host, and finds it again."""

# ruff: noqa: S105, S106 - the tokens of these tests open nothing

from __future__ import annotations

import asyncio
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import ally_plugins
from ally_plugins import NotFoundRefused, PluginRecord, ToolCallError, UnavailableRefused
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.contract.process_spec import Daemon
from ally_plugins.daemon import connect_back
from ally_plugins.daemon.channel import BACKLOG, open_channel
from ally_plugins.daemon.streams import Descriptors
from ally_plugins.policy.permissions import GrantSet
from ally_plugins.wire.connection import Connection
from ally_plugins.wire.messages import ErrorResponse, Request, Response
from tests.kit.waiting import go, until, wait_until

TOLD = {"plugin": "talker", "protocol": "1", "capabilities": ["add_message"], "settings": {"limit": 3}}
RECEIPT = {"id": "m-1", "offset": 1, "state": "pending"}


class Host(asyncio.Protocol):
    """The host's socket: takes one token, answers every call with a receipt, and remembers what it was asked."""

    def __init__(self, asked: list[Request], connections: list[Host]) -> None:
        self.connection = Connection()
        self.asked = asked
        self.answers: dict[int, asyncio.Future[Any]] = {}
        connections.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self.connection.receive_data(data):
            if isinstance(message, Request):
                self.asked.append(message)
                if message.method != "initialize":
                    self.connection.respond(message.id, RECEIPT)
                elif message.params["token"] == "right":
                    self.take_in(message)
                else:
                    self.connection.fail(message.id, -32015, "the token is not good", {"reason": "unauthorized"})
            elif isinstance(message, Response | ErrorResponse):
                self.answers[message.id].set_result(message)
        self.transport.write(self.connection.data_to_send())

    def take_in(self, message: Request) -> None:
        self.connection.respond(message.id, TOLD)

    async def ask(self, method: str, **params: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        self.answers[self.connection.request(method, params)] = future
        self.transport.write(self.connection.data_to_send())
        return await future


@pytest.fixture
def socket_path(short_dir: Path) -> str:
    return str(short_dir / "s")


class Eager(Host):
    """Calls with the same write that takes the daemon in."""

    def take_in(self, message: Request) -> None:
        super().take_in(message)
        self.ping = asyncio.get_running_loop().create_future()
        self.answers[self.connection.request("ping", {})] = self.ping


async def _serve(
    path: str, host: type[Host] = Host, connections: list[Host] | None = None
) -> tuple[asyncio.Server, list[Request], list[Host]]:
    asked: list[Request] = []
    connections = [] if connections is None else connections
    server = await asyncio.get_running_loop().create_unix_server(lambda: host(asked, connections), path)
    return server, asked, connections


def test_calls_go_over_the_hosts_socket_with_the_token(
    socket_path: str,
    monkeypatch: pytest.MonkeyPatch,
    no_leaks: None,  # noqa: ARG001
) -> None:
    monkeypatch.setenv("ALLY_SOCKET", socket_path)
    monkeypatch.setenv("ALLY_TOKEN", "right")

    async def main() -> None:
        server, asked, connections = await _serve(socket_path)
        async with server:
            async with connect_back(name="mine") as back:
                assert asked[0].params == {"token": "right", "protocol": "1", "name": "mine"}
                assert (back.ally.name, back.ally.settings, back.ally.supports("add_message")) == (
                    "talker",
                    {"limit": 3},
                    True,
                )
                with back.reacting_to({"event_type": "X", "id": "s1:4", "session_id": "s1", "origin": ["other"]}):
                    receipt = await back.ally.add_message("user", "hello")
                assert receipt.id == "m-1"
                assert (asked[1].params["cause"], asked[1].params["session_id"]) == ("s1:4", "s1")
                await back.ally.add_message("user", "hello")
                assert "cause" not in asked[2].params
            with pytest.raises(UnavailableRefused):
                await back.ally.add_message("user", "too late")
            connections[0].transport.close()

    go(main())


def test_tools_can_be_offered_over_it(socket_path: str) -> None:
    async def main() -> None:
        server, _, connections = await _serve(socket_path)
        async with server, connect_back(path=socket_path, token="right") as back:

            async def add(number: int) -> int:
                return number + 1

            await back.ally.register_tool(add)
            answer = await connections[0].ask("call_tool", name="add", arguments={"number": 1})
            assert answer.result == 2

    go(main())


def test_a_connection_that_breaks_is_made_again_and_calls_meanwhile_are_refused(socket_path: str) -> None:
    async def main() -> None:
        server, asked, connections = await _serve(socket_path)
        async with connect_back(path=socket_path, token="right") as back:
            server.close()
            Path(socket_path).unlink(missing_ok=True)  # noqa: ASYNC240 - the test's own loop
            connections[0].transport.abort()
            async with asyncio.timeout(30):
                with pytest.raises(UnavailableRefused):
                    await back.ally.add_message("user", "nobody is there")
                server, asked, connections = await _serve(socket_path)
                while True:  # until it has found the host again
                    try:
                        await back.ally.add_message("user", "again")
                    except UnavailableRefused:
                        await asyncio.sleep(0.01)
                    else:
                        break
            assert [request.method for request in asked] == ["initialize", "add_message"]
        server.close()

    go(main())


@pytest.mark.slow
def test_a_host_that_has_not_seen_the_old_connection_break_is_asked_again(socket_path: str) -> None:
    class Late(Host):
        refusals = 0

        def take_in(self, message: Request) -> None:
            if len(connections) > 1 and Late.refusals < 2:
                Late.refusals += 1
                self.connection.fail(message.id, -32006, "this daemon is connected already", {"reason": "busy"})
            else:
                super().take_in(message)

    connections: list[Host] = []

    async def main() -> None:
        server, asked, _ = await _serve(socket_path, Late, connections)
        async with server, connect_back(path=socket_path, token="right") as back, asyncio.timeout(10):
            connections[0].transport.abort()
            await until(lambda: len(asked) == 4)
            await until(lambda: back.ally.supports("add_message"))
            await back.ally.add_message("user", "again")
            connections[-1].transport.close()
        assert Late.refusals == 2

    go(main())


def test_a_tool_of_a_connection_that_broke_is_cancelled_and_answers_no_request_of_the_next_one(
    socket_path: str,
) -> None:
    async def main() -> None:
        cancelled, goes_on, answers = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def fail() -> str:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
                await goes_on.wait()
                raise ToolCallError("of the first connection", tool="fail")

        async def answer() -> str:
            await answers.wait()
            return "of the second connection"

        server, asked, connections = await _serve(socket_path)
        async with server, connect_back(path=socket_path, token="right") as back, asyncio.timeout(10):
            await back.ally.register_tool(fail)
            await back.ally.register_tool(answer)
            first = asyncio.create_task(connections[0].ask("call_tool", name="fail", arguments={}))
            assert (await connections[0].ask("ping")).result == "pong"
            connections[0].transport.abort()
            await cancelled.wait()
            await until(lambda: asked[-1].method == "initialize")
            second = asyncio.create_task(connections[1].ask("call_tool", name="answer", arguments={}))
            assert (await connections[1].ask("ping")).result == "pong"
            assert set(connections[0].answers) == set(connections[1].answers)  # the ids of both
            goes_on.set()
            assert (await connections[1].ask("ping")).result == "pong"
            answers.set()
            assert (await second).result == "of the second connection"
            assert not first.done()
            first.cancel()

    go(main())


def test_a_request_that_comes_along_with_the_answer_to_initialize_is_answered(socket_path: str) -> None:
    async def main() -> None:
        server, asked, connections = await _serve(socket_path, Eager)
        async with server, connect_back(path=socket_path, token="right"), asyncio.timeout(10):
            for number in range(2):
                await until(lambda: len(asked) > number)  # noqa: B023 - awaited at once
                host = connections[number]
                assert isinstance(host, Eager)
                assert (await host.ping).result == "pong"
                host.transport.abort()

    go(main())


def test_a_wrong_token_or_no_host_is_an_error_at_once(socket_path: str) -> None:
    async def main() -> None:
        server, _, _ = await _serve(socket_path)
        async with server:
            with pytest.raises(Exception, match="the token is not good"):
                async with connect_back(path=socket_path, token="wrong"):
                    pass
        with pytest.raises(OSError, match=r"."):
            async with connect_back(path=socket_path + "-none", token="right"):
                pass

    go(main())


@pytest.mark.skipif(sys.platform == "win32", reason="has no descriptors like these")
def test_last_words_are_written_over_a_descriptor_of_any_number() -> None:
    import fcntl
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    high, words = 2048, b"w" * 2 * BACKLOG
    if hard != resource.RLIM_INFINITY and hard <= high:
        pytest.skip("this process may not have so many descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, high + 1), hard))

    async def main() -> bytes:
        host, own = socket.socketpair()
        own.setblocking(False)  # noqa: FBT003 - the name says it
        with host, own, ThreadPoolExecutor() as threads:

            def read() -> bytes:
                wait_until(lambda: channel.is_full)  # what `flush_now` could not write at once
                return host.makefile("rb").read()

            descriptor = fcntl.fcntl(own, fcntl.F_DUPFD_CLOEXEC, high)
            with suppress(BlockingIOError):
                while True:
                    own.send(b"x" * 10_000)
            channel = open_channel(Descriptors(descriptor, descriptor), lambda _: None, drain=lambda: words)
            own.close()
            reading = threads.submit(read)
            try:
                channel.flush_now()
            finally:
                channel.close()
            return reading.result()

    try:
        assert go(main()).endswith(b"w")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_the_environment_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALLY_SOCKET", raising=False)
    with pytest.raises(UnavailableRefused, match="ALLY_SOCKET"):
        connect_back()


OFFERS_AND_CUTS = """
import asyncio, os, sys
from ally_plugins.daemon import connect_back

async def main():
    async def answer(reader, writer):
        writer.close()

    server = await asyncio.start_unix_server(answer, os.environ["SOCKET_PATH"])
    async with server, connect_back() as back:
        connections = [back._peer]

        async def cut() -> int:
            "Break the connection, once this is answered."
            asyncio.get_running_loop().call_later(0.05, back.ended, "")
            return len(connections)

        async def count() -> int:
            "Return how many connections there were."
            if back._peer is not connections[-1]:
                connections.append(back._peer)
            return len(connections)

        await back.ally.register_tool(cut)
        await back.ally.register_tool(count)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.slow
def test_tools_of_one_that_connects_again_are_there_as_before_and_no_call_meanwhile_is_a_crash(
    socket_path: str, tmp_path: Path
) -> None:
    script = tmp_path / "offers.py"
    script.write_text(OFFERS_AND_CUTS, encoding="utf-8")
    daemon = Daemon((sys.executable, str(script)), transport="socket", socket=socket_path, talks_back=True)
    grants = GrantSet.everything()
    record = PluginRecord.by_code(
        "d", grants=grants, config=PluginConfig(enabled=True, is_decided=True, grants=grants), daemon=daemon
    )

    async def counted(host: ally_plugins.Host, wanted: int) -> None:
        while True:
            with suppress(NotFoundRefused, ToolCallError, UnavailableRefused):  # not offered yet, or not connected
                result = await host.call_tool("count", {}, session_id="s")
                if result.success and result.output == str(wanted):
                    return
            await asyncio.sleep(0.01)

    async def main() -> None:
        plugins = {"d": (daemon, record)}
        async with ally_plugins.Host("test", home=tmp_path / "home", discover=False, plugins=plugins) as host:
            host.session("s")
            async with asyncio.timeout(60):
                await counted(host, 1)
                assert (await host.call_tool("cut", {}, session_id="s")).success
                await counted(host, 2)
            assert (await host.call_tool("cut", {}, session_id="s")).output == "2"
            assert (host.plugins["d"].state, host.plugins["d"].counts.crashes) == ("running", 0)

    go(main())


def test_daemons_that_start_at_the_same_time_share_one_socket_of_the_host_which_goes_with_it(short_dir: Path) -> None:
    def sockets() -> list[str]:
        return [str(path) for path in short_dir.rglob("talk-*.sock")]

    async def main() -> None:
        async with ally_plugins.Host("test", home=short_dir, discover=False) as host:
            services = host._daemon_services
            assert services is not None
            first, second = await asyncio.gather(services.talk_back_server(), services.talk_back_server())
            assert first is second
            assert sockets() == [first.path]

    go(main())
    assert sockets() == []
