"""The same changes for a plugin in a process of its own: it is told nothing it may not know, and no process stays."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import ToolCall, ToolCallEnd
from ally_plugins.catalog.home.config_edits import edit_config
from ally_plugins.contract.values.masking import MASK, Secrets
from ally_plugins.host.control.client import HostAnswer, call, hosts_of
from tests.kit.agreeing import agree
from tests.kit.processes import below
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
    found = await asyncio.to_thread(answer, site, method)
    assert found.result is not None, found.error
    return found.result


def answer(site: Operated, method: str) -> HostAnswer:
    [host] = hosts_of(site.home)
    return call(host, method, {"plugin": NAME}, 30)


async def refused(site: Operated, method: str) -> str:
    found = await asyncio.to_thread(answer, site, method)
    assert found.result is None
    return found.error


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_restart_takes_another_placement(placed: Operated) -> None:
    async def main() -> None:
        async with placed.new_host() as host:
            first = await pid(placed)
            edit_config(placed.home, NAME, lambda _: {"placement": "inline"})
            agree(placed.home)
            assert (await did(placed, "restart"))["state"] == "running"
            [plugin] = (await did(placed, "status"))["plugins"]
            assert (plugin["placement"], "pid" in plugin) == ("inline", False)
            assert not is_there(first)
            assert (await host.session().gate_tool_call(REMOVE)).is_denied

    go(main())


BROKEN = {
    "a syntax error": "class Plugin(:\n",
    "an error in its class": "class Plugin:\n    def __init__(self, ally):\n        raise ValueError('no luck')\n",
    "an end while it is imported": "import os\nos._exit(3)\n",
    "no gate any more": "class Plugin:\n    def __init__(self, ally):\n        pass\n",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_restart_onto_broken_code_keeps_the_process_that_works(how: str, placed: Operated) -> None:
    async def main() -> None:
        async with placed.new_host() as host:
            session = host.session()
            first, state = await pid(placed), host.plugins[NAME]
            placed.site.write("ctl_guard/__init__.py", BROKEN[how])
            error = await refused(placed, "restart")
            assert error.startswith(f"{NAME!r} goes on as it was, since a new one could not take its place: ")
            assert await pid(placed) == first
            assert host.plugins[NAME] is state
            assert (await session.gate_tool_call(REMOVE)).votes[0].cause == "verdict"
            assert await heard(host, session) == 1
            placed.site.write("ctl_guard/__init__.py", placed.code)
            assert (await did(placed, "restart"))["state"] == "running"
            assert await pid(placed) != first
            await until(lambda: not is_there(first))
            assert (await session.gate_tool_call(REMOVE)).is_denied
            assert await heard(host, session) == 1
            assert (await did(placed, "status"))["plugins"][0]["restarts"] == 0  # nor tried in vain

    go(main())


SLOW = """
import pathlib, time

here = pathlib.Path(__file__).parent
(here / "begun").touch()
while not (here / "go").exists():
    time.sleep(0.01)
"""


@pytest.mark.slow
def test_the_old_process_answers_and_hears_until_the_new_one_is_ready(placed: Operated) -> None:
    async def main() -> None:
        async with placed.new_host() as host:
            session = host.session()
            first = await pid(placed)
            placed.site.write("ctl_guard/__init__.py", SLOW + placed.code)
            restarting = asyncio.ensure_future(did(placed, "restart"))
            await until((placed.site.path / "ctl_guard" / "begun").exists, "a second process")
            assert (await session.gate_tool_call(REMOVE)).votes[0].cause == "verdict"
            assert await heard(host, session) == 1
            assert await heard(host, session) == 2
            assert await pid(placed) == first
            placed.site.write("ctl_guard/go", "")
            assert (await restarting)["state"] == "running"
            assert await pid(placed) != first
            assert await heard(host, session) == 1  # it is a new one, and nothing was heard twice

    go(main())


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("how", ["disable", "stop"])
def test_a_new_process_that_is_not_ready_yet_ends_with_the_old_one(how: str, placed: Operated) -> None:
    async def main() -> None:
        async with placed.new_host() as host:
            placed.site.write("ctl_guard/__init__.py", SLOW + placed.code)
            restarting = asyncio.ensure_future(asyncio.to_thread(answer, placed, "restart"))
            await until((placed.site.path / "ctl_guard" / "begun").exists, "a second process")
            if how == "disable":
                placed.registry.disable(NAME)
                await did(placed, "apply")
                await settled(host, "stopped")
                await restarting
        await restarting
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("ally-")]

    go(main())
    assert list(below(os.getpid())) == []


@pytest.mark.slow
def test_place_moves_a_plugin_that_runs_there_and_back(guarded: Operated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(guarded.site.path))

    async def main() -> None:
        async with guarded.new_host() as host:
            session = host.session()
            assert (await did(guarded, "place"))["did"] == "nothing"
            assert await heard(host, session) == 1
            guarded.registry.place(NAME, "process")
            done = await did(guarded, "place")
            assert (done["did"], done["in_effect"], done["state"]) == ("moved", True, "running")
            assert await pid(guarded) != os.getpid()
            assert (await session.gate_tool_call(REMOVE)).votes[0].cause == "verdict"
            assert await heard(host, session) == 1
            guarded.registry.place(NAME, "inline")
            assert (await did(guarded, "place"))["did"] == "moved"
            [shown] = (await did(guarded, "status"))["plugins"]
            assert (shown["placement"], "pid" in shown) == ("inline", False)
            assert (await session.gate_tool_call(REMOVE)).is_denied
            await until(lambda: not [each for each in host.plugins.values() if each.supervisor])

    go(main())


@pytest.mark.slow
def test_where_a_plugin_cannot_start_it_is_not_moved(guarded: Operated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)  # so that its process does not find its code

    async def main() -> None:
        async with guarded.new_host() as host:
            session = host.session()
            guarded.registry.place(NAME, "process")
            assert "ModuleNotFoundError" in await refused(guarded, "place")
            [shown] = (await did(guarded, "status"))["plugins"]
            assert (shown["placement"], shown["state"]) == ("inline", "running")
            assert (await session.gate_tool_call(REMOVE)).votes[0].cause == "verdict"
            edit_config(guarded.home, NAME, lambda _: {"placement": "process", "interpreter": "/nowhere/python"})
            agree(guarded.home)
            assert "cannot be started, since it is not configured" in await refused(guarded, "place")
            assert host.plugins[NAME].state == "running"

    go(main())


@pytest.mark.slow
def test_what_host_and_process_write_is_shown_from_the_first_look_on_and_without_secrets(
    placed: Operated, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look(after: int = 0) -> Mapping[str, Any]:
        [host] = await asyncio.to_thread(hosts_of, placed.home)
        found = await asyncio.to_thread(call, host, "wire", {"plugin": NAME, "after": after}, 30)
        assert found.result is not None, found.error
        return found.result

    def methods(found: Mapping[str, Any]) -> list[tuple[bool, str | None]]:
        return [(line["out"], json.loads(line["text"]).get("method")) for line in found["lines"]]

    async def main() -> None:
        async with placed.new_host() as host:
            session = host.session()
            await session.gate_tool_call(REMOVE)
            assert (await look())["lines"] == []  # nobody had looked
            await session.gate_tool_call(REMOVE)
            await heard(host, session)
            first = await look()
            assert {(True, "gate"), (False, None), (True, "on_event"), (True, "call_tool")} <= {*methods(first)}
            assert "rm -r" in next(line["text"] for line in first["lines"] if '"gate"' in line["text"])
            assert (await look(first["last"]))["lines"] == []
            supervisor: Any = host.plugins[NAME].supervisor
            supervisor.restart("a test")
            await until(lambda: supervisor.started == 2, "a new process")
            await supervisor.settled()
            begun = next(line["text"] for line in (await look())["lines"] if '"initialize"' in line["text"])
            assert json.loads(begun)["params"]["settings"] == "(left out)"
            monkeypatch.setattr(host.plugins[NAME], "secrets", Secrets(["rm -r /secret"]))
            await session.gate_tool_call(ToolCall("bash", {"command": "rm -r /secret"}, "c2"))
            shown = await look()
            assert "rm -r /secret" not in str(shown)
            assert MASK in str(shown)

    go(main())


@pytest.mark.slow
def test_lines_are_shown_of_no_plugin_inside_the_host_and_of_no_host_that_keeps_no_contents(
    guarded: Operated, placed: Operated
) -> None:
    async def main(expected: str) -> None:
        async with placed.new_host():
            assert expected in await refused(placed, "wire")

    with placed.home.config_file.open("a", encoding="utf-8") as file:
        file.write('\n[journal]\ncontent = "metadata"\n')
    agree(placed.home)
    go(main("keeps none"))
    edit_config(guarded.home, NAME, lambda _: {"placement": "inline"})
    agree(guarded.home)
    go(main("in the host's own process"))
