"""Plugins that run once for many hosts: over the real server, with processes of their own, on bad days."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import orjson
import pytest
from attrs import asdict, evolve

from ally_plugins import Allow, Deny, Host, ToolCall
from ally_plugins.contract.values.compat import override
from ally_plugins.fleet.connection import connected
from ally_plugins.fleet.credentials import (
    STREAM,
    WORKERS,
    Credentials,
    alive_subject,
    from_host,
    hello_subject,
    records_subject,
    to_host,
)
from ally_plugins.fleet.frames import End, FrameStream
from ally_plugins.fleet.link_transport import LinkTransport
from ally_plugins.fleet.proofs import Certificate, Proof, new_seed, public_key
from ally_plugins.fleet.publishing import publish_now
from ally_plugins.runtime.lanes.teardown import cancel_task
from tests.kit.fleets import DIGEST, serving, shared
from tests.kit.hosts import new_host
from tests.kit.waiting import go, until

from .conftest import host, record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from tests.kit.fleets import Server

pytestmark = pytest.mark.shared


async def where(one: Host) -> dict[str, Any]:
    """Return what the plugin says of the place that it runs in."""
    return dict((await one.call_tool("where", plugin="p")).data)


def is_running(one: Host) -> bool:
    """Say whether the plugin has a link."""
    return one.plugins["p"].is_running


def restarts(one: Host) -> int:
    """Return how many links the plugin has had before this one."""
    supervisor = one.plugins["p"].supervisor
    assert supervisor is not None
    count: int = supervisor.describe()["restarts"]
    return count


# --- one process for many ---


@pytest.mark.slow
@pytest.mark.smoke
def test_hosts_share_one_process_of_a_plugin_and_each_has_an_instance_of_its_own(server: Server) -> None:
    async def main() -> None:
        async with serving(server.who("worker-1"), [record()]), host(server) as one, host(server, "build-1") as other:
            session = one.session()
            assert (await session.gate_tool_call(ToolCall("rm"))).verdict == Deny("p: not today")
            assert (await session.gate_tool_call(ToolCall("ls"))).verdict == Allow()
            mine, others = await where(one), await where(other)
            assert mine["pid"] == others["pid"]
            assert mine["instances"] == others["instances"] == 2
            assert (mine["seen"], others["seen"]) == (("rm", "ls"), ())
            assert mine["data"].endswith("/hosts/laptop")
            assert others["data"].endswith("/hosts/build-1")

    go(main())


def test_a_host_that_stops_takes_its_instance_along_and_leaves_the_others_alone(server: Server) -> None:
    async def main() -> None:
        async with serving(server.who("worker-1"), [record()]) as worker, host(server) as one:
            async with host(server, "build-1") as other:
                before = await where(other)
                assert len(worker.links) == 2
            await until(lambda: len(worker.links) == 1)
            assert (await where(one))["pid"] == before["pid"]
            assert one.plugins["p"].counts.crashes == 0

    go(main())


# --- closed ---


@pytest.mark.parametrize("what", ["server", "worker", "credentials", "authority"])
def test_without_a_way_to_a_worker_a_gate_is_closed_and_the_host_runs(
    server: Server, what: str, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.toml"
    if what != "credentials":
        text = server.file("laptop").read_text()
        file.write_text("\n".join(line for line in text.splitlines() if what != "authority" or "authority" not in line))

    async def main() -> None:
        if what == "server":
            server.kill()
        mine = shared(record())
        async with new_host({"p": (mine.daemon, mine)}, fleet=file) as one:
            ruling = await one.session().gate_tool_call(ToolCall("ls"))
            assert isinstance(ruling.verdict, Deny)
            plugin = one.plugins["p"]
            expected = {
                "server": "does not take 'laptop'",
                "worker": "no worker serves it with the files that were agreed to",
                "credentials": f"there is no '{file}'",
                "authority": "fleet.toml has no authority",
            }
            assert expected[what] in plugin.reason
            assert plugin.counts.crashes == 0

    go(main())


def test_a_plugin_whose_process_dies_in_a_gate_denies_that_call_and_answers_the_next(server: Server) -> None:
    async def main() -> None:
        async with serving(server.who("worker-1"), [record()]), host(server) as one:
            session = one.session()
            before = await where(one)
            ruling = await session.gate_tool_call(ToolCall("die"))
            assert isinstance(ruling.verdict, Deny)
            assert "its process was killed by SIGKILL" in ruling.reason
            await until(lambda: restarts(one) and is_running(one))
            assert (await session.gate_tool_call(ToolCall("ls"))).verdict == Allow()
            assert (await where(one))["pid"] != before["pid"] or (await where(one))["instances"] == 1
            assert one.plugins["p"].counts.crashes > 0

    go(main())


def test_when_a_worker_ends_its_hosts_go_to_the_other_one(server: Server) -> None:
    async def main() -> None:
        async with serving(server.who("worker-2"), [record()]) as second:
            async with serving(server.who("worker-1"), [record()]) as first:
                hosts = [host(server) for _ in range(8)]
                await asyncio.gather(*(each.start() for each in hosts))
                # The server gives each question to one of the two; that all eight are given to one is 1 in 128.
                await until(lambda: len(first.links) + len(second.links) == 8)
            for each in hosts:
                await until(partial(is_running, each))
                assert (await each.session().gate_tool_call(ToolCall("ls"))).verdict == Allow()
                assert each.plugins["p"].counts.crashes <= 1
            assert len(second.links) == 8
            await asyncio.gather(*(each.stop() for each in hosts))

    go(main())


def test_files_that_were_not_agreed_to_are_not_asked_for(server: Server) -> None:
    async def main() -> None:
        mine = shared(record(), digest="e" * 64)
        plugins = {"p": (mine.daemon, mine)}
        async with serving(server.who("worker-1"), [record()]), new_host(plugins, fleet=server.file("laptop")) as one:
            assert isinstance((await one.session().gate_tool_call(ToolCall("ls"))).verdict, Deny)
            assert "no worker serves it with the files that were agreed to" in one.plugins["p"].reason

    go(main())


def test_a_server_that_is_killed_closes_gates_until_it_is_back(server: Server) -> None:
    async def main() -> None:
        async with serving(server.who("worker-1"), [record()]), host(server) as one:
            session = one.session()
            assert (await session.gate_tool_call(ToolCall("ls"))).verdict == Allow()
            await asyncio.to_thread(server.kill)
            await until(lambda: not one.plugins["p"].is_running)
            assert isinstance((await session.gate_tool_call(ToolCall("ls"))).verdict, Deny)
            await asyncio.to_thread(server.start)
            await until(lambda: one.plugins["p"].is_running)
            assert (await session.gate_tool_call(ToolCall("ls"))).verdict == Allow()
            assert one.plugins["p"].counts.crashes == 0

    go(main())


def test_two_versions_are_served_side_by_side_and_each_host_gets_the_one_it_agreed_to(server: Server) -> None:
    async def main() -> None:
        old, new = shared(record()), shared(record(), digest="e" * 64)
        async with (
            serving(server.who("worker-1"), [record()]) as first,
            serving(server.who("worker-2"), [record()], digest="e" * 64) as second,
        ):
            kinds = [old, new] * 3
            hosts = [new_host({"p": (each.daemon, each)}, fleet=server.file("laptop")) for each in kinds]
            await asyncio.gather(*(each.start() for each in hosts))
            assert (len(first.links), len(second.links)) == (3, 3)
            for each in hosts:
                assert (await each.session().gate_tool_call(ToolCall("ls"))).verdict == Allow()
            await asyncio.gather(*(each.stop() for each in hosts))

    go(main())


def test_a_host_whose_version_nobody_serves_any_more_is_closed_and_takes_no_other(server: Server) -> None:
    async def main() -> None:
        async with serving(server.who("worker-2"), [record()], digest="e" * 64) as newer, AsyncExitStack() as older:
            await older.enter_async_context(serving(server.who("worker-1"), [record()]))
            async with host(server) as one:
                plugin, session = one.plugins["p"], one.session()
                assert (await session.gate_tool_call(ToolCall("ls"))).verdict == Allow()
                await older.aclose()
                await until(lambda: "no worker serves it with the files that were agreed to" in plugin.reason)
                assert isinstance((await session.gate_tool_call(ToolCall("ls"))).verdict, Deny)
                assert newer.links == {}
                assert plugin.counts.crashes == 0

    go(main())


# --- how many ---


@pytest.mark.slow
@pytest.mark.smoke
def test_a_host_that_opens_link_after_link_gets_its_share_and_leaves_the_others_theirs(server: Server) -> None:
    async def main() -> None:
        async with serving(server.who("worker-1"), [record()], links_per_host=2) as worker:
            first, second, third = (host(server) for _ in range(3))
            async with second, host(server, "build-1") as other, first, third:
                ruling = await third.session().gate_tool_call(ToolCall("ls"))
                assert isinstance(ruling.verdict, Deny)
                assert "'laptop' has 2 links to it, and one host may have no more" in third.plugins["p"].reason
                assert (await other.session().gate_tool_call(ToolCall("ls"))).verdict == Allow()
                await first.stop()
                await until(lambda: third.plugins["p"].is_running)
                assert (await third.session().gate_tool_call(ToolCall("ls"))).verdict == Allow()
                assert third.plugins["p"].counts.crashes == 0
                assert len(worker.links) == 3

    go(main())


@pytest.mark.slow  # what nobody uses is ended after ten seconds
def test_a_link_that_its_host_did_not_wait_for_is_ended_though_the_host_goes_on_at_the_same_worker(
    server: Server,
) -> None:
    async def main() -> None:
        async with serving(server.who("worker-1"), [record()]) as worker, host(server) as one:
            [(_, used)] = worker.links
            async with connected(server.who("laptop")) as client:
                # As the host that is there asks, but nobody takes the answer.
                [link] = worker.links.values()
                question = orjson.dumps({"nonce": "late", "peer": link.peer})
                await client.request(hello_subject("p", DIGEST, "laptop"), question)
            assert ("laptop", "late") in worker.links
            await until(lambda: len(worker.links) == 1)
            assert [*worker.links] == [("laptop", used)]
            assert (await one.session().gate_tool_call(ToolCall("ls"))).verdict == Allow()
            assert restarts(one) == 0

    go(main())


@pytest.mark.slow
def test_links_of_a_connection_that_broke_are_ended_though_the_host_is_back_at_the_same_worker(server: Server) -> None:
    async def main() -> None:
        async with serving(server.who("worker-1"), [record()]) as worker, host(server) as one:
            [before] = worker.links
            supervisor: Any = one.plugins["p"].supervisor
            # The server and the worker go on; only this connection is gone, before it could say goodbye.
            supervisor.opener.plugins._client._transport.close()
            await until(lambda: restarts(one) and is_running(one))
            assert before in worker.links
            await until(lambda: before not in worker.links)
            assert len(worker.links) == 1
            assert (await one.session().gate_tool_call(ToolCall("ls"))).verdict == Allow()
            assert restarts(one) == 1

    go(main())


# --- ends that get lost ---


class HalfOpen:
    """What stands between a client and its server, and can lose the client while the server sees nothing of it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.made = 0
        self._clients: list[asyncio.StreamWriter] = []
        self._accepted: list[asyncio.Task[None]] = []
        self._lost: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Return the address to connect to."""
        async with await asyncio.start_server(self._accept, "127.0.0.1", 0) as listener:
            host, port = listener.sockets[0].getsockname()
            yield f"nats://{host}:{port}"
            self.lose()
            await self.end()

    def lose(self) -> None:
        """Cut off the client; its connection to the server stays as it is."""
        for writer in self._clients:
            writer.transport.abort()
        self._clients.clear()
        self._lost += self._accepted
        self._accepted.clear()

    async def end(self) -> None:
        """End the connections to the server whose clients are cut off, as it would itself after a time."""
        for task in self._lost:
            await cancel_task(task)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        self._clients.append(writer)
        task = asyncio.current_task()
        assert task is not None
        self._accepted.append(task)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(up_reader, writer))
                group.create_task(_copy(reader, up_writer))
        except asyncio.CancelledError:
            return  # what asyncio started is expected to end by itself
        finally:
            up_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)


def test_a_link_that_a_worker_lost_unseen_is_ended_by_the_next_call_and_made_anew(server: Server) -> None:
    async def main() -> None:
        between = HalfOpen(server.port)
        async with between.listening() as address:
            who = evolve(server.who("worker-1"), server=address)
            async with serving(who, [record()]) as worker, host(server) as one:
                session = one.session()
                assert (await session.gate_tool_call(ToolCall("ls"))).verdict == Allow()
                between.lose()
                await until(lambda: between.made == 2 and worker.client.is_connected)
                await worker.client.flush()
                assert not worker.links
                ruling = await session.gate_tool_call(ToolCall("ls"))
                assert isinstance(ruling.verdict, Deny)
                assert "the worker has no such link any more" in ruling.reason
                await between.end()  # who is asked for a worker must not be the one that leads to nobody
                await until(partial(is_running, one))
                assert (await session.gate_tool_call(ToolCall("ls"))).verdict == Allow()
                assert one.plugins["p"].counts.crashes == 0

    go(main())


def test_a_link_that_ends_before_its_host_knows_of_it_is_no_link(server: Server) -> None:
    async def main() -> None:
        who = server.who("worker-1")

        async def answer(message: Msg) -> None:
            nonce, name = orjson.loads(message.data)["nonce"], message.subject.rpartition(".")[2]
            end = FrameStream().end(End("its process was killed by SIGKILL"))
            await client.publish(to_host(who.name, name, nonce), end)
            proof = Proof(nonce, name, "p", "1", DIGEST, who.certificate or "", "instance")
            await message.respond(proof.signed(who.seed))

        async with connected(who) as client:
            await client.subscribe(hello_subject("p", DIGEST, "*"), queue=WORKERS, cb=answer)
            await client.flush()
            async with host(server) as one:
                assert isinstance((await one.session().gate_tool_call(ToolCall("ls"))).verdict, Deny)
                assert "was killed by SIGKILL" in one.plugins["p"].reason
                assert one.plugins["p"].counts.crashes > 0

    go(main())


def test_a_server_that_reads_no_more_keeps_nobody_from_closing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ally_plugins.fleet.connection.CONNECT_S", 0.5)

    async def main() -> None:
        who = server.who("laptop")
        assert server.process is not None
        async with connected(who) as client:
            server.process.send_signal(signal.SIGSTOP)
            for _ in range(64):
                publish_now(client, from_host("worker-1", "laptop", "link"), b"x" * 1_000_000)
        server.process.send_signal(signal.SIGCONT)

    go(main(), 30)


# --- what is larger than a message ---


def test_a_call_that_is_larger_than_any_message_of_the_server_is_shown_whole(server: Server) -> None:
    conf = server.folder / "server.conf"
    server.kill()
    conf.write_text(conf.read_text().replace("max_payload: 8388608", "max_payload: 65536"))
    server.start()

    async def main() -> None:
        async with serving(server.who("worker-1"), [record()]), host(server) as one:
            session = one.session()
            assert (await session.gate_tool_call(ToolCall("bash", {"command": "x" * 6_000_000}))).verdict == Allow()
            assert (await where(one))["longest"] == 6_000_000

    go(main())


# --- who answers ---


class Rogue:
    """Somebody with a worker's key who answers what it likes; `change` makes of a true proof what it says."""

    def __init__(self, who: Credentials, change: Callable[[Proof], bytes]) -> None:
        self.who = who
        self.change = change
        self.asked = 0

    async def answer(self, message: Msg) -> None:
        """Answer a host that asks for the plugin `p`."""
        self.asked += 1
        nonce = orjson.loads(message.data)["nonce"]
        host_name = message.subject.rpartition(".")[2]
        true = Proof(nonce, host_name, "p", "1", DIGEST, self.who.certificate or "", "instance")
        await message.respond(self.change(true))


def forged(who: Credentials, how: str, other: Credentials) -> Callable[[Proof], bytes]:
    """Return one way to answer falsely."""
    own = new_seed()
    certified = Certificate(who.name, public_key(who.seed, who.name), ("p", "q")).signed(own)
    return {
        "another plugin": lambda true: evolve(true, plugin="q").signed(who.seed),
        "other files": lambda true: evolve(true, digest="e" * 64).signed(who.seed),
        # True once, to the question of that number, and kept since.
        "a replayed answer": lambda true: evolve(true, nonce="0" * 32).signed(who.seed),
        "an answer to another host": lambda true: evolve(true, host="build-1").signed(who.seed),
        "another one's certificate": lambda true: evolve(true, certificate=other.certificate or "").signed(who.seed),
        "a certificate of its own": lambda true: evolve(true, certificate=certified).signed(who.seed),
        "more than is known": lambda true: orjson.dumps({**orjson.loads(true.signed(who.seed)), "since": "2"}),
        "no signature": lambda true: orjson.dumps(asdict(true)),
        "a changed answer": lambda true: true.signed(who.seed).replace(b'"version":"1"', b'"version":"2"'),
        "garbage": lambda _: b"\xff{",
        "no object": lambda _: b"[1]",
        "nothing": lambda _: b"",
    }[how]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("another plugin", "runs 'q', expected 'p'"),
        ("other files", "and dddddd"),
        ("a replayed answer", "has answered another question"),
        ("an answer to another host", "has answered another question"),
        ("another one's certificate", "is not signed by the key"),
        ("a certificate of its own", "is not signed by the key"),
        ("more than is known", "what has answered is no worker"),
        ("no signature", "is not signed by the key"),
        ("a changed answer", "is not signed by the key"),
        ("garbage", "what has answered is no worker"),
        ("no object", "what has answered is no worker"),
        ("nothing", "what has answered is no worker"),
    ],
)
def test_a_false_answer_is_refused_and_the_gate_is_closed(server: Server, how: str, expected: str) -> None:
    async def main() -> None:
        who = server.who("worker-1")
        rogue = Rogue(who, forged(who, how, server.who("worker-2")))
        async with connected(who) as client:
            await client.subscribe(hello_subject("p", DIGEST, "*"), queue=WORKERS, cb=rogue.answer)
            await client.flush()
            async with host(server) as one:
                assert rogue.asked
                assert isinstance((await one.session().gate_tool_call(ToolCall("ls"))).verdict, Deny)
                assert expected in one.plugins["p"].reason
                assert one.plugins["p"].counts.crashes == 0

    go(main())


class Newer(asyncio.Protocol):
    """The plugin of a worker that speaks a later version of the protocol."""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note what is written to."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        """Answer `initialize`."""
        answer = {"name": "p", "version": "1", "protocol": "99"}
        number = orjson.loads(data)["id"]
        self.transport.write(orjson.dumps({"jsonrpc": "2.0", "id": number, "result": answer}) + b"\n")


def test_a_worker_of_a_later_version_is_not_understood_and_the_one_that_is_takes_its_place(server: Server) -> None:
    who = server.who("worker-1")
    links: dict[str, LinkTransport] = {}

    async def main() -> None:
        async with connected(who) as client:
            rogue = Rogue(who, lambda true: true.signed(who.seed))

            async def receive(message: Msg) -> None:
                link = message.subject.rpartition(".")[2]
                send = partial(publish_now, client, to_host("worker-1", "laptop", link))
                if link.startswith("beat-"):
                    send(b"instance")
                    return
                if link not in links:
                    links[link] = LinkTransport(Newer(), send, lambda _: None)
                links[link].receive(message.data)

            await client.subscribe(from_host("worker-1", "*", "*"), cb=receive)
            await client.subscribe(hello_subject("p", DIGEST, "*"), queue=WORKERS, cb=rogue.answer)
            await client.flush()
            async with host(server) as one:
                plugin = one.plugins["p"]
                assert isinstance((await one.session().gate_tool_call(ToolCall("ls"))).verdict, Deny)
                assert "the worker 'worker-1' speaks another version of the protocol" in plugin.reason
                async with serving(server.who("worker-2"), [record()]):
                    # It is a worker by chance which of the two is asked, each time.
                    await until(lambda: plugin.is_running)
                    assert (await one.session().gate_tool_call(ToolCall("ls"))).verdict == Allow()
                assert plugin.counts.crashes == 0

    go(main())


@pytest.mark.parametrize("how", ["repeated", "skipped", "garbage"])
def test_a_message_on_a_link_that_is_not_the_next_ends_it_before_anything_is_decided(server: Server, how: str) -> None:
    async def main() -> None:
        async with serving(server.who("worker-1"), [record()]) as worker, host(server) as one:
            assert (await one.session().gate_tool_call(ToolCall("ls"))).verdict == Allow()
            [(name, link)] = worker.links
            number = {"repeated": 0, "skipped": 10_000, "garbage": 0}[how]
            frame = b"?" if how == "garbage" else b"D" + number.to_bytes(8, "big") + b'{"jsonrpc":"2.0"}\n'
            before = restarts(one)
            await worker.client.publish(to_host("worker-1", name, link), frame)
            await until(lambda: restarts(one) > before and is_running(one))
            assert (await one.session().gate_tool_call(ToolCall("ls"))).verdict == Allow()

    go(main())


async def refusals(who: Credentials, attempt: Callable[[Client], Awaitable[Any]]) -> list[str]:
    """Return what the server refuses of an attempt."""
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error).lower())

    client = await nats.connect(who.server, nkeys_seed_str=who.seed, inbox_prefix=who.inbox, error_cb=note)
    await attempt(client)
    await client.flush()
    await until(lambda: refused)
    await client.close()
    return refused


@pytest.mark.parametrize(
    ("who", "subject"),
    [
        ("laptop", from_host("worker-1", "build-1", "link")),
        ("laptop", to_host("worker-1", "laptop", "link")),
        ("laptop", hello_subject("p", DIGEST, "build-1")),
        ("worker-1", to_host("worker-2", "laptop", "link")),
        ("worker-1", from_host("worker-2", "laptop", "link")),
        ("worker-1", hello_subject("p", DIGEST, "laptop")),
        ("worker-1", records_subject("laptop")),
        ("worker-1", "_INBOX_laptop.1"),
        ("worker-1", f"$JS.API.STREAM.INFO.{STREAM}"),
    ],
)
def test_nobody_speaks_under_the_name_of_another(server: Server, who: str, subject: str) -> None:
    async def main() -> None:
        refused = await refusals(server.who(who), lambda client: client.publish(subject, b"x"))
        assert f'permissions violation for publish to "{subject}"'.lower() in refused[0]

    go(main())


@pytest.mark.parametrize(
    ("who", "subject", "queue"),
    [
        ("laptop", from_host("worker-1", "laptop", "*"), ""),
        ("laptop", to_host("*", "build-1", "*"), ""),
        ("laptop", hello_subject("p", "*", "*"), WORKERS),
        ("worker-1", hello_subject("p", "*", "*"), ""),
        ("worker-1", hello_subject("p", "*", "*"), "others"),
        ("worker-1", hello_subject("q", "*", "*"), WORKERS),
        ("worker-1", hello_subject("*", "*", "*"), WORKERS),
        ("worker-1", from_host("worker-2", "*", "*"), ""),
        ("worker-1", to_host("worker-1", "*", "*"), ""),
        ("worker-1", alive_subject("*"), ""),
        ("worker-1", "_INBOX_laptop.>", ""),
    ],
)
def test_nobody_hears_what_is_for_another(server: Server, who: str, subject: str, queue: str) -> None:
    async def main() -> None:
        refused = await refusals(server.who(who), lambda client: client.subscribe(subject, queue=queue))
        assert f'permissions violation for subscription to "{subject}"'.lower() in refused[0]

    go(main())


def test_what_is_written_at_once_comes_after_what_waits_to_be_written(server: Server) -> None:
    sent, came = [], []
    subject = from_host("worker-1", "laptop", "link")

    async def main() -> None:
        async with connected(server.who("worker-1")) as worker, connected(server.who("laptop")) as client:

            async def note(message: Any) -> None:
                came.append((len(message.data), message.data[:8]))

            await worker.subscribe(subject, cb=note)
            await worker.flush()
            for number in range(600):
                # Large ones are more than the socket takes at once, and by then the client's own task has them.
                payload = b"%08d" % number + b"x" * (200_000 if number % 50 == 7 else 10)
                sent.append((len(payload), payload[:8]))
                if number % 3:
                    assert publish_now(client, subject, payload)
                else:
                    await client.publish(subject, payload)
                if number % 40 == 0:
                    await asyncio.sleep(0.001)
            await until(lambda: len(came) == len(sent), lambda: str(len(came)))
        assert came == sent
        assert not publish_now(client, subject, b"")

    go(main())


def test_a_host_that_is_cancelled_at_any_moment_of_its_start_ends(server: Server) -> None:
    async def main() -> None:
        async with serving(server.who("worker-1"), [record()]):
            for number in range(24):
                task = asyncio.create_task(host(server).__aenter__())
                await asyncio.sleep(0.005 + number / 400)
                task.cancel()
                _, hanging = await asyncio.wait([task], timeout=20)
                assert not hanging, number
                if not task.cancelled():
                    await task.result().__aexit__(None, None, None)

    go(main())
