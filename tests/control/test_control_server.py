"""The host's end of the control socket: whatever a command sends or leaves undone, all others go on."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.contract.values.errors import NotFoundRefused, UnavailableRefused
from ally_plugins.host.control.answers import answer_problem
from ally_plugins.host.control.client import HostAnswer, ListeningHost, call, call_all, hosts_of
from ally_plugins.host.control.server import CONNECTIONS, FRAME_BYTES, ControlServer
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from ally_plugins.catalog.home.folder import Home

pytestmark = [
    pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs local sockets"),
    pytest.mark.usefixtures("no_leaks"),
]

PATIENT = 20.0


class Side:
    """A host of few words, which may be told to hang or to fail."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.go_on = asyncio.Event()
        self.hanging = asyncio.Event()
        self.done = asyncio.Event()
        self.failure: Exception | None = None
        self.is_cancelled = False
        self.described: dict[str, Any] = {"app": "test", "pid": os.getpid(), "plugins": []}

    def refuse(self, method: str, processes: Sequence[int], agent: str = "") -> str:
        self.asked.append(("refuse", method))
        return f"{method} is refused to {agent or processes}"

    async def allow(self, decision: str) -> Mapping[str, Any]:
        self.asked.append(("allow", decision))
        return {}

    async def pause(self, agent: str, seconds: float) -> Mapping[str, Any]:
        self.asked.append((f"pause {agent}", str(seconds)))
        return {}

    def describe(self) -> Mapping[str, Any]:
        return self.described

    async def costs(self) -> Mapping[str, Any]:
        return {"pid": os.getpid(), "plugins": []}

    async def apply(self, plugin: str) -> Mapping[str, Any]:
        self.asked.append(("apply", plugin))
        if self.failure is not None:
            raise self.failure
        return {"plugin": plugin, "did": "changed", "in_effect": True, "state": "running", "reason": ""}

    async def place(self, plugin: str) -> Mapping[str, Any]:
        return await self.apply(plugin)

    async def restart(self, plugin: str) -> Mapping[str, Any]:
        self.asked.append(("restart", plugin))
        self.hanging.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        self.asked.append(("restarted", plugin))
        self.done.set()
        return {"state": "running"}

    async def release(self, plugin: str) -> Mapping[str, Any]:
        raise ValueError(f"a secret of {plugin}")

    def wire(self, plugin: str, after: int) -> Mapping[str, Any]:
        return {"lines": [], "last": after, "plugin": plugin}

    def offers(self, plugin: str) -> Mapping[str, Any]:
        return {"plugin": plugin, "offers": []}

    def tasks(self) -> Mapping[str, Any]:
        return {"tasks": []}

    async def cancel_task(self, task_id: str) -> Mapping[str, Any]:
        raise NotFoundRefused(f"there is no task {task_id!r}")


@asynccontextmanager
async def serving(home: Home, **options: Any) -> AsyncIterator[tuple[Side, ControlServer]]:
    side = Side()
    server = ControlServer(home, side, **options)
    await server.start()
    try:
        yield side, server
    finally:
        await server.close()


async def ask(home: Home, method: str, params: dict[str, Any] | None = None, timeout: float = PATIENT) -> HostAnswer:
    """Ask the only host, as a command does."""

    def blocking() -> HostAnswer:
        [host] = hosts_of(home)
        return call(host, method, params, timeout)

    return await asyncio.to_thread(blocking)


class Raw:
    """A peer that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def line(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENT):
            return dict(json.loads(await self.reader.readline()))

    async def rest(self) -> bytes:
        """Read until the host closes; what is still there then is returned."""
        read = b""
        async with asyncio.timeout(PATIENT):
            with suppress(ConnectionError):
                while data := await self.reader.read(65536):
                    read += data
        return read

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@asynccontextmanager
async def connected(server: ControlServer) -> AsyncIterator[Raw]:
    assert server.address is not None
    raw = Raw(*await asyncio.open_unix_connection(str(server.address.path)))
    try:
        yield raw
    finally:
        await raw.close()


def test_a_command_is_answered_and_the_socket_goes_with_the_host(ready: Home) -> None:
    async def main() -> None:
        async with serving(ready) as (side, server):
            assert (await ask(ready, "ping")).result == {"pong": True}
            assert (await ask(ready, "status")).result == side.described
            answer = await ask(ready, "apply", {"plugin": "p"})
            assert answer.result is not None
            assert answer.result["did"] == "changed"
            assert side.asked == [("apply", "p")]
            assert server.address is not None
            assert server.address.path.exists()
        assert hosts_of(ready) == []
        assert list(ready.run_dir.glob("host-*")) == []

    go(main())


def test_errors_are_answers_and_only_our_own_texts_cross(ready: Home, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(ready) as (side, _):
            assert "expected one of ping, status" in (await ask(ready, "destroy")).error
            assert "expected a plugin's name" in (await ask(ready, "apply", {"plugin": 7})).error
            side.failure = NotFoundRefused("this host has no plugin 'p'")
            assert (await ask(ready, "apply", {"plugin": "p"})).error == "this host has no plugin 'p'"
            side.failure = UnavailableRefused("not now")
            assert (await ask(ready, "apply", {"plugin": "p"})).error == "not now"
            assert (await ask(ready, "release", {"plugin": "p"})).error == "internal error"

    go(main())
    assert "a secret of p" in caplog.text  # the host's own log has it


GARBAGE = [
    b"hello\n" * 10,
    b"\x00\xff\xfe" * 30_000,
    b"[]\n[1]\n{}\n" * 10,
    b'{"jsonrpc":"2.0","id":1,"method":"apply","params":[1]}\n' * 9,
    b"[" * 60_000 + b"\n" + b"[" * 60_000 + b"\n" + b'{"a":' * 10_000 + b"\n" + b"{\n",
    b'{"jsonrpc":"2.0","id":null,"method":"ping"}\n' * 9,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nUser-Agent: x\r\n\r\n",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_costs_its_sender_the_connection_and_nobody_else_anything(garbage: bytes, ready: Home) -> None:
    async def main() -> None:
        async with serving(ready) as (side, server), connected(server) as raw:
            with suppress(ConnectionError):
                await raw.send(garbage)
            assert b"Traceback" not in await raw.rest()
            assert (await ask(ready, "ping")).result == {"pong": True}
            assert side.asked == []

    go(main())


def test_a_frame_over_the_limit_ends_the_connection(ready: Home) -> None:
    async def main() -> None:
        async with serving(ready) as (_, server), connected(server) as raw:
            with suppress(ConnectionError):
                await raw.send(b"x" * (FRAME_BYTES * 4))
            await raw.rest()
            assert (await ask(ready, "ping")).result is not None

    go(main())


def test_who_asks_nothing_is_disconnected_after_a_while_and_who_sends_half_a_line_too(ready: Home) -> None:
    async def main() -> None:
        async with serving(ready, idle=0.05) as (_, server), connected(server) as one, connected(server) as other:
            await other.send(b'{"jsonrpc":"2.0",')
            assert await one.rest() == b""
            assert await other.rest() == b""

    go(main())


def test_who_waits_for_an_answer_is_not_idle(ready: Home) -> None:
    async def main() -> None:
        async with serving(ready, idle=0.02) as (side, server), connected(server) as raw:
            await raw.send(b'{"jsonrpc":"2.0","id":1,"method":"restart","params":{"plugin":"p"}}\n')
            await side.hanging.wait()
            await asyncio.sleep(0.1)  # five times as long as an idle one may stay
            side.go_on.set()
            assert (await raw.line())["result"] == {"state": "running"}

    go(main())


def test_one_connection_too_many_is_turned_away_and_room_is_made_when_one_ends(ready: Home) -> None:
    async def main() -> None:
        async with serving(ready) as (_, server):
            assert server.address is not None
            peers = [Raw(*await asyncio.open_unix_connection(str(server.address.path))) for _ in range(CONNECTIONS)]
            for peer in peers:
                await peer.send(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
                assert (await peer.line())["result"] == {"pong": True}
            answer = await ask(ready, "ping")
            assert answer.result is None
            await peers.pop().close()
            while (await ask(ready, "ping")).result is None:
                pass
            for peer in peers:
                await peer.close()

    go(main())


def test_what_was_asked_is_carried_out_though_the_command_has_gone(ready: Home) -> None:
    async def main() -> None:
        async with serving(ready) as (side, server):
            async with connected(server) as raw:
                await raw.send(b'{"jsonrpc":"2.0","id":1,"method":"restart","params":{"plugin":"p"}}\n')
                await side.hanging.wait()
            side.go_on.set()
            await side.done.wait()
            assert side.asked == [("restart", "p"), ("restarted", "p")]

    go(main())


def test_a_command_that_waits_holds_nobody_up_and_many_requests_are_bounded(ready: Home) -> None:
    async def main() -> None:
        async with serving(ready) as (side, server), connected(server) as raw:
            lines = [
                json.dumps({"jsonrpc": "2.0", "id": i, "method": "restart", "params": {"plugin": "p"}})
                for i in range(100)
            ]
            await raw.send("\n".join(lines).encode() + b"\n")
            await side.hanging.wait()
            assert (await ask(ready, "ping")).result == {"pong": True}
            assert len(side.asked) == 1
            side.go_on.set()
            answers = [await raw.line() for _ in range(100)]
            assert sum("error" in answer for answer in answers) >= 80
            assert len(side.asked) <= 40

    go(main())


def test_a_command_that_does_not_take_its_answers_is_let_go(ready: Home) -> None:
    async def main() -> None:
        async with serving(ready, idle=0.1) as (side, server), connected(server) as raw:
            side.described["plugins"] = [{"name": "p", "reason": "x" * 500}] * 1500
            with suppress(ConnectionError):
                async with asyncio.timeout(PATIENT):
                    for i in range(10_000):
                        await raw.send(b'{"jsonrpc":"2.0","id":%d,"method":"status"}\n' % i)
            raw.writer.transport.abort()
            assert (await ask(ready, "ping")).result == {"pong": True}

    go(main())


def test_a_long_answer_arrives_whole(ready: Home) -> None:
    async def main() -> None:
        async with serving(ready) as (side, _):
            side.described["plugins"] = [{"name": "p", "reason": "x" * 500}] * 1500
            assert (await ask(ready, "status")).result == side.described

    go(main())


def test_the_end_of_the_host_cancels_what_is_under_way_and_says_so(ready: Home) -> None:
    async def main() -> None:
        async with serving(ready) as (side, server), connected(server) as raw:
            await raw.send(b'{"jsonrpc":"2.0","id":1,"method":"restart","params":{"plugin":"p"}}\n')
            await raw.send(b'{"jsonrpc":"2.0","id":2,"method":"apply","params":{"plugin":"q"}}\n')
            await side.hanging.wait()
            await server.close()
            assert side.is_cancelled
            assert side.asked == [("restart", "p")]
            assert (await raw.line())["error"]["data"] == {"reason": "shutting_down"}
            await raw.rest()

    go(main())


@pytest.mark.slow
def test_two_hosts_on_one_home_answer_side_by_side_and_a_silent_one_does_not_hold_up_the_other(ready: Home) -> None:
    async def main() -> None:
        async with serving(ready) as (one, _), serving(ready) as (other, _):
            other.described["app"] = "other"

            def blocking() -> list[HostAnswer]:
                hosts = hosts_of(ready)
                assert len(hosts) == 2
                return call_all(hosts, "status", None, PATIENT)

            found = await asyncio.to_thread(blocking)
            assert sorted(answer.result["app"] for answer in found if answer.result) == ["other", "test"]
            assert one.asked == []
        with socket.socket(socket.AF_UNIX) as hung:
            path = ready.run_dir / f"host-{os.getpid()}-ffffffff.sock"
            hung.bind(str(path))
            hung.listen()
            async with serving(ready):
                found = await asyncio.to_thread(lambda: call_all(hosts_of(ready), "status", None, 1.0))
                assert sorted(answer.is_silent for answer in found) == [False, True]
            path.unlink()

    go(main())


@pytest.mark.parametrize(
    ("method", "result", "problem"),
    [
        ("status", [1], "it is a list; expected an object"),
        ("status", {"app": "x"}, "pid is missing; expected an integer"),
        ("status", {"app": 5, "pid": 1}, "app is the number 5; expected a string"),
        ("status", {"app": "x", "pid": 1, "plugins": 5}, "plugins is the number 5; expected a list"),
        (
            "status",
            {"app": "x", "pid": 1, "plugins": ["p"]},
            "plugins[0] is a string of 1 characters; expected an obje",
        ),
        ("status", {"app": "x", "pid": 1, "plugins": [{"name": "p", "state": 1}]}, "plugins[0].state is the number 1"),
        ("apply", {"did": "changed"}, "state is missing; expected a string"),
        ("apply", {"state": "running", "in_effect": "yes"}, "in_effect is a string of 3 characters; expected true or"),
        ("offers", {"offers": [{"kind": "tool"}]}, "offers[0].name is missing; expected a string"),
        ("tasks", {"tasks": [{"id": "t", "state": "running", "progress": "half"}]}, "tasks[0].progress is a string"),
        ("cancel_task", {"id": None, "state": "x"}, "id is null; expected a string"),
    ],
)
def test_an_answer_of_another_shape_is_nonsense_that_no_command_uses(method: str, result: Any, problem: str) -> None:
    assert (answer_problem(method, result) or "").startswith(problem)


def test_what_a_newer_host_adds_to_an_answer_is_passed_over() -> None:
    status = {"app": "x", "pid": 1, "mood": 1, "plugins": [{"name": "p", "state": "new", "mood": 2, "pid": None}]}
    assert answer_problem("status", status) is None
    assert answer_problem("a newer method", {}) is None


@pytest.mark.parametrize(
    "reply", [b"", b"\n\n", b"nonsense\n", b'{"jsonrpc":"2.0","id":1,"result":[1]}\n', b"x" * 2_000_000]
)
def test_a_socket_that_answers_nonsense_is_no_answer(reply: bytes, ready: Home) -> None:
    class Nonsense(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:  # noqa: ARG002
            self.transport.write(reply)
            self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
            self.transport.abort()

    async def main() -> None:
        path = ready.run_dir / f"host-{os.getpid()}-eeeeeeee.sock"
        server = await asyncio.get_running_loop().create_unix_server(Nonsense, str(path))
        answer = await ask(ready, "status", timeout=2.0)
        assert answer.result is None
        assert answer.error
        server.close()
        path.unlink(missing_ok=True)

    go(main())


INTRUDER = """
import os, socket, sys
os.setgroups([]); os.setegid(65534); os.seteuid(65534)
with socket.socket(socket.AF_UNIX) as peer:
    peer.settimeout(20)
    peer.connect(sys.argv[1])
    try:
        peer.sendall(b'{"jsonrpc":"2.0","id":1,"method":"apply","params":{"plugin":"p"}}\\n')
        print(peer.recv(1000))
    except ConnectionError:
        print(b"")
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be two users")
def test_another_user_is_turned_away_even_where_the_directory_lets_it_in(
    ready: Home, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    opened = [ready.run_dir, *ready.run_dir.parents, tmp_path]
    modes = {path: path.stat().st_mode & 0o7777 for path in opened}

    async def main() -> None:
        async with serving(ready) as (side, server):
            assert server.address is not None
            server.address.path.chmod(0o777)
            for path in opened:
                path.chmod(modes[path] | 0o011)
            intruder = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", INTRUDER, str(server.address.path)],
                capture_output=True, text=True, check=True, timeout=60,
            )  # fmt: skip
            assert intruder.stdout.strip() == "b''"
            assert side.asked == []
            assert (await ask(ready, "ping")).result == {"pong": True}

    try:
        go(main())
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert "another user" in caplog.text


def test_a_directory_that_cannot_be_written_costs_the_host_its_socket_and_no_more(
    ready: Home, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = type(ready)("test", ready.path / "file" / "home")
    (ready.path / "file").write_text("no directory")

    async def main() -> None:
        server = ControlServer(blocked, Side())
        await server.start()
        assert server.address is None
        await server.close()

    go(main())
    assert "commands will not reach this host" in caplog.text


def test_closing_what_was_never_started_or_is_closed_does_nothing(ready: Home) -> None:
    async def main() -> None:
        server = ControlServer(ready, Side())
        await server.close()
        await server.close()

    go(main())


def test_a_host_that_ended_in_between_is_no_answer(ready: Home) -> None:
    async def main() -> ListeningHost:
        async with serving(ready):
            [host] = await asyncio.to_thread(hosts_of, ready)
        return host

    assert call(go(main()), "ping").error == "it has ended"
