"""The order of hooks in a running host: manifests first, then mandatory, tryfirst and trylast, then names."""

from __future__ import annotations

from typing import Any

import pytest

from ally_plugins import Deny, HostError, ToolCall, hookimpl
from ally_plugins.contract.values.errors import OrderError
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go

CALL = ToolCall("bash", {}, "c1")


class Plain:
    def __init__(self, ally: Any) -> None:
        self.ally = ally

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Deny:
        return Deny(call.tool_name)


class First(Plain):
    @hookimpl(tryfirst=True)
    async def ally_gate_tool_call(self, call: ToolCall) -> Deny:
        return Deny(call.tool_name)


class Last(Plain):
    @hookimpl(trylast=True)
    async def ally_gate_tool_call(self, call: ToolCall) -> Deny:
        return Deny(call.tool_name)


def order_of(given: dict[str, Any]) -> list[str]:
    async def main() -> list[str]:
        async with new_host(given) as host:
            ruling = await host.session().gate_tool_call(CALL)
            return [vote.plugin for vote in ruling.votes]

    found: list[str] = go(main())
    return found


def test_names_decide_where_nothing_else_does_however_plugins_are_given() -> None:
    assert order_of({"b": Plain, "c": Plain, "a": Plain}) == ["a", "b", "c"]


def test_tryfirst_and_trylast_come_before_names() -> None:
    assert order_of({"a": Last, "b": Plain, "c": First}) == ["c", "b", "a"]


def test_mandatory_comes_before_tryfirst() -> None:
    assert order_of({"a": First, "z": setup(Last, mandatory=True)}) == ["z", "a"]


def test_edges_of_manifests_come_before_everything() -> None:
    given = {"a": setup(First, after=["m"], mandatory=True), "m": Plain, "z": setup(Last, before=["m", "gone"])}
    assert order_of(given) == ["z", "m", "a"]


def test_a_cycle_stops_the_start_and_names_its_members() -> None:
    given = {"a": setup(Plain, after=["b"]), "b": setup(Plain, after=["c"]), "c": setup(Plain, after=["a"]), "d": Plain}

    async def main() -> None:
        async with new_host(given):
            pytest.fail("it started")

    with pytest.raises(OrderError) as caught:
        go(main())
    assert sorted(caught.value.cycle) == ["a", "b", "c"]
    assert "ally-plugins disable" in str(caught.value)


def test_a_mandatory_plugin_that_cannot_start_stops_the_start_and_leaves_nothing_running() -> None:
    stopped: list[str] = []

    async def fail(self: Any) -> None:  # noqa: ARG001
        raise OSError("no device")

    async def stop(self: Any) -> None:
        stopped.append(self.ally.name)

    async def main() -> None:
        async with new_host(
            {"good": make_plugin(ally_stop=stop), "must": setup(make_plugin(ally_start=fail), mandatory=True)}
        ):
            pytest.fail("it started")

    with pytest.raises(HostError, match="mandatory plugin 'must' is failed: .*no device.*ally-plugins info must"):  # noqa: RUF043
        go(main())
    assert stopped == ["good"]
