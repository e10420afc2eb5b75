"""What the real agents were seen to do that surprises, where no other test here is about it: a table, single traps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.adapters.coding.client.client_files import hook_line, lay_client
from ally_plugins.adapters.coding.client.hook_client import CLOSED, PASSES
from ally_plugins.adapters.coding.dialects import DIALECTS
from ally_plugins.adapters.coding.payloads import HookKind
from ally_plugins.adapters.coding.settings.connections import Connection, merged_text
from ally_plugins.catalog.home.folder import Home

from .agents import recorded

if TYPE_CHECKING:
    from ally_plugins.adapters.coding.payloads import AgentHook

AGENTS = ("claude", "codex", "gemini", "copilot", "opencode", "pi", "goose")

CAN = {
    # What was seen to work on the real programs, by what we call it; everything else of ours is not served.
    "gate:tool_call": AGENTS,
    "gate:user_message": ("claude", "codex", "gemini", "copilot", "opencode", "pi"),
    "gate:permission": ("claude", "copilot"),
    "gate:stop": ("claude", "codex", "gemini", "copilot", "pi", "goose"),
    "transform:tool_input": AGENTS,  # Goose by denying the call
    "transform:tool_output": ("claude", "codex", "gemini", "copilot", "opencode", "pi"),
    "transform:user_message": ("claude", "codex", "gemini", "copilot", "opencode", "pi"),
    "transform:model_request": (),
    "transform:system_prompt": (),
    "transform:answer": (),
    "gate:answer": (),
    "COMPACTION_START": ("claude", "codex"),  # Gemini's hook comes before every request
    "PERMISSION_REQUEST": ("claude", "copilot"),
    "PERMISSION_RESPONSE": (),
}


@pytest.mark.parametrize("name", sorted(CAN))
def test_an_agent_is_said_to_serve_what_the_real_one_was_seen_to_do_and_no_more(name: str) -> None:
    serving = [agent for agent in AGENTS if name not in DIALECTS[agent].serves.missing]
    # Of what hooks do not carry, some comes from an agent's own files.
    allowed = {*CAN[name]}
    assert {*serving} == allowed


@pytest.mark.parametrize("agent", AGENTS)
def test_only_agents_that_were_seen_to_ask_a_person_are_given_questions(agent: str) -> None:
    assert DIALECTS[agent].asks_person == (agent in {"claude", "copilot"})


@pytest.mark.parametrize("agent", ["claude", "codex", "gemini", "pi"])
def test_that_a_model_goes_on_reading_what_it_had_called_is_said_where_it_is_so(agent: str) -> None:
    assert "goes on reading its own call as it was" in DIALECTS[agent].limits["transform:tool_input"]


def test_that_codex_asks_nobody_about_what_is_typed_into_a_running_command_is_said() -> None:
    limits = DIALECTS["codex"].limits
    assert "write_stdin" in limits["gate:tool_call"]
    assert "a patch that is applied from the shell" in limits["transform:tool_output"]


def test_that_goose_denies_what_it_cannot_change_and_keeps_sub_agents_apart_is_said() -> None:
    limits = DIALECTS["goose"].limits
    assert "is denied" in limits["transform:tool_input"]
    assert "sub-agents have conversations of their own" in limits["gate:tool_call"]


@pytest.mark.parametrize("agent", AGENTS)
def test_every_hook_is_a_command_since_others_are_dropped_or_fail_open(agent: str, tmp_path: Path) -> None:
    text = merged_text(Connection(agent, tmp_path / "settings"), Home("ally-plugins", tmp_path / "home"))
    if DIALECTS[agent].name in {"opencode", "pi"}:
        assert "spawn" in text
        return

    def kinds(value: Any) -> set[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        own = {value["type"]} if isinstance(value, dict) and isinstance(value.get("type"), str) else set()
        return own.union(*map(kinds, inner))

    assert kinds(json.loads(text)["hooks"]) == {"command"}


@pytest.mark.parametrize("agent", AGENTS)
def test_no_hook_is_asked_for_that_tells_of_no_compaction_when_it_is_named_after_one(agent: str) -> None:
    events = {event for event, kind in DIALECTS[agent].kinds.items() if kind is HookKind.COMPACTION_START}
    assert events == ({"PreCompact"} if agent in {"claude", "codex"} else set())


@pytest.mark.parametrize(("agent", "event"), [("copilot", "postToolUse"), ("gemini", "AfterTool")])
def test_a_command_that_failed_is_one_though_its_agent_reports_a_success(agent: str, event: str) -> None:
    def read(case: str) -> AgentHook:
        found = next(each for each in recorded(agent) if (each["event"], each["case"]) == (event, case))
        return DIALECTS[agent].read(event, json.dumps(found["payload"]).encode())

    succeeded, failed = read(""), read("fail")
    assert succeeded.tool is not None
    assert succeeded.tool.result is not None
    assert succeeded.tool.result.success
    assert failed.tool is not None
    assert failed.tool.result is not None
    assert not failed.tool.result.success


@pytest.mark.parametrize("agent", ["gemini", "copilot", "goose"])
def test_the_calls_of_an_agent_without_ids_have_none(agent: str) -> None:
    for each in (each for each in recorded(agent) if each["event"] in DIALECTS[agent].kinds):
        hook = DIALECTS[agent].read(each["event"], json.dumps(each["payload"]).encode())
        if hook.tool is not None and hook.kind in {HookKind.BEFORE_TOOL, HookKind.AFTER_TOOL}:
            assert hook.tool.call.call_id is None


def test_an_observers_event_is_never_closed_and_a_guards_is_but_where_the_agent_holds_nothing() -> None:
    held = {HookKind.BEFORE_TOOL, HookKind.PROMPT, HookKind.AFTER_TOOL, HookKind.AFTER_CALLS, HookKind.PERMISSION}
    open_ones = {
        (agent, event)
        for agent, dialect in DIALECTS.items()
        for event, kind in dialect.kinds.items()
        if (CLOSED[agent][event] == PASSES) == (kind in held)
    }
    # Goose holds no prompt and shows no output; Copilot's is of calls that it has refused itself.
    assert open_ones == {
        ("goose", "UserPromptSubmit"),
        ("goose", "PostToolUse"),
        ("goose", "PostToolUseFailure"),
        ("copilot", "postToolUseFailure"),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="tried on Linux only")
@pytest.mark.parametrize("starter", ["hook", "mcp"])
def test_the_host_that_an_agent_has_started_gets_none_of_its_keys(starter: str, tmp_path: Path) -> None:
    home, seen = Home("ally-plugins", tmp_path / "home"), tmp_path / "seen"
    client = lay_client(home, sys.executable, ("/bin/sh", "-c", f"env > '{seen}'; exit 3"))
    environment = {**os.environ, "GEMINI_API_KEY": "k-1", "ANTHROPIC_API_KEY": "k-2", "OPENAI_API_KEY": "k-3"}
    if starter == "hook":
        line, asked = ["sh", "-c", hook_line(client, "claude", "PreToolUse")], b"{}"
    else:
        line = [sys.executable, "-m", "ally_plugins", "mcp", "claude", "--home", str(home.path)]
        asked = b'{"id": 1, "method": "tools/list"}\n'
    with subprocess.Popen(line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(asked)
        process.stdin.flush()
        if starter == "hook":
            process.stdin.close()
        said = process.stdout.readline()
        if starter == "mcp":
            assert b"the host cannot be started" in said
            process.stdin.close()
    assert "PATH=" in seen.read_text()
    assert "k-" not in seen.read_text()
