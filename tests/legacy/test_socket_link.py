from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.values.errors import PluginError, ToolCallError
from ally_plugins.contract.values.events import EventsDropped, TodoUpdate, ToolCallEnd, ToolCallStart
from ally_plugins.host.sockets.link import QUEUE, SocketLink
from ally_plugins.host.sockets.messages import ArrivingAnswer
from ally_plugins.runtime.lanes.link import DaemonGone, NotSent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ally_plugins.contract.values.events import Event

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")

ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def event(number: int = 0) -> Event:
    return ToolCallStart(tool_name="bash", arguments={"number": number})


async def stats(link: SocketLink) -> list[dict[str, Any]]:
    result = await link.call("get_stats", {})
    return [dict(each) for each in result["data"]["seen"]]


# --- calls ---


def test_a_method_is_called_with_its_arguments_and_an_integer_id(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon(
        """
def answer(request):
    return {"keys": sorted(request), "id": request["id"], "params": request["params"]}
"""
    )

    async def main() -> None:
        link = SocketLink("me", daemon.path)
        first = await link.call("add", {"a": 1, "b": [True, None]})
        second = await link.call("add", {})
        assert first["keys"] == ("id", "jsonrpc", "method", "params")
        assert first["params"] == {"a": 1, "b": (True, None)}
        assert (first["id"], second["id"]) == (1, 2)

    asyncio.run(main())


def test_many_calls_at_once_each_get_their_own_answer(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon("def answer(request): return request['params']['n']")

    async def main() -> None:
        link = SocketLink("me", daemon.path)
        assert await asyncio.gather(*(link.call("echo", {"n": n}) for n in range(50))) == list(range(50))

    asyncio.run(main())


@pytest.mark.parametrize("is_answered", [True, False])
def test_an_answer_to_half_of_a_request_is_read_before_the_connection_is_called_broken(
    short_dir: Path,
    is_answered: bool,  # noqa: FBT001
) -> None:
    path = str(short_dir / "hasty.sock")

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(10)
            if is_answered:
                connection.sendall(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"too much"}}\n')

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()
            serving = asyncio.create_task(asyncio.to_thread(serve, listening))
            problem = "failed: too much" if is_answered else "cannot be reached on"
            with pytest.raises(ToolCallError, match=problem):
                await SocketLink("me", path).call("go", {"text": "x" * 5_000_000})
            await serving

    asyncio.run(main())


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ('b\'{"jsonrpc":"2.0","id":%d,"result":1}\\n\' % (number + 1)', "answered with the id 2; expected 1"),
        ('b\'{"jsonrpc":"2.0","id":"%d","result":1}\\n\' % number', "answered with the id '1'; expected 1"),
        ('b\'{"jsonrpc":"2.0","id":true,"result":1}\\n\'', "answered with the id True; expected 1"),
        ('b\'{"jsonrpc":"2.0","id":1.0,"result":1}\\n\'', "answered with the id 1.0; expected 1"),
        ('b\'{"jsonrpc":"2.0","result":1}\\n\'', "answered with the id None; expected 1"),
        ('b\'{"jsonrpc":"2.0","id":%d}\\n\' % number', "neither a result nor an error"),
        ('b\'{"id":%d,"result":1}\\n\' % number', "answered with the jsonrpc None; expected '2.0'"),
        ('b\'{"jsonrpc":"1.0","id":%d,"result":1}\\n\' % number', "answered with the jsonrpc '1.0'; expected '2.0'"),
        ('b\'{"jsonrpc":2.0,"id":%d,"result":1}\\n\' % number', "answered with the jsonrpc 2.0; expected '2.0'"),
        ('b\'{"jsonrpc":"1.0","id":null,"error":{"code":1,"message":"x"}}\\n\'', "the jsonrpc '1.0'"),
        ('b\'{"jsonrpc":"2.0",\\n"id":1,\'', "answered what is not JSON"),
        ("b'[1, 2]\\n'", "answered with a list"),
        ("b'hello there\\n'", "answered what is not JSON: hello there"),
        ('b\'{"jsonrpc":"2.0","id":1,"result":[-9223372036854775809]}\\n\'', r"result\[0\] is an integer of 19 digits"),
        ("b'\\xff\\xfe\\n'", "answered what is not JSON"),
        ("b'\\x1b[2Jboo\\n'", r"not JSON: \\x1b\[2Jboo"),
        ("b''", "closed the connection without an answer"),
        ("b'\\n\\n'", "closed the connection without an answer"),
        ("b'{' + b'x' * 3000 + b'\\n'", "is not JSON"),
        ("b'{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":' + b'[' * 200 + b']' * 200 + b'}\\n'", "cannot be kept"),
        ('b\'{"jsonrpc":"2.0","id":1,"result":[\' + b\'0,\' * 300000 + b\'0]}\\n\'', "more than 250000 values"),
        (
            'b\'{"jsonrpc":"2.0","id":%d,"error":{"code":-32601,"message":"Method not found"}}\\n\' % number',
            r"failed: Method not found \(code -32601\)",
        ),
        ('b\'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"bad"}}\\n\'', "failed: bad"),
        ('b\'{"jsonrpc":"2.0","id":%d,"error":"oops"}\\n\' % number', "failed: oops"),
        ('b\'{"jsonrpc":"2.0","id":%d,"error":{"code":"x"}}\\n\' % number', "failed: no message"),
    ],
)
def test_what_is_no_answer_is_an_error_that_says_what_came(
    start_daemon: Callable[..., Any], reply: str, problem: str
) -> None:
    daemon = start_daemon(
        f"""
def talk(connection, request):
    number = request["id"]
    connection.sendall({reply})
"""
    )

    async def main() -> None:
        with pytest.raises(ToolCallError, match=problem) as caught:
            await SocketLink("me", daemon.path).call("go", {})
        assert (caught.value.tool, caught.value.plugin) == ("go", "me")
        assert len(str(caught.value)) < 2_500
        assert str(caught.value).isprintable()

    asyncio.run(main())


@pytest.mark.parametrize(
    "code",
    [
        "connection.sendall(reply)",  # no newline: it hangs up instead
        "connection.sendall(b'\\r\\n\\n' + reply + b'\\r\\n')",
        "[connection.sendall(reply[i:i+1]) for i in range(len(reply))]",
        "connection.sendall(reply + b'\\ngarbage that nobody reads')",
        "connection.sendall(reply + b'\\n{\"a second answer\": [')",
        "connection.sendall(reply); connection.recv(1)",  # no newline, and it waits for the other end to hang up
        "connection.sendall(b'\\xef\\xbb\\xbf' + reply)",
        "connection.sendall(json.dumps(json.loads(reply), indent='\\t').encode()); connection.recv(1)",
        "connection.sendall(reply.replace(b',', b'\\r\\n\\r\\n,') + b'\\r\\n')",
    ],
)
def test_an_answer_may_come_without_a_newline_in_pieces_or_over_several_lines(
    start_daemon: Callable[..., Any], code: str
) -> None:
    daemon = start_daemon(
        f"""
def talk(connection, request):
    result = 'fi"]}}}}\\n{{{{['
    reply = json.dumps({{"jsonrpc": "2.0", "id": request["id"], "result": result, "error": None}}).encode()
    {code}
"""
    )

    async def main() -> None:
        assert await SocketLink("me", daemon.path).call("go", {}) == 'fi"]}}\n{{['

    asyncio.run(main())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
)


@pytest.mark.slow
@given(
    value=st.dictionaries(st.text(), VALUES) | st.lists(VALUES),
    indent=st.sampled_from([None, 0, 2]),
    cuts=st.lists(st.integers(0, 200)),
)
def test_an_answer_ends_with_its_value_wherever_it_is_cut(value: Any, indent: int | None, cuts: list[int]) -> None:
    text = json.dumps(value, indent=indent).encode()
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    answer = ArrivingAnswer()
    wholes = [answer.receive_data(text[start:end]) for start, end in pairwise(edges)]
    assert wholes == [False] * (len(wholes) - 1) + [True]
    assert json.loads(answer.data) == value


def test_a_lone_surrogate_in_an_answer_is_a_question_mark(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon("def answer(request): return 'caf\\udcc3\\udca9'")  # a file's name, as Python has it

    async def main() -> None:
        assert await SocketLink("me", daemon.path).call("go", {}) == "caf??"

    asyncio.run(main())


def test_an_answer_that_is_never_finished_is_shown_when_the_time_is_up(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon("def talk(connection, request): connection.sendall(b'{\"jsonrpc\":\\n'); connection.recv(1)")

    async def main() -> None:
        with pytest.raises(ToolCallError, match=r'did not answer within 0\.3 s to its end: \{"jsonrpc":'):
            await SocketLink("me", daemon.path).call("go", {}, 0.3)

    asyncio.run(main())


@pytest.mark.slow
def test_a_flood_of_brackets_or_quotes_is_not_read_to_its_end() -> None:
    for flood in (b"[" * 70_000, b'{"":' * 70_000):
        answer = ArrivingAnswer()
        chunks = next(count for count in range(1, 1000) if answer.receive_data(flood))
        assert chunks < 20


@pytest.mark.slow
def test_an_answer_over_the_limit_is_refused_and_one_of_that_size_taken(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon(
        """
def talk(connection, request):
    frame = b'{"jsonrpc":"2.0","id":%d,"result":"' % request["id"]
    size = request["params"]["size"]
    try:
        connection.sendall(frame + b"x" * (size - len(frame) - 2) + b'"}\\n')
    except BrokenPipeError:
        pass
"""
    )

    async def main() -> None:
        limit = 10 * 1024 * 1024
        link = SocketLink("me", daemon.path)
        assert len(await link.call("go", {"size": limit})) > limit - 100
        with pytest.raises(ToolCallError, match=f"more than {limit} bytes"):
            await link.call("go", {"size": limit + 1})

    asyncio.run(main())


def test_an_answer_without_an_end_is_cut_off_at_the_limit(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon(
        """
def talk(connection, request):
    try:
        while True:
            connection.sendall(b"x" * 65536)
    except BrokenPipeError:
        pass
"""
    )

    async def main() -> None:
        with pytest.raises(ToolCallError, match="more than 1000000 bytes"):
            await SocketLink("me", daemon.path, max_response=1_000_000).call("go", {})

    asyncio.run(main())


def test_a_daemon_that_does_not_answer_is_given_up_after_the_timeout(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon("def talk(connection, request): time.sleep(600)")

    async def main() -> None:
        with pytest.raises(ToolCallError, match=r"did not answer within 0\.2 s"):
            await SocketLink("me", daemon.path).call("go", {}, 0.2)

    asyncio.run(main())


def test_a_daemon_that_is_not_there_is_named_with_its_socket(short_dir: Path) -> None:
    path = str(short_dir / "none.sock")

    async def main() -> None:
        with pytest.raises(ToolCallError, match="cannot be reached") as caught:
            await SocketLink("me", path).call("go", {})
        assert path in str(caught.value)

    asyncio.run(main())


@ONLY_LINUX
def test_a_full_queue_of_connections_is_waited_for_and_not_taken_for_connected(short_dir: Path) -> None:
    path = str(short_dir / "full.sock")

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
            listener.bind(path)
            listener.listen(0)
            first.connect(path)
            link = SocketLink("me", path)
            with pytest.raises(ToolCallError, match="did not answer within"):
                await link.call("go", {}, 0.3)
            call = asyncio.create_task(link.call("go", {}, 30))
            loop = asyncio.get_running_loop()
            listener.setblocking(False)  # noqa: FBT003
            with (await loop.sock_accept(listener))[0], (await loop.sock_accept(listener))[0] as second:
                assert json.loads(await loop.sock_recv(second, 1000))["method"] == "go"
                await loop.sock_sendall(second, b'{"jsonrpc":"2.0","id":2,"result":7}\n')
                assert await call == 7

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs to be another user")
def test_a_listener_of_another_user_is_told_nothing(short_dir: Path) -> None:
    path = str(short_dir / "evil.sock")
    short_dir.chmod(0o777)
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.setuid(65534)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        os.write(writing, b"!")
        heard = b"".join(iter(lambda: listener.accept()[0].recv(100), b"x"))
        os._exit(1 if heard else 0)
    try:
        os.read(reading, 1)

        async def main() -> None:
            with pytest.raises(ToolCallError, match="belongs to another user"):
                await SocketLink("me", path).call("go", {"secret": 1})
            with pytest.raises(PluginError, match="belongs to another user"):
                await SocketLink("me", path).wait_ready(10)

        asyncio.run(main())
    finally:
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        os.close(reading)
        os.close(writing)


def test_cancelling_a_call_hangs_up(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon(
        """
ended = []
def talk(connection, request):
    if request["method"] == "wait":
        ended.append(connection.recv(1))
    else:
        connection.sendall(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": len(ended)}).encode())
"""
    )

    async def main() -> None:
        link = SocketLink("me", daemon.path)
        waiting = asyncio.create_task(link.call("wait", {}))
        asking = asyncio.create_task(link.call("ask", {}))
        done, _ = await asyncio.wait([waiting, asking], timeout=0.1)
        assert not done
        waiting.cancel()
        assert await asking == 1

    asyncio.run(main())


# --- events ---


def test_events_come_in_order_with_the_fields_that_daemons_read(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon()

    async def main() -> None:
        link = SocketLink("me", daemon.path)
        link.write_events([event(n) for n in range(100)])
        link.write_events([TodoUpdate(todos=())])
        await link.drain()
        seen = await stats(link)
        assert link.counts.sent == 101
        assert [each["event_data"]["arguments"]["number"] for each in seen[:-1]] == list(range(100))
        for each in seen:
            assert each["type"] == each["event_type"]
            assert each["data"] == each["event_data"]
            assert isinstance(each["timestamp"], int)
        assert seen[0]["event_type"] == "TOOL_CALL_START"
        assert seen[0]["event_data"]["toolName"] == "bash"
        assert seen[-1]["event_type"] == "TODO_UPDATE"

    asyncio.run(main())


def test_an_event_that_cannot_be_said_is_dropped_and_the_others_come(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon()

    async def main() -> None:
        link = SocketLink("me", daemon.path)
        bad: Any = object()
        link.write_events([event(1), ToolCallEnd(tool_name="bash", output=bad), event(2)])
        await link.drain()
        assert [each["event_data"]["arguments"]["number"] for each in await stats(link)] == [1, 2]
        assert (link.counts.sent, link.counts.dropped, link.counts.lost) == (2, 1, 0)
        with pytest.raises(NotSent, match=r"params\.n is an integer of 16610 bits"):
            await link.call("stats", {"n": 10**5000})
        with pytest.raises(NotSent, match=r"params\.n is an integer of 65 bits"):
            await link.call("stats", {"n": 2**64})

    asyncio.run(main())


def test_an_event_is_a_notification_on_a_connection_of_its_own(short_dir: Path) -> None:
    path = str(short_dir / "one.sock")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            listener.setblocking(False)  # noqa: FBT003
            link = SocketLink("me", path)
            link.write_events([event(1), event(2)])
            for number in (1, 2):
                connection, _ = await loop.sock_accept(listener)
                with connection:
                    data = await loop.sock_recv(connection, 65536)
                    assert await loop.sock_recv(connection, 1) == b""
                assert data.endswith(b"\n")
                assert data.count(b"\n") == 1
                message = json.loads(data)
                assert "id" not in message
                assert message["jsonrpc"] == "2.0"
                assert message["method"] == "on_event"
                assert message["params"]["event_data"]["arguments"] == {"number": number}

    asyncio.run(main())


def test_a_daemon_that_does_not_read_loses_events_and_delays_nobody(
    start_daemon: Callable[..., Any], short_dir: Path
) -> None:
    daemon = start_daemon()
    path = str(short_dir / "deaf.sock")

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(path)
            deaf.listen(1)
            slow = SocketLink("deaf", path, notification_timeout=0.05)
            fast = SocketLink("me", daemon.path)
            huge = ToolCallStart(tool_name="bash", arguments={"text": "x" * 3_000_000})
            slow.write_events([huge] * 3)
            fast.write_events([event(n) for n in range(20)])
            await fast.drain()
            assert len(await stats(fast)) == 20
            await slow.drain()
            assert (slow.counts.sent, slow.counts.lost) == (0, 3)

    asyncio.run(main())


def test_the_queue_is_bounded_and_the_oldest_are_dropped_and_counted(short_dir: Path) -> None:
    async def main() -> None:
        link = SocketLink("me", str(short_dir / "none.sock"))
        assert link.can_write
        link.write_events([event(n) for n in range(QUEUE // 2)])
        assert not link.can_write
        link.write_events([event(n) for n in range(QUEUE)])
        assert link.counts.dropped == QUEUE // 2
        await link.drain()
        assert link.counts.lost == QUEUE
        assert link.can_write

    asyncio.run(main())


def test_who_had_to_stop_is_told_when_it_may_go_on(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon()

    async def main() -> None:
        told = asyncio.Event()
        link = SocketLink("me", daemon.path, on_writable=told.set)
        link.write_events([event(n) for n in range(QUEUE // 2 + 10)])
        await asyncio.wait_for(told.wait(), 60)
        assert link.can_write
        link.close()

    asyncio.run(main())


def test_events_for_a_daemon_that_is_not_running_are_skipped(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon()

    async def main() -> None:
        link = SocketLink("me", daemon.path, is_running=lambda: False)
        link.write_events([event()])
        await link.drain()
        assert (link.counts.skipped, link.counts.sent) == (1, 0)

    asyncio.run(main())


def test_older_daemons_are_not_told_what_they_do_not_know(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon()

    async def main() -> None:
        link = SocketLink("me", daemon.path)
        link.write_events([EventsDropped(plugin_name="me", count=3, ranges=[(1, 3)]), event(7)])
        await link.drain()
        assert [each["type"] for each in await stats(link)] == ["TOOL_CALL_START"]

    asyncio.run(main())


def test_an_event_after_the_daemon_died_is_lost_and_harms_nobody(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon()
    daemon.process.kill()
    daemon.process.wait()

    async def main() -> None:
        link = SocketLink("me", daemon.path)
        link.write_events([event()])
        await link.drain()
        assert link.counts.lost == 1

    asyncio.run(main())


# --- readiness and health ---


def test_a_daemon_is_ready_once_its_socket_accepts(start_daemon: Callable[..., Any], short_dir: Path) -> None:
    path = str(short_dir / "late.sock")

    async def main() -> None:
        waiting = asyncio.create_task(SocketLink("me", path).wait_ready(60))
        await asyncio.sleep(0)
        await asyncio.to_thread(start_daemon, path=path)
        await waiting

    asyncio.run(main())


def test_a_daemon_that_exits_first_is_not_waited_for(short_dir: Path) -> None:
    async def main() -> None:
        exited = asyncio.get_running_loop().create_future()
        exited.set_result(None)
        with pytest.raises(DaemonGone, match="exited before it listened"):
            await SocketLink("me", str(short_dir / "none.sock")).wait_ready(60, exited)

    asyncio.run(main())


@pytest.mark.parametrize("turns", range(4))
def test_waiting_for_a_daemon_can_be_cancelled_just_after_it_has_exited(short_dir: Path, turns: int) -> None:
    async def main() -> None:
        exited = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(SocketLink("me", str(short_dir / "none.sock")).wait_ready(60, exited))
        await asyncio.sleep(0)
        exited.set_result(None)
        for _ in range(turns):
            await asyncio.sleep(0)
        if waiting.cancel():
            await asyncio.wait([waiting])
            assert waiting.cancelled()
        else:
            assert isinstance(waiting.exception(), DaemonGone)

    asyncio.run(main())


def test_a_daemon_that_never_listens_is_given_up_with_a_hint(short_dir: Path) -> None:
    async def main() -> None:
        with pytest.raises(PluginError, match=r"did not listen on .* within 0.1 s; .*SOCKET_PATH"):
            await SocketLink("me", str(short_dir / "none.sock")).wait_ready(0.1)

    asyncio.run(main())


def test_a_file_that_is_no_socket_is_not_taken_for_a_daemon(short_dir: Path) -> None:
    (short_dir / "file").write_text("x")

    async def main() -> None:
        with pytest.raises(PluginError, match="did not listen"):
            await SocketLink("me", str(short_dir / "file")).wait_ready(0.1)

    asyncio.run(main())


def test_a_connection_is_all_that_health_asks_for(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon()

    async def main() -> None:
        link = SocketLink("me", daemon.path)
        assert await link.ping() == "pong"
        assert await link.request("ping", {}) == "pong"
        assert await stats(link) == []

    asyncio.run(main())


@pytest.mark.slow
@ONLY_LINUX
def test_a_stopped_daemon_is_noticed_although_the_kernel_takes_its_connections(
    start_daemon: Callable[..., Any],
) -> None:
    daemon = start_daemon()

    async def main() -> None:
        link = SocketLink("me", daemon.path, health_timeout=0.5)
        assert await link.ping() == "pong"
        daemon.process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(os.waitid, os.P_PID, daemon.process.pid, os.WSTOPPED)
        with pytest.raises(PluginError, match="is stopped: its process"):
            await link.ping()
        daemon.process.send_signal(signal.SIGCONT)
        link.health_timeout = 30.0
        assert await link.ping() == "pong"

    asyncio.run(main())


@pytest.mark.slow
def test_a_daemon_that_is_at_work_for_long_is_healthy_all_the_same(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon("def talk(connection, request): time.sleep(600)")

    async def main() -> None:
        link = SocketLink("me", daemon.path, health_timeout=0.5)
        link.write_events([event()])
        await link.drain()
        for _ in range(3):
            assert await link.ping() == "pong"

    asyncio.run(main())


@ONLY_LINUX
def test_a_daemon_that_has_taken_no_connection_for_long_is_not_healthy(short_dir: Path) -> None:
    path = str(short_dir / "hung.sock")

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(2)
            link = SocketLink("me", path, health_timeout=0.2)
            for _ in range(3):  # the kernel keeps one more than it was told
                assert await link.ping() == "pong"
            with pytest.raises(PluginError, match=r"took no connection within 0\.2 s"):
                await link.ping()

    asyncio.run(main())


def test_a_daemon_that_is_gone_is_not_healthy(short_dir: Path) -> None:
    async def main() -> None:
        with pytest.raises(PluginError, match="cannot be reached"):
            await SocketLink("me", str(short_dir / "none.sock"), health_timeout=0.2).ping()

    asyncio.run(main())


# --- as a link of the host ---


def test_what_a_listening_daemon_cannot_be_asked_fails_and_reaches_nobody(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon()

    async def main() -> None:
        link = SocketLink("me", daemon.path)
        for method in ("gate", "transform", "get_stats", "initialize"):
            with pytest.raises(PluginError, match=f"cannot be asked for '{method}'"):
                await link.request(method, {})
        assert await link.request("start", {}) is None
        assert await link.request("shutdown", {"reason": "x"}) is None
        with pytest.raises(TypeError):
            link.write(b"{}\n")
        assert not link.takes_lines

    asyncio.run(main())


def test_draining_waits_for_the_events_before_it(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon()

    async def main() -> None:
        link = SocketLink("me", daemon.path)
        link.write_events([event(n) for n in range(30)])
        await link.request("drain", {})
        assert link.counts.sent == 30

    asyncio.run(main())


@pytest.mark.usefixtures("no_leaks")
def test_closing_leaves_no_task_and_no_descriptor(start_daemon: Callable[..., Any]) -> None:
    daemon = start_daemon("def talk(connection, request): time.sleep(600)")

    async def main() -> None:
        link = SocketLink("me", daemon.path)
        asking = asyncio.create_task(link.call("go", {}))
        link.write_events([event(n) for n in range(10)])
        await asyncio.sleep(0)
        link.close()
        asking.cancel()
        await asyncio.wait([asking])
        with pytest.raises(DaemonGone):
            await link.request("ping", {})
        link.write_events([event()])
        assert link.counts.skipped == 1

    asyncio.run(main())
