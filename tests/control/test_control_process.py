"""The same changes for a plugin in a process of its own: it is told nothing it may not know, and no process stays."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import ToolCall, ToolCallEnd
from ally_plugins.catalog.home.config import edit_config
from ally_plugins.host.control.client import call, hosts_of
from tests.kit.waiting import go, until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .conftest import Operated

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs local sockets")

NAME = "ctl-guard"
REMOVE = ToolCall("bash", {"command": "rm -r"}, "c1")


@pytest.fixture
def placed(guarded: Operated, monkeypatch: pytest.MonkeyPatch) -> Operated:
    """Return a site whose guard runs in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(guarded.site.path))
    edit_config(guarded.home, NAME, lambda _: {"placement": "process"})
    return guarded


async def did(site: Operated, method: str) -> Mapping[str, Any]:
    def blocking() -> Mapping[str, Any]:
        [host] = hosts_of(site.home)
        answer = call(host, method, {"plugin": NAME}, 30)
        assert answer.result is not None, answer.error
        return answer.result

    return await asyncio.to_thread(blocking)


async def pid(site: Operated) -> int:
    [plugin] = (await did(site, "status"))["plugins"]
    assert plugin["placement"] == "process"
    return int(plugin["pid"])


async def settled(host: Any, state: str) -> None:
    """Wait for a state: a start that takes longer than a command waits goes on."""
    await until(lambda: host.plugins[NAME].state == state, state)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


async def heard(host: Any, session: Any) -> Any:
    session.emit(ToolCallEnd(tool_name="bash"))
    await session.drained()
    return (await host.call_tool("count")).data


def test_a_grant_that_is_taken_back_is_gone_for_a_process_too(placed: Operated) -> None:
    async def main() -> None:
        async with placed.new_host() as host:
            session = host.session()
            assert (await session.gate_tool_call(REMOVE)).is_denied
            assert await heard(host, session) == 1
            placed.registry.revoke(NAME, "gate")
            placed.registry.revoke(NAME, "events:TOOL_CALL_END")
            assert (await did(placed, "apply"))["did"] == "changed"
            assert (await session.gate_tool_call(REMOVE)).votes == ()
            assert await heard(host, session) == 1
            placed.registry.revoke(NAME, "tools")
            await did(placed, "apply")
            assert list(host.tools) == []
            placed.registry.grant(NAME, "tools")
            placed.registry.grant(NAME, "events:TOOL_CALL_END")
            await did(placed, "apply")
            assert await heard(host, session) == 2

    go(main())


def test_disable_ends_the_process_and_enable_starts_another(placed: Operated) -> None:
    async def main() -> None:
        async with placed.new_host() as host:
            session = host.session()
            first = await pid(placed)
            placed.registry.disable(NAME)
            await did(placed, "apply")
            await settled(host, "stopped")
            await until(lambda: not is_there(first))
            assert (await session.gate_tool_call(REMOVE)).votes == ()
            placed.enable()
            await did(placed, "apply")
            await settled(host, "running")
            assert await pid(placed) != first
            assert (await session.gate_tool_call(REMOVE)).is_denied

    go(main())


def test_restart_is_another_process_and_its_gate_denies_meanwhile(placed: Operated) -> None:
    async def main() -> None:
        async with placed.new_host() as host:
            session = host.session()
            first = await pid(placed)
            restarting = asyncio.ensure_future(did(placed, "restart"))
            while not restarting.done():
                assert (await session.gate_tool_call(REMOVE)).is_denied
                await asyncio.sleep(0.005)
            assert restarting.result()["state"] == "running"
            assert not is_there(first)
            assert await pid(placed) != first

    go(main())


def test_a_restart_takes_another_placement(placed: Operated) -> None:
    async def main() -> None:
        async with placed.new_host() as host:
            first = await pid(placed)
            edit_config(placed.home, NAME, lambda _: {"placement": "inline"})
            assert (await did(placed, "restart"))["state"] == "running"
            [plugin] = (await did(placed, "status"))["plugins"]
            assert (plugin["placement"], "pid" in plugin) == ("inline", False)
            assert not is_there(first)
            assert (await host.session().gate_tool_call(REMOVE)).is_denied

    go(main())
