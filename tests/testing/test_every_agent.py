"""One plugin, written once, in every agent: what it stops does not run, and the model reads why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import pytest

from ally_plugins import (
    Ally,
    Ask,
    Deny,
    Message,
    Replace,
    Stop,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    ToolResult,
    UserMessage,
    evolve,
    hookimpl,
)
from ally_plugins.testing import BlockingAgentHarness, NotServedError, ToolUse
from ally_plugins_contrib.loop_guard import LoopGuard
from ally_plugins_contrib.rule_guard import RuleGuard
from ally_plugins_contrib.secret_guard import SecretGuard

pytestmark = pytest.mark.smoke

Start: TypeAlias = Callable[..., BlockingAgentHarness]

MANIFEST = """
description = "guards in each agent"
requires_host = ">=1,<2"
[events]
subscribe = ["TOOL_CALL_START", "TOOL_CALL_END", "USER_MESSAGE"]
[permissions]
add_message = { roles = ["user"], reason = "to speak" }
gate = { on = ["tool_call", "user_message", "stop"], reason = "to refuse" }
transform = { on = ["tool_input", "tool_output"], reason = "to change" }
"""
LIST = ToolUse("bash", {"command": "ls"}, output="a b")
REMOVE = ToolUse("bash", {"command": "rm -rf build"}, output="gone")


class Guard:
    """Does what a command, a prompt or an output asks it to."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Deny | Ask | None:
        command = str(call.common_arguments.get("command"))
        if "crash" in command:
            raise ValueError("as asked")
        if "wait for ever" in command:
            await asyncio.Event().wait()
        if "ask" in command:
            return Ask("may it?")
        return Deny("nothing is removed") if "rm" in command else None

    @hookimpl
    def ally_transform_tool_input(self, call: ToolCall) -> Replace[ToolCall] | None:
        if "change me" not in str(call.arguments):
            return None
        return Replace(evolve(call, arguments={**call.arguments, "command": "echo changed"}))

    @hookimpl
    def ally_transform_tool_output(self, result: ToolResult) -> Replace[ToolResult] | None:
        return Replace(evolve(result, output="[hidden]")) if "secret" in result.output else None

    @hookimpl
    def ally_gate_user_message(self, message: Message) -> Deny | None:
        return Deny("not that") if "forbidden" in message.content else None

    @hookimpl
    def ally_gate_stop(self, stop: Stop) -> Deny | None:
        return Deny("run the tests first") if "untested" in stop.answer else None


def start(ally_agent: Start, **options: object) -> BlockingAgentHarness:
    return ally_agent(Guard, manifest=MANIFEST, **options)


def test_a_denied_call_does_not_run_and_the_model_reads_why(ally_agent: Start) -> None:
    agent = start(ally_agent)
    agent.require("gate:tool_call")
    turn = agent.turn(LIST, REMOVE, LIST)
    assert [call.ran for call in turn.calls] == [True, False, True]
    assert "nothing is removed" in turn.calls[1].shown
    assert turn.calls[0].arguments == {"command": "ls"}
    assert "a b" in turn.calls[2].shown
    assert [event.denied for event in agent.events_of(ToolCallEnd)] == [False, True, False]
    assert len(agent.events_of(ToolCallStart)) == 3


@pytest.mark.parametrize("command", ["crash", "wait for ever"])
def test_a_gate_that_fails_or_hangs_lets_nothing_run(ally_agent: Start, command: str) -> None:
    agent = start(ally_agent, deadlines={"ally_gate_tool_call": 0.1})
    turn = agent.turn(ToolUse("bash", {"command": command}))
    assert not turn.calls[0].ran
    assert "guard" in turn.calls[0].shown
    assert agent.turn(LIST).calls[0].ran


def test_what_is_asked_runs_only_if_the_person_agrees(ally_agent: Start) -> None:
    agent = start(ally_agent)
    asks = ToolUse("bash", {"command": "ask"})
    refused = agent.turn(asks).calls[0]
    assert not refused.ran
    agreed = agent.turn(asks, person_agrees=True).calls[0]
    assert agreed.ran is agreed.is_asked  # where the agent asks nobody, it is a deny


def test_changed_arguments_run_or_nothing_does(ally_agent: Start) -> None:
    agent = start(ally_agent)
    agent.require("transform:tool_input")
    call = agent.turn(ToolUse("bash", {"command": "change me"})).calls[0]
    assert call.arguments == ({"command": "echo changed"} if call.ran else {})


def test_an_output_is_hidden_from_the_model_where_the_agent_can(ally_agent: Start) -> None:
    agent = start(ally_agent)
    agent.require("transform:tool_output")
    call = agent.turn(ToolUse("bash", {"command": "cat key"}, output="the secret")).calls[0]
    assert call.ran
    assert "secret" not in call.shown
    assert "[hidden]" in call.shown


def test_a_prompt_is_stopped_before_the_model_reads_it(ally_agent: Start) -> None:
    agent = start(ally_agent)
    agent.require("gate:user_message")
    turn = agent.turn(LIST, prompt="the forbidden one")
    assert (turn.calls, turn.prompt) == ((), None)
    assert "not that" in turn.reason
    assert agent.turn(LIST, prompt="another").prompt == "another"


def test_an_agent_that_wants_to_stop_is_sent_on(ally_agent: Start) -> None:
    agent = start(ally_agent)
    agent.require("gate:stop")
    turn = agent.turn(prompt="do it", answer="done, untested")
    if "gate:stop" in agent.agent.limits:
        return  # what its hooks do not say cannot be judged
    assert turn.goes_on
    assert "run the tests first" in f"{turn.words} {turn.reason}"


def test_the_person_is_heard_and_answered(ally_agent: Start) -> None:
    agent = start(ally_agent)
    turn = agent.turn(prompt="hello", answer="good day")
    assert turn.answer == "good day"
    if "USER_MESSAGE" in agent.agent.serves:
        assert [event.content for event in agent.events_of(UserMessage)] == ["hello"]


# The plugins that come with the project


def test_loop_guard_steers_and_then_stops_an_agent(ally_agent: Start) -> None:
    fails = ToolUse("bash", {"command": "make"}, output="no rule to make target", success=False)
    agent = ally_agent(LoopGuard)
    turn = agent.turn(*[fails] * 7, prompt="go on until it works", answer="I give up")
    assert [call.ran for call in turn.calls] == [True] * 5 + [False] * 2
    assert "has failed 5 times with the same arguments" in turn.calls[-1].shown
    assert "has failed 3 times" in turn.words
    assert turn.words.count("[plugin loop-guard]") == 1
    assert [event.denied for event in agent.events_of(ToolCallEnd)] == [False] * 5 + [True] * 2


def test_secret_guard_lets_no_key_reach_the_model(ally_agent: Start) -> None:
    key = "AKIA" + "Z7QWERTYUIOP2345"
    agent = ally_agent(SecretGuard)
    agent.require("transform:tool_output")
    call = agent.turn(ToolUse("read", {"path": "settings.py"}, output=f'aws_key = "{key}"')).calls[0]
    assert key not in call.shown
    assert "[redacted:aws-access-key]" in call.shown


def test_rule_guard_stops_what_would_remove_everything(ally_agent: Start) -> None:
    agent = ally_agent(RuleGuard)
    turn = agent.turn(ToolUse("bash", {"command": "cd / && rm -rf usr"}), LIST)
    assert [call.ran for call in turn.calls] == [False, True]
    assert "whole-folders" in turn.calls[0].shown


# Where there is nothing to test


def test_a_tool_that_an_agent_has_not_is_said_and_a_name_that_is_none_too(ally_harness: object) -> None:  # noqa: ARG001
    with BlockingAgentHarness(Guard, agent="pi", manifest=MANIFEST) as agent:
        with pytest.raises(NotServedError, match="pi has no tool 'todo'"):
            agent.turn(ToolUse("todo", {}))
        with pytest.raises(NotServedError, match="pi does not serve COMPACTION"):
            agent.require("COMPACTION_START")
    with pytest.raises(ValueError, match="did you mean 'claude'"):
        BlockingAgentHarness(Guard, agent="cluade", manifest=MANIFEST)
