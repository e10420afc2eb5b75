"""Plugins that run once for many hosts: over the real server, with processes of their own, on bad days."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from ally_plugins import Allow, Daemon, Deny, Host, PluginRecord, ToolCall
from tests.kit.fleets import serving, shared
from tests.kit.hosts import make_record, new_host
from tests.kit.waiting import go, until

if TYPE_CHECKING:
    from tests.kit.fleets import Server

pytestmark = pytest.mark.shared

FOLDER = str(Path(__file__).parent)


def record(name: str = "p", target: str = "Guard", **options: Any) -> PluginRecord:
    """Return a plugin of `shared_plugin` as its worker's operator has placed it."""
    daemon = Daemon.python(f"shared_plugin:{target}", env={"PYTHONPATH": FOLDER})
    made = make_record(name, daemon=daemon, **options)
    return evolve(made, config=evolve(made.config, placement="sandbox"))


def host(server: Server, name: str = "laptop", **options: Any) -> Host:
    """Return a host that has the plugin `p` shared."""
    mine = shared(record(**options))
    return new_host({"p": (mine.daemon, mine)}, fleet=server.file(name))


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
