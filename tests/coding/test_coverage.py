"""Calls in agents' own files that no gate has seen are named, whatever else is in those files."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.policy.keeping import Keeping
from tests.kit.commands import run_command
from tests.kit.hosts import make_plugin, setup

from .agents import recorded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SESSION = "5f0c9a1b-conversation"
AT = "2026-11-30T10:00:00.000Z"
AGENTS = ["claude", "codex", "pi"]
HOOKS = {"claude": "PreToolUse", "codex": "PreToolUse", "pi": "tool_call"}


def line_of(agent: str, call_id: str, name: str = "bash", **more: Any) -> dict[str, Any]:
    """Return the record of a call as an agent writes it."""
    match agent:
        case "claude":
            block = {"type": "tool_use", "id": call_id, "name": name, "input": {"command": "ls"}}
            message = {"role": "assistant", "content": [{"type": "text", "text": "I look"}, block]}
            return {"type": "assistant", "sessionId": SESSION, "timestamp": AT, "message": message, **more}
        case "codex":
            item = {"type": "function_call", "name": name, "arguments": "{}", "call_id": call_id}
            return {"timestamp": AT, "type": "response_item", "payload": {**item, **more}}
        case _:
            block = {"type": "toolCall", "id": call_id, "name": name, "arguments": {}}
            message = {"role": "assistant", "content": [block]}
            return {"type": "message", "id": call_id, "parentId": None, "timestamp": AT, "message": message, **more}


def head_of(agent: str) -> list[dict[str, Any]]:
    if agent == "codex":
        return [{"timestamp": AT, "type": "session_meta", "payload": {"id": SESSION, "cwd": "/p"}}]
    return [{"type": "session", "version": 3, "id": SESSION, "timestamp": AT, "cwd": "/p"}] if agent == "pi" else []


class Files:
    """The folder of an agent's own files."""

    def __init__(self, agent: str, folder: Path) -> None:
        self.agent = agent
        self.folder = folder / ("projects" if agent == "claude" else "sessions") / "p"
        self.folder.mkdir(parents=True)

    def write(self, records: Sequence[dict[str, Any] | bytes], name: str = "one.jsonl") -> Path:
        every = (*head_of(self.agent), *records)
        lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in every]
        file = self.folder / name
        file.write_bytes(b"\n".join(lines) + b"\n")
        return file


@pytest.fixture(params=AGENTS)
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Return an agent's files, of which none is there, on a machine with no other agent."""
    folder = tmp_path / "agent"
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "PI_CODING_AGENT_DIR"):
        monkeypatch.delenv(name, raising=False)
    variable = {"claude": "CLAUDE_CONFIG_DIR", "codex": "CODEX_HOME", "pi": "PI_CODING_AGENT_DIR"}[request.param]
    monkeypatch.setenv(variable, str(folder))
    return Files(request.param, folder)


def ask(home: Path, agent: str, call_ids: Sequence[str], *, tools: str = "", content: Any = "full") -> None:
    """Have an agent ask about calls, with a gate behind it; `tools` narrows what it gates."""
    given = setup(make_plugin(ally_gate_tool_call=lambda self, call: None), [f"gate:tool_call{tools}"]).under("p")  # noqa: ARG005

    async def main() -> None:
        async with Host("t", home=home, discover=False, plugins={"p": given}) as host:
            conversations = Conversations(host)
            (payload, *_) = [each["payload"] for each in recorded(agent) if each["event"] == HOOKS[agent]]
            for call_id in call_ids:
                about = {"session_id": SESSION, "toolCallId" if agent == "pi" else "tool_use_id": call_id}
                raw = json.dumps({**payload, **about}).encode()
                await conversations.reply(agent, HOOKS[agent], raw, 30)

    if content != "full":
        (home / "config.toml").write_text(f'[journal]\ncontent = "{Keeping(content=content).content}"\n')
    asyncio.run(main())


def found(*args: str, code: int = 0) -> dict[str, Any]:
    result = run_command("coverage", "--since", "2026-01-01", *args, "--json", code=code)
    return dict(json.loads(result.stdout)["agents"])


def ids(calls: list[dict[str, Any]]) -> list[str]:
    return [call["call_id"] for call in calls]


def test_a_call_that_no_hook_told_of_is_named_and_the_others_are_not(files: Files, home: Path) -> None:
    ask(home, files.agent, ["c1", "c2"])
    file = files.write([line_of(files.agent, each) for each in ("c1", "c2", "c3")])
    each = found(code=1)[files.agent]
    assert (each["files"], each["calls"], each["gated"]) == (1, 3, 2)
    assert ids(each["unseen"]) == ["c3"]
    assert each["unseen"][0]["file"] == str(file)
    assert each["unseen"][0]["session_id"] == f"{files.agent}-{SESSION}"
    shown = run_command("coverage", "--since", "2026-01-01", code=1).stdout
    assert f"{files.agent}: 3 calls in 1 files" in shown
    assert "c3" in shown
    assert "c1" not in shown


def test_where_every_call_was_seen_it_ends_well_and_without_contents_too(files: Files, home: Path) -> None:
    home.mkdir(exist_ok=True, mode=0o700)
    ask(home, files.agent, ["c1"], content="metadata")
    files.write([line_of(files.agent, "c1"), line_of(files.agent, "c1")])  # agents repeat records
    each = found()[files.agent]
    assert (each["calls"], each["gated"], each["unseen"], each["ungated"]) == (1, 1, [], [])


def test_a_call_that_the_host_was_told_of_and_no_plugin_gates_is_another_matter(files: Files, home: Path) -> None:
    ask(home, files.agent, ["c1"], tools=":other")
    files.write([line_of(files.agent, "c1")])
    each = found()[files.agent]
    assert (each["gated"], each["unseen"], ids(each["ungated"])) == (0, [], ["c1"])


def test_the_same_id_in_another_conversation_is_another_call_unless_it_is_too_long_for_chance(
    files: Files, home: Path
) -> None:
    ask(home, files.agent, ["c1", "call_0123456789abcdef"])
    records = [line_of(files.agent, each) for each in ("c1", "call_0123456789abcdef")]
    text = b"\n".join(json.dumps(each).encode() for each in (*head_of(files.agent), *records))
    (files.folder / "other.jsonl").write_bytes(text.replace(SESSION.encode(), b"another"))
    assert ids(found(code=1)[files.agent]["unseen"]) == ["c1"]


def test_of_a_purged_conversation_nobody_says_that_its_calls_were_seen_or_not(files: Files, home: Path) -> None:
    ask(home, files.agent, ["c1"])
    files.write([line_of(files.agent, "c1")])
    run_command("purge", f"{files.agent}-{SESSION}", "--yes")
    each = found()[files.agent]
    assert (each["removed"], each["gated"], each["unseen"]) == (1, 0, [])


def test_garbage_links_pipes_and_torn_lines_hide_no_call_and_stop_nothing(
    files: Files, home: Path, tmp_path: Path
) -> None:
    ask(home, files.agent, ["c1"])
    outside = tmp_path / "outside.jsonl"
    outside.write_text(json.dumps(line_of(files.agent, "stranger")) + "\n")
    (files.folder / "link.jsonl").symlink_to(outside)
    os.mkfifo(files.folder / "pipe.jsonl")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.jsonl").write_text(json.dumps(line_of(files.agent, "far")) + "\n")
    (files.folder / "linked").symlink_to(tmp_path / "elsewhere")
    deep = b'{"type": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    strange = [b"\xff\xfe\x00", b"{" * 300, b"[]", b"null", b'{"type": 5}', b'{"type": "assistant", "message": 5}',
               b'{"type": "response_item", "payload": {"type": [], "summary": 3}}', deep]  # fmt: skip
    odd: list[dict[str, Any] | bytes] = [
        line_of(files.agent, ""), {**line_of(files.agent, "c3"), "timestamp": "yesterday"},
        {**line_of(files.agent, "c4"), "timestamp": 7}, json.dumps(line_of(files.agent, "torn")).encode()[:-4],
    ]  # fmt: skip
    files.write([*strange, line_of(files.agent, "c1"), line_of(files.agent, "c2"), *odd])
    each = found(code=1)[files.agent]
    assert ids(each["unseen"]) == ["c2", "", "c3", "c4"]
    assert each["gated"] == 1
    assert each["broken_lines"] >= 4
    assert len(each["unread"]) == 2
    assert {text.partition(": ")[0] for text in each["unread"]} == {
        str(files.folder / "link.jsonl"),
        str(files.folder / "pipe.jsonl"),
    }


def test_calls_before_the_time_are_left_out_and_without_one_it_begins_with_the_first_hook(
    files: Files, home: Path
) -> None:
    old = line_of(files.agent, "old") | {"timestamp": "2025-06-01T10:00:00Z"}
    new = line_of(files.agent, "new") | {"timestamp": "2099-06-01T10:00:00Z"}
    files.write([old, new])
    assert json.loads(run_command("coverage", "--json").stdout) == {"agents": {}}  # no hook was ever to come
    ask(home, files.agent, ["c1"])
    files.write([old, new])
    each = json.loads(run_command("coverage", "--json", code=1).stdout)["agents"][files.agent]
    assert ids(each["unseen"]) == ["new"]


def test_a_file_that_is_named_is_compared_by_what_stands_in_it(files: Files, home: Path, tmp_path: Path) -> None:
    ask(home, files.agent, ["c1"])
    file = files.write([line_of(files.agent, "c1"), line_of(files.agent, "c2")])
    assert ids(found(str(file), code=1)[files.agent]["unseen"]) == ["c2"]
    strange = tmp_path / "strange.jsonl"
    strange.write_text("{}\n")
    assert "cannot replay" in run_command("coverage", str(strange), code=2).stderr


@pytest.mark.parametrize("files", ["claude"], indirect=True)
def test_an_agent_that_is_connected_and_whose_hooks_never_came_has_every_call_unseen(files: Files) -> None:
    run_command("connect", "claude", code=0)
    file = files.write([line_of("claude", "c1") | {"timestamp": "2099-06-01T10:00:00Z"}])
    each = json.loads(run_command("coverage", "--json", code=1).stdout)["agents"]["claude"]
    assert ids(each["unseen"]) == ["c1"]
    assert each["unseen"][0]["file"] == str(file)


@pytest.mark.parametrize("files", ["claude"], indirect=True)
def test_calls_that_were_taken_back_or_are_a_sub_agents_or_the_providers_count_too(files: Files, home: Path) -> None:
    ask(home, "claude", ["c1"])
    inner = {"type": "assistant", "message": line_of("claude", "c5")["message"]}
    server = line_of("claude", "c6")
    server["message"]["content"][1]["type"] = "server_tool_use"
    files.write([
        line_of("claude", "c1", uuid="a", parentUuid=None), line_of("claude", "c2", uuid="b", parentUuid="a"),
        line_of("claude", "c3", uuid="c", parentUuid="a"), line_of("claude", "c4", isSidechain=True),
        {"type": "progress", "sessionId": SESSION, "data": {"type": "agent_progress", "message": inner}}, server,
    ])  # fmt: skip
    assert ids(found(code=1)["claude"]["unseen"]) == ["c2", "c3", "c4", "c5", "c6"]
