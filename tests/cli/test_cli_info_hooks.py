"""`info` shows which hooks a plugin has, when each was last called, and what it answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ally_plugins import Host, ToolCall, ToolCallEnd

if TYPE_CHECKING:
    from tests.cli.conftest import Operator

MANIFEST = """
description = "x"
[events]
subscribe = ["TOOL_CALL_END"]
[permissions]
gate = { on = ["tool_call"], reason = "x" }
transform = { on = ["tool_input"], reason = "x" }
"""
CODE = """
from ally_plugins import Deny, Replace, hookimpl

class Plugin:
    def __init__(self, ally):
        self.ally = ally

    @hookimpl
    async def ally_tool_call_end(self, event):
        raise ValueError("no such thing")

    @hookimpl
    async def ally_gate_tool_call(self, call):
        return Deny("not that") if call.tool_name == "bash" else None

    @hookimpl
    async def ally_transform_tool_input(self, call):
        return None
"""


def _hooks(operator: Operator) -> dict[str, Any]:
    return {each["hook"]: each for each in operator.ask("info", "guard")["hooks"]}


def test_it_is_what_the_code_has_before_anything_was_called_and_what_came_of_it_after(operator: Operator) -> None:
    operator.install("guard", MANIFEST, code=CODE)
    assert {name: (each["calls"], each["last"], each["answer"]) for name, each in _hooks(operator).items()} == {
        "ally_tool_call_end": (0, None, None),
        "ally_gate_tool_call": (0, None, None),
        "ally_transform_tool_input": (0, None, None),
    }
    assert "no call is recorded" in operator.run("info", "guard").stdout
    operator.run("enable", "guard", "--place", "inline", "--yes")

    async def main() -> None:
        async with Host(home=operator.home) as host:
            session = host.session()
            session.emit(ToolCallEnd(tool_name="bash"))
            await session.gate_tool_call(await session.transform_tool_input(ToolCall("read")))
            await session.gate_tool_call(ToolCall("bash"))
            await session.drained()

    asyncio.run(main())
    hooks = _hooks(operator)
    assert hooks["ally_gate_tool_call"]["answer"] == "deny: not that"
    assert hooks["ally_tool_call_end"]["answer"] == "crashed: ValueError: no such thing"
    assert hooks["ally_transform_tool_input"]["answer"] is None
    assert all(each["last"] for name, each in hooks.items() if name != "ally_transform_tool_input")
    assert "deny: not that" in operator.run("info", "guard").stdout
