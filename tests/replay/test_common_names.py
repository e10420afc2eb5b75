"""What a gate is granted by a tool's common name, it is asked about in a replay of every agent's own files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Deny, ToolCall, ToolCallEnd, ToolCallStart, hookimpl
from ally_plugins.adapters.coding.dialects import DIALECTS
from ally_plugins.contract.tools.common_names import COMMON_NAMES, TOOL_NAMES, argument_names
from ally_plugins.host.host import Host
from ally_plugins.journal.export import export
from ally_plugins.replay.pacing import ReplayClock
from ally_plugins.replay.player import Player
from ally_plugins.replay.recording import open_recording
from tests.kit.hosts import make_record
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path

AT = "2026-03-01T10:00:00.000Z"
LINE = "rm -rf /srv"


def claude(tool: str, arguments: dict[str, Any]) -> list[Any]:
    block = {"type": "tool_use", "id": "c1", "name": tool, "input": arguments}
    about = {"sessionId": "s1", "cwd": "/srv", "timestamp": AT}
    return [
        {"type": "user", "uuid": "u1", **about, "message": {"role": "user", "content": "do it"}},
        {"type": "assistant", "uuid": "u2", **about, "message": {"role": "assistant", "content": [block]}},
    ]


def codex(tool: str, arguments: dict[str, Any]) -> list[Any]:
    item = {"type": "function_call", "name": tool, "arguments": json.dumps(arguments), "call_id": "c1"}
    about = {"id": "s1", "timestamp": AT, "cwd": "/srv", "originator": "codex", "cli_version": "0.171.0"}
    return [
        {"timestamp": AT, "type": "session_meta", "payload": about},
        {"timestamp": AT, "type": "response_item", "payload": item},
    ]


def pi(tool: str, arguments: dict[str, Any]) -> list[Any]:
    block = {"type": "toolCall", "id": "c1", "name": tool, "arguments": arguments}
    message = {"role": "assistant", "model": "m", "content": [block], "stopReason": "toolUse"}
    return [
        {"type": "session", "version": 3, "id": "s1", "timestamp": AT, "cwd": "/srv"},
        {"type": "message", "id": "a", "parentId": None, "timestamp": AT, "message": message},
    ]


def swe_agent(tool: str, arguments: dict[str, Any]) -> list[Any]:
    function = {"name": tool, "arguments": json.dumps(arguments)}
    message = {"role": "assistant", "content": "", "thought": "", "action": "",
               "tool_calls": [{"type": "function", "id": "c1", "function": function}]}  # fmt: skip
    return [{"environment": "main", "trajectory": [], "history": [{"role": "user", "content": "do it"}, message]}]


class Guard:
    """Denies what it is asked about, and keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[ToolCall] = []
        self.results: list[str] = []
        self.events: list[str | None] = []

    @hookimpl
    def ally_gate_tool_call(self, call: ToolCall) -> Deny:
        self.seen.append(call)
        return Deny("no")

    @hookimpl
    def ally_transform_tool_output(self, call: ToolCall) -> None:
        self.results.append(call.tool_name)

    @hookimpl
    def ally_tool_call_start(self, event: ToolCallStart) -> None:
        self.events.append(event.common_name)

    @hookimpl
    def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        self.events.append(event.common_name)


def replayed(file: Path, kind: str, again: Path | None = None) -> Guard:
    """Replay a file with a guard of one kind of tools, and into another one what the journal exports of it."""

    async def main() -> tuple[Guard, bytes]:
        guard = Guard()
        events = ("events:TOOL_CALL_START", "events:TOOL_CALL_END")
        grants = [f"gate:tool_call:{kind}", f"transform:tool_output:{kind}", *events]
        plugins = {"guard": (lambda _: guard, make_record("guard", grants=grants))}
        host = Host("t", home=None, plugins=plugins, discover=False, clock=ReplayClock(), has_person=True)
        exported: list[bytes] = []

        async def before_end(session: Any) -> None:
            await host.journal.flush()
            exported.extend(export(host.journal.reader, session.id))

        await Player(host, [open_recording(file)], before_end=before_end).run()
        return guard, b"".join(exported)

    guard, exported = go(main())
    if again is not None:
        again.write_bytes(exported)
    return guard


FILES: list[tuple[Any, str, dict[str, Any]]] = [
    (claude, "Bash", {"command": LINE}),
    (codex, "exec_command", {"cmd": LINE}),
    (pi, "bash", {"command": LINE}),
    (swe_agent, "execute_bash", {"command": LINE}),
]


def written(folder: Path, lines: list[Any]) -> Path:
    file = folder / "recorded.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return file


@pytest.mark.parametrize(("write", "tool", "arguments"), FILES, ids=lambda it: getattr(it, "__name__", str(it)))
def test_a_gate_of_shells_is_asked_about_every_agents_shell(
    write: Any, tool: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    file, exported = written(tmp_path, write(tool, arguments)), tmp_path / "exported.jsonl"
    guard = replayed(file, "bash", exported)
    [call] = guard.seen
    assert (call.tool_name, call.common_name) == (tool, "bash")
    assert dict(call.common_arguments) == {"command": LINE}
    assert dict(call.arguments) == arguments, "the agent's own words stay"
    assert guard.results == [tool]
    assert guard.events == ["bash", "bash"]
    # The journal's own form has no names of arguments.
    again = replayed(exported, "bash")
    assert again.seen == guard.seen
    assert replayed(file, "web").seen == []


def test_a_tool_that_nobody_knows_has_its_own_name_alone(tmp_path: Path) -> None:
    guard = replayed(written(tmp_path, claude("mcp__files__bash", {"command": LINE})), "bash")
    assert guard.seen == []
    assert guard.events == [None, None]


def test_the_names_that_hooks_and_recordings_have_for_tools_stand_in_one_table() -> None:
    assert TOOL_NAMES.keys() == {*DIALECTS, "swe-agent"}
    for tools in TOOL_NAMES.values():
        assert {common for common, _ in tools.values()} <= COMMON_NAMES
        for tool, (common, names) in tools.items():
            assert argument_names(tool, common).items() >= names.items()
