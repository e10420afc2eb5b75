"""What is wrong with a plugin's code is found at its start, in the same words wherever it would have run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ally_plugins import HostError, ToolCall
from tests.kit.waiting import go

if TYPE_CHECKING:
    from tests.kit.placements import Placed

WRONG = {
    "UnknownHook": "plugin 'p' implements 'ally_tool_cal_end', which is no hook; did you mean 'ally_tool_call_end'?",
    "UnknownArgument": "the parameter 'evnt' of 'ally_tool_call_end' in plugin 'p' is no argument of that hook; "
    "did you mean 'event'?",
    "DefaultedArgument": "the parameter 'event' of 'ally_tool_call_end' in plugin 'p' has a default; pluggy would "
    "never fill it, remove the default",
    "KeywordOnly": "the parameter 'event' of 'ally_tool_call_end' in plugin 'p' is keyword-only; expected plain",
    "Wraps": "plugin 'p' asks for wrapper=True on 'ally_tool_call_end'; wrappers are not supported",
    "Yields": "'ally_tool_call_end' of plugin 'p' has a yield; expected def or async def",
    "PlaysHost": "plugin 'p' implements 'ally_add_message', which only a host implements; call it through the Ally",
    "Twice": "plugin 'p' implements 'ally_tool_call_end' twice, as",
    "WrongTool": "a tool is called 'no good name'; expected 1 to 64 letters, digits, '_' and '-' (give name=)",
    "TwoTools": "there are two tools called 'look'; give one a name=",
}


@pytest.mark.parametrize("half", [0, 1])
def test_a_load_error_says_what_is_wrong_and_the_nearest_right_name(half: int, placed: Placed) -> None:
    names = list(WRONG)[half * 5 : half * 5 + 5]

    async def main() -> None:
        plugins = {name.lower(): placed(f"lives:{name}") for name in names}
        async with placed.host(plugins) as host:
            for name in names:
                plugin = host.plugins[name.lower()]
                words = WRONG[name].replace("'p'", repr(name.lower()))
                assert (name, plugin.state) == (name, "failed")
                assert words in plugin.reason
                assert plugin.reason.endswith(f"see `ally-plugins info {name.lower()}`")

    go(main())


UNDECLARED = {
    "Observes": "plugin 'observes' implements 'ally_tool_call_end', which its manifest does not declare; "
    'add: [events] subscribe = ["TOOL_CALL_END"]',
    "ObservesAll": "plugin 'observesall' implements 'ally_event', which its manifest does not declare; "
    'add: [events] subscribe = ["*"]',
    "Gates": "plugin 'gates' implements 'ally_gate_tool_call', which its manifest does not declare; "
    'add: [permissions] gate = { on = ["tool_call"], reason = "..." }',
    "Transforms": "plugin 'transforms' implements 'ally_transform_user_message', which its manifest does not declare; "
    'add: [permissions] transform = { on = ["user_message"], reason = "..." }',
    "HasTool": 'which its manifest does not declare; add: [permissions] tools = { reason = "..." }',
    "HasAction": 'which its manifest does not declare; add: [permissions] actions = { reason = "..." }',
}

UNDECLARED_FOR_THE_AGENT = (
    "plugin 'p' offers an action to the agent as a tool, which its manifest does not declare; "
    'add: [permissions] tools = { reason = "..." }'
)


def test_what_the_manifest_does_not_declare_is_a_load_error_with_the_line_to_add(placed: Placed) -> None:
    async def main() -> None:
        manifest = '[permissions]\nemit_event = { reason = "to tell" }'
        plugins = {name.lower(): placed(f"lives:{name}", manifest=manifest) for name in UNDECLARED}
        async with placed.host(plugins) as host:
            for name, words in UNDECLARED.items():
                plugin = host.plugins[name.lower()]
                assert (name, plugin.state) == (name, "failed")
                assert words in plugin.reason

    go(main())


def test_an_action_that_the_agent_may_call_is_declared_as_a_tool_too(placed: Placed) -> None:
    async def main() -> None:
        manifest = '[permissions]\nactions = { reason = "to work" }'
        both = f'{manifest}\ntools = {{ reason = "to let the agent work" }}'
        plugins = {
            "p": placed("lives:HasAgentsAction", manifest=manifest),
            "q": placed("lives:HasAgentsAction", manifest=both),
        }
        async with placed.host(plugins) as host:
            assert host.plugins["p"].state == "failed"
            assert UNDECLARED_FOR_THE_AGENT in host.plugins["p"].reason
            assert [each.full_name for each in host.session().agent_tools()] == ["q:work"]

    go(main())


def test_what_cannot_be_built_fails_and_its_gates_deny(placed: Placed) -> None:
    async def main() -> None:
        grants = ["gate:tool_call"]
        plugins = {
            "build": placed("lives:FailsToBuild", grants),
            "exit": placed("lives:ExitsWhenBuilt", grants),
            "module": placed("broken:Nothing", grants),
        }
        if placed.placement.imports_late:
            reasons = {"module": "ZeroDivisionError"}
        else:  # by code a class is given, so that nothing is left to be imported
            del plugins["module"]
            reasons = {}
        async with placed.host(plugins) as host:
            reasons |= {"build": placed.raised("ValueError: a broken thing"), "exit": placed.raised("SystemExit: 3")}
            for name, words in reasons.items():
                assert host.plugins[name].state == "failed"
                assert words in host.plugins[name].reason
                assert host.plugins[name].reason.endswith(f"see `ally-plugins info {name}`")
            ruling = await host.session().gate_tool_call(ToolCall("bash"))
            assert ruling.is_denied
            assert {vote.cause for vote in ruling.votes} == {"failed"}

    go(main())


def test_a_mandatory_plugin_that_cannot_start_stops_the_hosts_start(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"p": placed("lives:UnknownHook", mandatory=True)}
        with pytest.raises(HostError, match=r"the mandatory plugin 'p' is failed: .*did you mean 'ally_tool_call_end'"):
            async with placed.host(plugins):
                pass

    go(main())
