"""A gate or transform that is not there never looks like one that agrees: its plugin fails, and nothing runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import HostError, ToolCall, ToolResult
from ally_plugins.contract.hookspecs import HOOKS
from tests.kit.waiting import go

if TYPE_CHECKING:
    from tests.kit.placements import Placed

REMOVE = ToolCall("bash", {"command": "rm"}, "c1")
READ = ToolCall("bash", {"command": "ls"}, "c2")


async def runs(session: Any, call: ToolCall) -> bool:
    """Carry out a tool call; say whether the tool ran."""
    ran: list[str] = []

    async def run(shown: ToolCall) -> ToolResult:
        ran.append(shown.tool_name)
        return ToolResult(success=True, output="")

    result = await session.run_tool_call(call, run)
    assert result.success is bool(ran)
    return bool(ran)


LOOKS_LIKE_A_HOOK = {
    "NoMark": "has 'ally_gate_tool_call' as a function without @hookimpl, so that it would never be called; "
    "expected a method of its class with @hookimpl of ally_plugins",
    "NoMarkInThread": "has 'ally_gate_message' as a function without @hookimpl",
    "NoMarkOnAnObserver": "has 'ally_tool_call_end' as a function without @hookimpl",
    "NoMarkOnAStart": "has 'ally_start' as a function without @hookimpl",
    "MarkOfAnother": "has 'ally_gate_permission' as a function with the @hookimpl of 'pytest' and not that of ally",
    "Specifies": "has 'ally_gate_tool_call' as a function marked with @hookspec, which is the host's",
    "OverridesTheMark": "as a function without @hookimpl, which hides the one of 'Works'",
    "MarkedForAnother": "has 'ally_gate_tool_call' as a function marked for 'ally_event'",
    "Static": "has 'ally_gate_tool_call' as a staticmethod without @hookimpl",
    "Property": "has 'ally_gate_tool_call' as a property without @hookimpl",
    "Slot": "has 'ally_gate_tool_call' as a function set on the instance",
    "BindsToNoFunction": "has 'ally_gate_permission' as a partial; expected a function, def or async def",
    "PartialMethod": "has 'ally_gate_tool_call' as a partialmethod; expected a function, def or async def",
    "OnTheInstance": "has 'ally_gate_tool_call' as a function set on the instance, so that it would never be called; "
    "expected a method of its class",
    "IsItsOwnDict": "has 'ally_gate_message' as a function set on the instance",
    "UnderAnotherNameOnTheInstance": "has 'judge' as a function set on the instance",
    "HiddenByTheInstance": "has 'ally_gate_tool_call' as a partial set on the instance, which hides the method",
    "Misspelt": "has 'ally_gate_toolcall' as a function without @hookimpl, so that it would never be called; nor is it "
    "a hook; did you mean 'ally_gate_tool_call'?",
    "MisspeltTransform": "nor is it a hook; did you mean 'ally_transform_tool_output'?",
    "forgets_to_return": "was built as a NoneType; expected an object with hooks",
    "returns_the_class": "was built as the class 'Works'; expected an object with hooks",
    "is_asynchronous": "was built as a coroutine; expected an object with hooks",
}


@pytest.mark.parametrize("third", [0, 1, 2])
def test_what_looks_like_a_hook_and_is_none_fails_and_denies_whatever_was_granted(third: int, placed: Placed) -> None:
    names = list(LOOKS_LIKE_A_HOOK)[third::3]

    async def main() -> None:
        # Each has everything, as a host author's plugin without a manifest: nothing names the hook but the code.
        async with placed.host({name.lower(): placed(f"missing:{name}") for name in names}) as host:
            for name in names:
                plugin = host.plugins[name.lower()]
                assert (name, plugin.state) == (name, "failed")
                assert LOOKS_LIKE_A_HOOK[name] in plugin.reason
            ruling = await host.session().gate_tool_call(READ)
            assert set(ruling.decided_by) == {name.lower() for name in names}
            assert not await runs(host.session(), READ)

    go(main())


NOTHING_LOOKS_LIKE_IT = ("ByGetattr", "OnTheMetaclass", "WithoutThePrefix", "OfANewerHost", "AnotherGate")


@pytest.mark.parametrize("name", NOTHING_LOOKS_LIKE_IT)
@pytest.mark.parametrize("grant", ["gate:tool_call", "gate:tool_call:bash"])
def test_a_granted_gate_without_its_hook_is_a_load_error_and_nothing_runs(
    name: str, grant: str, placed: Placed
) -> None:
    async def main() -> None:
        async with placed.host({"guard": placed(f"missing:{name}", [grant, "gate:message", "tools"])}) as host:
            plugin = host.plugins["guard"]
            assert plugin.state == "failed"
            missing = "gate:message" if name != "AnotherGate" else "gate:tool_call"
            assert f"plugin 'guard' is granted {missing!r} and lacks the hook" in plugin.reason
            assert f"or take the grant back: ally-plugins revoke guard {missing}" in plugin.reason
            assert not await runs(host.session(), READ)
            if grant == "gate:tool_call:bash":  # what it may not judge goes on
                assert await runs(host.session(), ToolCall("python", {}, "c3"))

    go(main())


def test_the_error_says_what_the_plugin_has_and_what_its_author_is_to_write(placed: Placed) -> None:
    manifest = (
        '[permissions]\ngate = { on = ["tool_call", "message"], reason = "to guard" }\ntools = { reason = "to tell" }'
    )

    async def main() -> None:
        async with placed.host({"guard": placed("missing:AnotherGate", manifest=manifest)}) as host:
            reason = host.plugins["guard"].reason
            assert "lacks the hook 'ally_gate_tool_call': it has 'ally_gate_message'; " in reason
            if placed.placement.imports_late:
                assert "name it in `hooks` of the answer to `initialize`, in Python by @hookimpl" in reason
            else:
                assert "write @hookimpl above `async def ally_gate_tool_call(self, call, context)`" in reason
            assert not await runs(host.session(), READ)

    go(main())


def test_every_gate_and_transform_that_is_granted_must_have_its_hook(placed: Placed) -> None:
    protections = [info for info in HOOKS.values() if info.kind in {"gate", "transform"}]

    async def main() -> None:
        plugins = {
            f"p{number}": placed("hooks:Plain", [f"{info.kind}:{info.topic}"])
            for number, info in enumerate(protections)
        }
        async with placed.host(plugins) as host:
            for number, info in enumerate(protections):
                plugin = host.plugins[f"p{number}"]
                assert (info.name, plugin.state) == (info.name, "failed")
                assert f"lacks the hook {info.name!r}: it has no hook" in plugin.reason

    go(main())


def test_a_transform_that_is_not_there_withholds_what_it_was_to_redact(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"redact": placed("hooks:Plain", ["transform:tool_output"], transform_on_error="block")}
        async with placed.host(plugins) as host:

            async def run(_: ToolCall) -> ToolResult:
                return ToolResult(success=True, output="the secret")

            result = await host.session().run_tool_call(READ, run)
            assert not result.success
            assert "secret" not in repr(result)
            assert "redact could not check it" in str(result.error)

    go(main())


def test_a_mandatory_guard_without_its_gate_stops_the_hosts_start(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"guard": placed("missing:WithoutThePrefix", ["gate:tool_call"], mandatory=True)}
        with pytest.raises(HostError, match=r"the mandatory plugin 'guard' is failed: .*lacks the hook 'ally_"):
            async with placed.host(plugins):
                raise AssertionError

    go(main())


def test_a_gate_in_shadow_that_is_not_there_is_a_load_error_too_and_denies_nothing(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"guard": placed("hooks:Plain", ["gate:tool_call"], shadow=True)}) as host:
            assert host.plugins["guard"].state == "failed"
            assert await runs(host.session(), READ)  # the operator has said that it is only watched

    go(main())


def test_a_plugin_that_was_granted_everything_need_not_have_every_gate(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:Plain")}) as host:
            assert host.plugins["p"].state == "running"
            assert await runs(host.session(), READ)

    go(main())


@pytest.mark.parametrize("name", ["MarkedOutside", "Newer", "KeepsATime", "HasNamesOfItsOwn", "KeepsDataInSlots"])
def test_a_hook_that_is_there_judges_however_it_is_marked(name: str, placed: Placed) -> None:
    async def main() -> None:
        grants = ["gate:tool_call", "tools", *(["gate:message"] if name == "MarkedOutside" else [])]
        async with placed.host({"p": placed(f"missing:{name}", grants)}) as host:
            assert host.plugins["p"].state == "running", host.plugins["p"].reason
            assert await runs(host.session(), READ)
            assert not await runs(host.session(), REMOVE)

    go(main())


def test_a_guard_denies_to_the_end_while_its_host_stops(placed: Placed) -> None:
    async def main() -> None:
        plugins = {
            "guard": placed("missing:Works", ["gate:tool_call", "tools"]),
            "slow": placed("lives:Lives", ["add_message:user"], settings={"stop": "hang"}, deadlines={"stop": 1.5}),
        }
        async with placed.host(plugins) as host:
            session = host.session("s")
            stopping = asyncio.ensure_future(host.stop())
            while host.plugins["guard"].state != "stopped":
                assert not await runs(session, READ)
                await asyncio.sleep(0.01)
            assert host.plugins["slow"].state != "stopped"  # the host still stops, and the session is open
            assert not await runs(session, READ)
            await stopping

    go(main())
