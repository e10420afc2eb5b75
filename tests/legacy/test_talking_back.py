# ruff: noqa: ASYNC240 - looking at a file takes microseconds, and nothing else is on these loops
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import define, field

from ally_plugins.contract.values.errors import UnavailableRefused, VersionError
from ally_plugins.host.sockets import talkback
from ally_plugins.host.sockets.talkback import TalkBackServer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")


class Peer(asyncio.Protocol):
    """Stands where the host's own connection will: it echoes."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.is_lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.transport.write(data)  # type: ignore[attr-defined]

    def connection_lost(self, _: Exception | None) -> None:
        self.is_lost.set()


@define(eq=False)
class Host:
    """A server that waits for the daemon `me`."""

    server: TalkBackServer
    token: str = ""
    peers: list[Peer] = field(factory=list)
    told: list[dict[str, Any]] = field(factory=list)

    def expect(self, name: str = "me", is_its: Callable[[int], bool] | None = None) -> str:
        def make() -> Peer:
            self.peers.append(Peer())
            return self.peers[-1]

        def initialize(params: dict[str, Any]) -> dict[str, Any]:
            self.told.append(params)
            return {"plugin": name, "protocol": "1"}

        _, self.token = self.server.expect(name, make, initialize, is_its)
        return self.token

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.server.path)

    async def say(self, data: bytes) -> dict[str, Any] | None:
        """Say something on a connection of its own, and return the answer; None when it is closed without one."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            line = await reader.readline()
            assert not line or await reader.read() == b""
        except ConnectionError:
            return None
        finally:
            writer.close()
        return json.loads(line) if line else None


def greeting(token: Any, **more: Any) -> bytes:
    params = {"token": token, "protocol": "1", **more}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).encode() + b"\n"


def run(short_dir: Path, test: Callable[[Host], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        server = TalkBackServer(short_dir / "run")
        await server.start()
        try:
            host = Host(server)
            host.expect()
            await test(host)
        finally:
            await server.close()
            await asyncio.sleep(0)

    asyncio.run(main())


def test_a_start_that_is_cancelled_leaves_no_socket(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        starting = asyncio.create_task(TalkBackServer(short_dir / "run").start())

        async def cancelled(*_: object, **__: object) -> None:
            assert [each.suffix for each in (short_dir / "run").iterdir()] == [".sock"]
            starting.cancel()
            await asyncio.sleep(0)

        monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_server", cancelled)
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert [*(short_dir / "run").iterdir()] == []

    asyncio.run(main())


def test_the_socket_is_its_owners_alone_from_its_first_moment_on(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    chmod = Path.chmod

    def watching(self: Path, mode: int) -> None:
        if self.suffix == ".sock":
            seen.append(stat.S_IMODE(self.lstat().st_mode))
        chmod(self, mode)

    monkeypatch.setattr(Path, "chmod", watching)

    async def test(host: Host) -> None:
        path = Path(host.server.path)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_ISSOCK(path.stat().st_mode)

    before = os.umask(0)
    try:
        run(short_dir, test)
    finally:
        os.umask(before)
    if sys.platform == "linux":
        assert seen == [0o600]
    assert list((short_dir / "run").iterdir()) == []


def test_a_home_with_a_long_path_still_has_a_short_socket(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir))

    async def main() -> None:
        server = TalkBackServer(short_dir / ("x" * 100) / "run")
        await server.start()
        assert len(os.fsencode(server.path)) <= 104
        assert Path(server.path).parent == short_dir / f"ally-{os.geteuid()}"
        assert stat.S_IMODE(Path(server.path).parent.stat().st_mode) == 0o700
        await server.close()

    asyncio.run(main())


def test_who_shows_the_token_is_handed_over_with_what_came_along(short_dir: Path) -> None:
    async def test(host: Host) -> None:
        reader, writer = await host.connect()
        writer.write(greeting(host.token, name="liar") + b'{"first"}\n{"sec')
        assert json.loads(await reader.readline()) == {
            "jsonrpc": "2.0",
            "id": 1,
            "result": {"plugin": "me", "protocol": "1"},
        }
        assert await reader.readline() == b'{"first"}\n'
        writer.write(b'ond"}\n')
        assert await reader.readline() == b'{"second"}\n'
        assert bytes(host.peers[0].heard) == b'{"first"}\n{"second"}\n'
        assert host.told[0]["name"] == "liar"
        writer.close()
        await host.peers[0].is_lost.wait()
        assert host.server.counts.accepted == 1

    run(short_dir, test)


def test_a_greeting_may_come_byte_by_byte(short_dir: Path) -> None:
    async def test(host: Host) -> None:
        reader, writer = await host.connect()
        for byte in greeting(host.token) + b"rest":
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert json.loads(await reader.readline())["result"]["plugin"] == "me"
        assert await reader.readexactly(4) == b"rest"
        writer.close()

    run(short_dir, test)


@pytest.mark.parametrize("token", ["", "x", None, 7, ["x"], {}, True, "\ud800", "x" * 300, "ü" * 43])
def test_a_wrong_token_is_refused_and_counted(short_dir: Path, token: Any) -> None:
    async def test(host: Host) -> None:
        answer = await host.say(greeting(token))
        assert answer is None or answer["error"]["code"] in {-32015, -32600, -32700}
        assert host.server.counts.refused + host.server.counts.strangers == 1
        assert host.peers == []

    run(short_dir, test)


@pytest.mark.slow
def test_every_wrong_token_is_answered_later_than_the_one_before(short_dir: Path) -> None:
    async def test(host: Host) -> None:
        delays = []
        for _ in range(4):
            answer = await host.say(greeting("wrong"))
            assert answer is not None
            assert answer["error"]["code"] == -32015
            delays.append(host.server.delay())
        assert delays == [0.05, 0.1, 0.2, 0.4]
        host.server.counts.refused = 10**9
        assert host.server.delay() == 2.0

    run(short_dir, test)


def test_one_that_is_turned_away_does_not_hold_up_the_right_one(short_dir: Path) -> None:
    async def test(host: Host) -> None:
        host.server.counts.refused = 100
        late = asyncio.create_task(host.say(greeting("wrong")))
        reader, writer = await host.connect()
        writer.write(greeting(host.token))
        assert "result" in json.loads(await reader.readline())
        assert not late.done()
        writer.close()
        late.cancel()
        await asyncio.wait([late])

    run(short_dir, test)


def test_one_connection_at_a_time_and_another_after_it(short_dir: Path) -> None:
    async def test(host: Host) -> None:
        reader, writer = await host.connect()
        writer.write(greeting(host.token))
        assert "result" in json.loads(await reader.readline())
        second = await host.say(greeting(host.token))
        assert second is not None
        assert second["error"]["code"] == -32006
        assert "one connection at a time" in second["error"]["message"]
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"
        writer.close()
        await host.peers[0].is_lost.wait()
        third, writer = await host.connect()
        writer.write(greeting(host.token))
        assert "result" in json.loads(await third.readline())
        writer.close()

    run(short_dir, test)


def test_a_token_is_good_for_the_life_of_one_process(short_dir: Path) -> None:
    async def test(host: Host) -> None:
        old = host.token
        reader, writer = await host.connect()
        writer.write(greeting(old))
        await reader.readline()
        host.server.forget("me")
        assert await reader.read() == b""
        writer.close()
        new = host.expect()
        assert new != old
        refused = await host.say(greeting(old))
        assert refused is not None
        assert refused["error"]["code"] == -32015

    run(short_dir, test)


def test_the_token_decides_who_it_is(short_dir: Path) -> None:
    async def test(host: Host) -> None:
        mine = host.token
        host.expect("other")
        answers = []
        for token in (mine, host.token):
            reader, writer = await host.connect()
            writer.write(greeting(token, name="other"))
            answers.append(json.loads(await reader.readline())["result"]["plugin"])
            writer.close()
        assert answers == ["me", "other"]

    run(short_dir, test)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"jsonrpc":"2.0","id":1,"method":"add_message","params":{}}\n', -32013),
        (b'{"jsonrpc":"2.0","method":"initialize","params":{"token":"x"}}\n', -32013),
        (b'{"jsonrpc":"2.0","id":1,"result":1}\n', -32013),
        (b"GET / HTTP/1.1\r\n\r\n", -32700),
        (b"\n", -32700),
        (b"[]\n", -32600),
        (b'{"id":1,"method":"initialize"}\n', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"initialize","params":{"token":"x"}}\n', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"speak","params":["x"]}\n', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":["x"]}\n', -32602),
        (b"\xff\xff\n", -32700),
        (b"[" * 5_000 + b"\n", None),
        (b"x" * 20_000, None),
        (b"x" * 20_000 + b"\n", None),
        (b"", None),
    ],
)
def test_whoever_says_something_else_first_is_turned_away(short_dir: Path, data: bytes, code: int | None) -> None:
    async def test(host: Host) -> None:
        reader, writer = await host.connect()
        writer.write(data)
        if not data:
            writer.write_eof()
        try:
            line = await reader.read()
        except ConnectionError:
            line = b""
        writer.close()
        if code is not None:
            assert json.loads(line)["error"]["code"] == code
        assert host.peers == []
        assert host.server.counts.accepted == 0

    run(short_dir, test)


def test_whoever_says_nothing_is_turned_away_after_a_while(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talkback, "GREETING_TIMEOUT", 0.05)

    async def test(host: Host) -> None:
        reader, writer = await host.connect()
        writer.write(greeting(host.token)[:-1])
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert host.server.counts.strangers == 1

    run(short_dir, test)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whose a process is")
def test_one_process_cannot_keep_the_others_out(short_dir: Path) -> None:
    async def test(host: Host) -> None:
        connections = [await host.connect() for _ in range(20)]
        refused = 0
        for reader, _ in connections[4:]:
            try:
                refused += await reader.read() == b""
            except ConnectionError:
                refused += 1
        assert refused == 16
        reader, writer = connections[0]
        writer.write(greeting(host.token))
        assert "result" in json.loads(await reader.readline())
        for _, each in connections:
            each.close()

    run(short_dir, test)


def test_a_process_that_is_not_the_daemons_is_refused_in_spite_of_its_token(short_dir: Path) -> None:
    async def test(host: Host) -> None:
        seen: list[int] = []

        def is_its(pid: int) -> bool:
            seen.append(pid)
            return False

        answer = await host.say(greeting(host.expect(is_its=is_its)))
        if sys.platform == "linux":
            assert seen == [os.getpid()]
            assert answer is not None
            assert answer["error"]["code"] == -32015

    run(short_dir, test)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs to be another user")
def test_another_user_is_turned_away_in_spite_of_the_token(short_dir: Path) -> None:
    async def test(host: Host) -> None:
        short_dir.chmod(0o755)
        Path(host.server.path).parent.chmod(0o755)
        Path(host.server.path).chmod(0o666)
        data = greeting(host.token)
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(host.server.path)
                try:
                    sock.sendall(data)
                    heard = sock.recv(1)
                except OSError:
                    heard = b""
            os.write(writing, heard or b"-")
            os.kill(os.getpid(), signal.SIGKILL)
        assert await asyncio.to_thread(os.read, reading, 1) == b"-"
        await asyncio.to_thread(os.waitpid, child, 0)
        os.close(reading)
        os.close(writing)
        assert host.server.counts.strangers == 1
        assert host.peers == []

    run(short_dir, test)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (VersionError("speaks 9", offered=("9",), known=("1",)), -32014, "speaks 9"),
        (UnavailableRefused("the host is stopping"), -32011, "the host is stopping"),
        (RuntimeError("secret inside"), -32603, "internal error"),
    ],
)
def test_the_hosts_refusals_are_answered_and_its_crashes_say_nothing(
    short_dir: Path, error: Exception, code: int, text: str
) -> None:
    async def test(host: Host) -> None:
        def initialize(_: dict[str, Any]) -> dict[str, Any]:
            raise error

        _, token = host.server.expect("me", Peer, initialize)
        answer = await host.say(greeting(token))
        assert answer is not None
        assert answer["error"]["code"] == code
        assert answer["error"]["message"] == text
        assert "secret" not in json.dumps(answer)

    run(short_dir, test)


@pytest.mark.parametrize("protocol", ["2", "", None, 1])
def test_an_unknown_version_is_refused_in_a_sentence_that_names_ours(short_dir: Path, protocol: Any) -> None:
    async def test(host: Host) -> None:
        answer = await host.say(greeting(host.token, protocol=protocol))
        assert answer is not None
        assert answer["error"]["code"] == -32014
        assert "'1'" in answer["error"]["message"]
        assert host.peers == []

    run(short_dir, test)


@pytest.mark.usefixtures("no_leaks")
def test_closing_lets_every_connection_go(short_dir: Path) -> None:
    async def main() -> None:
        server = TalkBackServer(short_dir)
        await server.start()
        await server.start()
        host = Host(server)
        host.expect()
        one, first = await host.connect()
        first.write(greeting(host.token))
        await one.readline()
        two, second = await host.connect()
        second.write(b"x")
        while not server._greetings:  # noqa: ASYNC110 - it is accepted in a turn or two
            await asyncio.sleep(0)
        await server.close()
        await server.close()
        for reader in (one, two):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        for writer in (first, second):
            writer.close()
        assert not Path(server.path).exists()
        await asyncio.sleep(0)

    asyncio.run(main())


def test_what_a_killed_host_left_is_removed_and_a_living_ones_is_not(short_dir: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(60)
    dead, foreign = short_dir / f"talk-{process.pid}-dead.sock", short_dir / "other.sock"
    for path in (dead, foreign):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))

    async def main() -> None:
        one, two = TalkBackServer(short_dir), TalkBackServer(short_dir)
        await one.start()
        await two.start()
        assert not dead.exists()
        assert foreign.exists()
        assert Path(one.path).exists()
        await one.close()
        await two.close()

    asyncio.run(main())
