"""Which events a daemon of Code-Ally's gets: the rules of its subscription manager, in the host.

A plugin subscribes with `background.events`; what of that it gets is what the operator agreed to.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from ally_plugins import Host
from ally_plugins.bridges.code_ally.limits import APPROVED_EVENTS
from ally_plugins.bridges.code_ally.manifest import read_plugin_json
from ally_plugins.contract.values.errors import ManifestError
from ally_plugins.contract.values.events import ThoughtComplete, TodoUpdate
from ally_plugins.host.control.client import call, hosts_of
from ally_plugins.policy.permissions import GrantSet
from tests.legacy.published import DAEMON

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ally_plugins.bridges.code_ally.plugin import CodeAllyPlugin

HEARD = "TODO_UPDATE", "THOUGHT_COMPLETE"


def table(events: list[str], path: str = "/run/it.sock", name: str = "me") -> dict[str, Any]:
    return {
        "name": name,
        "version": "1",
        "description": "listens",
        "tools": [{"name": f"{name}-stats", "description": "says", "type": "background_rpc", "method": "get_stats"}],
        "background": {
            "enabled": True,
            "command": "python3",
            "args": ["-I", "-S", "daemon.py"],
            "communication": {"type": "socket", "path": path},
            "events": events,
        },
    }


def read(events: list[str], path: str = "/run/it.sock") -> CodeAllyPlugin:
    return read_plugin_json(json.dumps(table(events, path)).encode(), "/plugins/it")


def problem_of(events: list[str], path: str = "/run/it.sock") -> str:
    with pytest.raises(ManifestError) as caught:
        read(events, path)
    (problem,) = caught.value.problems
    return problem


def test_an_empty_list_is_no_subscription_and_refused_where_there_is_nothing_else() -> None:
    assert read([]).as_manifest().subscribe == ()
    alone = table([]) | {"tools": []}
    with pytest.raises(ManifestError, match="no tools and no background events"):
        read_plugin_json(json.dumps(alone).encode(), "/plugins/it")


@pytest.mark.parametrize("path", ["run/it.sock", "", "/" + "x" * 104])
def test_a_path_that_is_relative_or_too_long_is_refused(path: str) -> None:
    assert problem_of(["TODO_UPDATE"], path).startswith("background.communication.path: ")


def test_an_unapproved_event_is_refused_with_all_the_approved_ones() -> None:
    problem = problem_of(["TODO_UPDATE", "SESSION_START"])
    assert problem.startswith("background.events: found 'SESSION_START', ")
    assert all(event in problem for event in APPROVED_EVENTS)


def test_all_twelve_events_are_approved() -> None:
    assert len(APPROVED_EVENTS) == 12
    assert read(list(APPROVED_EVENTS)).as_manifest().subscribe == APPROVED_EVENTS


def test_duplicates_are_folded() -> None:
    manifest = read(["TODO_UPDATE", "AGENT_END", "TODO_UPDATE"]).as_manifest()
    assert manifest.subscribe == ("TODO_UPDATE", "AGENT_END")


def test_nobody_changes_a_subscription_through_what_the_host_gives() -> None:
    manifest = read(["TODO_UPDATE"]).as_manifest()
    granted = GrantSet(frozenset(request.grant for request in manifest.requests))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        manifest.subscribe = ()  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        granted.grants = frozenset()  # type: ignore[misc]
    assert [event for event in APPROVED_EVENTS if granted.receives(event)] == ["TODO_UPDATE"]


# --- in a host ---

needs_sockets = pytest.mark.skipif(sys.platform == "win32", reason="needs Unix sockets")


@pytest.fixture
def put(short_dir: Path) -> Callable[..., Path]:
    """Return what writes a plugin's folder, with the events that it subscribes to, and returns its `plugin.json`."""

    def write(name: str, events: list[str]) -> Path:
        folder = short_dir / "home" / "plugins" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "daemon.py").write_text(DAEMON)
        file = folder / "plugin.json"
        file.write_text(json.dumps(table(events, str(short_dir / f"{name}.sock"), name)))
        return file

    return write


def started(home: Path) -> Host:
    return Host("test", home=home, consent=lambda _: True)


async def heard(host: Host, *names: str) -> list[list[str]]:
    """Emit an event of each type, and return of which types each daemon has heard since it was started."""
    session = host.session("s")
    session.emit(TodoUpdate(todos=()))
    session.emit(ThoughtComplete(thinking="hm"))
    await session.drained()
    answers = [await host.call_tool(f"{name}-stats", {}) for name in names]
    return [[event["event_type"] for event in answer.data["seen"]] for answer in answers]


@pytest.mark.slow
@needs_sockets
def test_each_daemon_gets_what_it_subscribed_to_until_that_is_taken_away(
    short_dir: Path, put: Callable[..., Path]
) -> None:
    put("a", ["TODO_UPDATE"])
    put("b", [*HEARD])

    async def main() -> None:
        async with started(short_dir / "home") as host:
            assert await heard(host, "a", "b") == [["TODO_UPDATE"], [*HEARD]]
            assert host.registry is not None
            host.registry.revoke("b", "events")
            [running] = hosts_of(host.registry.home)
            answer = await asyncio.to_thread(call, running, "apply", {"plugin": "b"}, 20)
            assert answer.result is not None, answer.error
            assert not any(host.plugins["b"].grants.receives(event) for event in HEARD)
            assert await heard(host, "a", "b") == [["TODO_UPDATE"] * 2, [*HEARD]]

    asyncio.run(main())


@pytest.mark.slow
@needs_sockets
def test_what_a_changed_plugin_subscribes_to_is_in_the_place_of_what_it_had(
    short_dir: Path, put: Callable[..., Path]
) -> None:
    file = put("a", ["TODO_UPDATE"])

    async def main() -> None:
        async with started(short_dir / "home") as host:
            file.write_text(json.dumps(table(["NOTHING"], name="a")))
            assert await heard(host, "a") == [["TODO_UPDATE"]]  # a list that is refused replaces none
        put("a", ["THOUGHT_COMPLETE"])
        async with started(short_dir / "home") as host:
            assert await heard(host, "a") == [["THOUGHT_COMPLETE"]]
            assert not host.plugins["a"].grants.receives("TODO_UPDATE")

    asyncio.run(main())
