"""`stats` and `top`: what a plugin costs, as an operator asks."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, ToolCall, ToolCallEnd, ToolResult
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.values import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Agent, Operator

NAME = "loop-warner"

MANIFEST = """
description = "does a little of everything"
requires_host = ">=1,<2"
[events]
subscribe = ["TOOL_CALL_END"]
reason = "to count"
[permissions]
add_message = { roles = ["user"], reason = "to steer the agent" }
gate = { on = ["tool_call"], tools = ["bash"], reason = "to stop it" }
transform = { on = ["tool_output"], reason = "to tidy up" }
"""

CODE = """
import asyncio

from ally_plugins import Deny, Replace, evolve, hookimpl

class Plugin:
    def __init__(self, ally):
        self.ally = ally

    @hookimpl
    async def ally_gate_tool_call(self, call):
        if "crash" in str(call.arguments):
            raise ValueError("as asked")
        return Deny("no") if "rm" in str(call.arguments) else None

    @hookimpl
    async def ally_transform_tool_output(self, call, result):
        await asyncio.sleep(0.02)
        return Replace(evolve(result, output="tidy"))

    @hookimpl
    async def ally_tool_call_end(self, event):
        await self.ally.add_message("user", "twelve chars")
"""


@pytest.fixture
def enabled(warner: Operator) -> Operator:
    """Return an operator who has agreed to a plugin with hooks of every kind."""
    warner.install(manifest=MANIFEST, code=CODE)
    warner.enable(NAME)
    return warner


async def work() -> None:
    async with Host() as host:
        session = host.session()
        for command in ("ls", "ls", "rm", "crash"):
            await session.gate_tool_call(ToolCall("bash", {"command": command}, "c1"))
        call = ToolCall("bash", {"command": "ls"}, "c1")
        await session.transform_tool_output(call, ToolResult(success=True, output="untidy"))
        for _ in range(2):
            session.emit(ToolCallEnd(tool_name="bash"))
        await session.drained()
        await session.safe_point("step")


def hooks_of(plugin: dict[str, Any]) -> dict[str, Any]:
    return {hook.pop("hook"): hook for hook in plugin["hooks"]}


def test_stats_shows_calls_times_and_what_came_of_them_for_each_hook(enabled: Operator) -> None:
    asyncio.run(work())
    (plugin,) = enabled.ask("stats")["plugins"]
    hooks = hooks_of(plugin)
    gate, transform, event = (
        hooks[f"ally_{name}"] for name in ("gate_tool_call", "transform_tool_output", "tool_call_end")
    )
    assert (gate["calls"], gate["denied"], gate["asked"], gate["failed"]) == (4, 1, 0, 1)
    assert (transform["calls"], transform["changed"], transform["failed"]) == (1, 1, 0)
    assert 0.018 <= transform["p50"] <= transform["longest"]
    assert event["calls"] == 2
    assert event["longest"] > 0
    assert {key: plugin[key] for key in ("messages", "tokens", "crashes", "refused", "events", "dropped")} == {
        "messages": 2, "tokens": 6, "crashes": 1, "refused": 0, "events": 2, "dropped": 0,
    }  # fmt: skip
    shown = enabled.run("stats", NAME).stdout
    assert "ally_gate_tool_call" in shown
    assert " 4 " in shown


def test_stats_counts_what_is_newer_than_it_was_asked_for(enabled: Operator) -> None:
    asyncio.run(work())
    assert enabled.ask("stats", "--since", "2100-01-01")["plugins"] == []
    assert "nothing is recorded of any plugin" in enabled.run("stats", "--since", "2100-01-01").stdout
    assert "nothing is recorded of loop-warner" in enabled.run("stats", NAME, "--since", "2100-01-01").stdout
    assert "no plugin 'other'" in enabled.run("stats", "other", code=2).stderr


def test_what_a_replay_recorded_is_not_counted_nor_what_cannot_be_read(enabled: Operator) -> None:
    vote = {"plugin": NAME, "verdict": "deny", "cause": "verdict", "elapsed_ms": 1.0}
    strange: list[Any] = [{"plugin": 7}, None, {"plugin": NAME, "elapsed_ms": "x", "verdict": "allow"}]
    decisions: list[dict[str, Any]] = [
        {"kind": "tool_call", "votes": [vote], "recorded_at": 1},
        {"kind": "tool_call", "votes": strange},
    ]

    async def record() -> None:
        journal = Journal.open(enabled.home.journal_file, head=enabled.home.audit_head_file)
        for number, data in enumerate(decisions):
            await journal.append(Record("decision", 1_700_000_000_000, None, "s", f"d{number}", data))
        await journal.append(Record("usage", 1_700_000_000_000, NAME, None, None, {"hooks": 3, "memory": None}))
        await journal.close()

    asyncio.run(record())
    plugins = {each["name"]: each for each in enabled.ask("stats", "--since", "2020-01-01")["plugins"]}
    gate = hooks_of(plugins[NAME])["ally_gate_tool_call"]
    assert (gate["calls"], gate["denied"], gate["p50"]) == (1, 0, 0)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs local sockets")
def test_a_running_host_is_counted_up_to_now_and_top_shows_it_live(
    enabled: Operator, start: Callable[[], Agent]
) -> None:
    enabled.run("place", NAME, "process")
    agent = start()
    assert "no host" not in enabled.run("top").stdout
    assert agent.ask("gate") == [True, 1]
    look = json.loads(enabled.run("top", "--json", "--count", "1").stdout)
    (plugin,) = look["hosts"][0]["plugins"]
    gate = hooks_of(plugin)["ally_gate_tool_call"]
    assert (look["hosts"][0]["pid"], gate["calls"], plugin["state"]) == (agent.pid, 1, "running")
    (recorded,) = enabled.ask("stats", NAME)["plugins"]
    assert hooks_of(recorded)["ally_gate_tool_call"]["denied"] == 1
    if sys.platform == "linux":
        assert plugin["memory"] > 1_000_000
        assert recorded["memory"] > 1_000_000
        assert recorded["cpu"] == pytest.approx(plugin["cpu"], abs=5)
    assert len(enabled.run("top", "--count", "2", "--every", "0.1").stdout.split("1 host")) == 3
    assert "no host runs" not in enabled.run("top", "other").stdout


def test_top_says_that_no_host_runs(enabled: Operator) -> None:
    assert "no host runs" in enabled.run("top").stdout
    assert enabled.ask("top")["hosts"] == []
