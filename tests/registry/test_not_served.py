"""What the host of an app does not serve is said of the plugins that wait for it, and a mandatory one is refused."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from ally_plugins import EVENT_TYPES, AgentKit, Ally, Home, Host, HostError, Manifest, Serves, hookimpl
from ally_plugins.catalog.discovery.packages import Discovery, Found
from ally_plugins.catalog.registry import Registry
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path

ALL = Serves()
NO_PERMISSION_GATE = evolve(ALL, gates=ALL.gates - {"permission"})
REFUSAL = (
    r"the mandatory plugin 'guard' was granted gate:permission, which this host does not serve; use an adapter "
    r"that does, or: ally-plugins revoke guard gate:permission, or take 'mandatory' out of "
    r"\[plugins.guard\] in config.toml"
)


async def gate(self: Any) -> None:
    """Have no opinion."""


def guard(*, mandatory: bool, grants: tuple[str, ...] | None = ("gate:permission",)) -> dict[str, Any]:
    return {"guard": setup(make_plugin(ally_gate_permission=gate), grants, mandatory=mandatory)}


def registry(home: Path, manifest: dict[str, Any], config: str = "") -> Registry:
    found = Found(name="guard", distribution="guard", version="1", entry_point="m:C",
                  manifest=Manifest.from_mapping(manifest))  # fmt: skip
    made = Registry(Home("app", home), find=lambda: Discovery(found=(found,)))
    made.enable(made.plan("guard"), by="test")
    if config:
        file = made.home.config_file
        file.write_text(file.read_text() + config)
    return made


def start(home: Path, serves: Serves, *adapters: Serves) -> None:
    async def main() -> None:
        host = Host("app", home=home, discover=False, serves=serves)
        for each in adapters[:1]:
            AgentKit(host=host, serves=each)
        async with host:
            for each in adapters[1:]:
                AgentKit(host=host, serves=each)

    go(main())


EVENTS = {"events": {"subscribe": ["THOUGHT_COMPLETE", "TOOL_CALL_END"], "reason": "r"}}
GATE = {"permissions": {"gate": {"on": ["permission"], "reason": "r"}}}


@pytest.mark.parametrize("by", ["host", "adapter", "adapter of a host that runs"])
def test_what_is_not_served_is_a_warning_of_the_plugin_that_waits_for_it(tmp_path: Path, by: str) -> None:
    less = Serves(set(EVENT_TYPES) - {"THOUGHT_COMPLETE"}, NO_PERMISSION_GATE.gates)
    said = {"host": (less,), "adapter": (ALL, less), "adapter of a host that runs": (ALL, ALL, less)}
    found = registry(tmp_path, EVENTS | GATE)
    start(tmp_path, *said[by])
    assert found.get("guard").warnings == (
        "it subscribes to THOUGHT_COMPLETE, which this app's host never emits",
        "it was granted gate:permission, which this app's host does not serve: nobody asks it there",
    )

    start(tmp_path, ALL)
    assert found.get("guard").warnings == ()


def test_what_was_not_granted_is_no_warning(tmp_path: Path) -> None:
    found = registry(tmp_path, GATE)
    found.revoke("guard", "gate:permission")
    start(tmp_path, NO_PERMISSION_GATE)
    assert found.get("guard").warnings == ()


def test_a_mandatory_one_is_said_to_stop_every_conversation(tmp_path: Path) -> None:
    found = registry(tmp_path, GATE, "mandatory = true\n")
    start(tmp_path, NO_PERMISSION_GATE)
    (warning,) = found.get("guard").warnings
    assert warning.startswith("no conversation begins: the mandatory plugin 'guard' was granted gate:permission")


@pytest.mark.parametrize("grants", [("gate:permission",), None], ids=["by name", "everything"])
def test_a_host_that_cannot_serve_a_mandatory_gate_does_not_start(grants: Any) -> None:
    async def main() -> None:
        with pytest.raises(HostError, match=REFUSAL):
            await new_host(guard(mandatory=True, grants=grants), serves=NO_PERMISSION_GATE).start()

    go(main())


def test_one_that_is_not_mandatory_is_named_in_the_log_and_runs(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with new_host(guard(mandatory=False), serves=NO_PERMISSION_GATE) as host:
            assert host.plugins["guard"].is_running

    with caplog.at_level(logging.WARNING):
        go(main())
    assert caplog.messages == [
        "the plugin 'guard': it was granted gate:permission, which this app's host does not serve: nobody asks it there"
    ]


def test_an_event_that_never_comes_stops_no_host() -> None:
    async def main() -> None:
        plugins = {"deaf": setup(make_plugin(ally_todo_update=gate), ("events:TODO_UPDATE",), mandatory=True)}
        async with new_host(plugins, serves=Serves(events=())) as host:
            assert host.plugins["deaf"].is_running

    go(main())


def test_an_adapter_that_cannot_serve_a_mandatory_gate_runs_no_agent_and_others_do() -> None:
    async def main() -> None:
        async with new_host(guard(mandatory=True)) as host:
            less, whole = AgentKit(host=host, serves=NO_PERMISSION_GATE), AgentKit(host=host, serves=ALL)
            async with whole.work("s", "r1", "agent"):
                pass
            for session_id in ("s", "new"):  # one that another adapter has open, and one of its own
                with pytest.raises(HostError, match=REFUSAL):
                    await less.open(session_id, "r2", "agent")
            async with whole.work("s", "r3", "agent") as parent:
                with pytest.raises(HostError, match=REFUSAL):
                    await less.open("s", "r4", "sub-agent", parent=parent, call_id="c1")
            with pytest.raises(HostError, match=REFUSAL):
                host.session("by hand", serves=NO_PERMISSION_GATE)

    go(main())


def test_plugins_learn_what_their_session_is_served() -> None:
    class Asks:
        def __init__(self, ally: Ally) -> None:
            self.ally = ally
            self.seen: list[tuple[str | None, bool]] = []

        @hookimpl
        async def ally_session_start(self) -> None:
            self.seen.append((self.ally.session, self.ally.supports("gate:permission")))

    async def main() -> None:
        async with new_host({"asks": setup(Asks)}) as host:
            less, whole = AgentKit(host=host, serves=NO_PERMISSION_GATE), AgentKit(host=host, serves=ALL)
            for kit, name in ((less, "less"), (whole, "whole")):
                async with kit.work(name, "r", "agent"):
                    pass
                await host.session(name).drained()
            plugin = host.plugins["asks"].instance
            assert plugin.seen == [("less", False), ("whole", True)]
            assert plugin.ally.supports("gate:permission") is host.supports("gate:permission") is False
            assert host.supports("gate:tool_call")
            assert not host.supports("gate:nothing")

    go(main())


def test_a_name_that_no_host_serves_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"gates: no host serves 'tool_cal'; did you mean 'tool_call'\?"):
        Serves(gates=("tool_cal",))
