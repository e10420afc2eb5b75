"""The two names of a tool: the agent's own, and the one that all agents' tools of the kind have."""

from __future__ import annotations

from typing import Any

import pytest

from ally_plugins import Deny, Host, Replace, ToolCall, ToolResult, evolve
from tests.kit.hosts import make_plugin, setup
from tests.kit.waiting import go

SHELL: dict[str, Any] = {"common_name": "bash", "argument_names": {"cmd": "command"}}


def guard(self: Any, call: ToolCall) -> Deny | None:  # noqa: ARG001 - a hook's signature
    return Deny("no") if "rm" in call.common_arguments.get("command", "") else None


def changes(self: Any, call: ToolCall) -> Replace[ToolCall]:  # noqa: ARG001
    return Replace(evolve(call, arguments={"cmd": "rm x"}, common_name="read", argument_names={}))


def host_with(grants: list[str], **hooks: Any) -> Host:
    plugin, record = setup(make_plugin(**hooks), grants).under("p")
    return Host(home=None, discover=False, plugins={"p": (plugin, record)})


@pytest.mark.parametrize("tool", ["bash", "run_shell"])
def test_a_gate_of_one_tool_is_asked_by_either_name_of_it(tool: str) -> None:
    async def main() -> None:
        async with host_with([f"gate:tool_call:{tool}"], ally_gate_tool_call=guard) as host:
            session = host.session()
            own = ToolCall("run_shell", {"cmd": "rm -r ."}, **SHELL)
            assert (await session.gate_tool_call(own)).is_denied
            assert not (await session.gate_tool_call(evolve(own, arguments={"cmd": "ls"}))).is_denied

    go(main())


def test_a_gate_of_one_tool_is_not_asked_about_another() -> None:
    async def main() -> None:
        async with host_with(["gate:tool_call:bash"], ally_gate_tool_call=guard) as host:
            session = host.session()
            assert (await session.gate_tool_call(ToolCall("run_shell", {"command": "rm x"}))).is_allowed
            read = ToolCall("see", {"command": "rm x"}, common_name="read")
            assert (await session.gate_tool_call(read)).is_allowed

    go(main())


def test_a_transform_changes_no_name_of_the_call_that_later_ones_and_gates_are_asked_by() -> None:
    async def main() -> None:
        hooks = {"ally_transform_tool_input": changes, "ally_gate_tool_call": guard}
        grants = ["transform:tool_input:bash", "gate:tool_call:bash"]
        async with host_with(grants, **hooks) as host:
            call = ToolCall("run_shell", {"cmd": "ls"}, "c1", **SHELL)
            result = await host.session().begin_call(call)
            assert isinstance(result, ToolResult)
            assert result.error == "not run: p: no"

    go(main())


def test_an_argument_whose_common_name_is_taken_keeps_its_own() -> None:
    names = {"file_path": "path", "n": "limit"}
    call = ToolCall("see", {"file_path": "/a", "path": "/b", "n": 1}, argument_names=names)
    assert call.common_arguments == {"file_path": "/a", "path": "/b", "limit": 1}
