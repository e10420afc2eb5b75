"""`connect` and `disconnect`: our hooks beside those that are there, and a way back to the byte."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.adapters.coding.client.client_files import find_change
from ally_plugins.adapters.coding.client.hook_client import CLOSED, PASSES
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.adapters.coding.settings.connections import Connection, entries_for, guarded_places, is_ours
from ally_plugins.adapters.coding.settings.hook_settings import merge_hooks, take_out_hooks
from ally_plugins.catalog.home.folder import Home
from ally_plugins.host.host import Host
from ally_plugins.testing.agents.reactions import react
from tests.kit.commands import run_command
from tests.kit.sites import Site

from .agents import recorded

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.adapters.coding.replies import Reply

THEIRS = {"hooks": [{"type": "command", "command": "theirs --now"}], "matcher": "Bash"}
OLD = json.dumps({"model": "m", "hooks": {"PreToolUse": [THEIRS], "Other": []}, "é": 1}, indent=4, ensure_ascii=False)

MANIFEST = """
description = "asks of permission questions"
requires_host = ">=1,<2"
[permissions]
gate = { on = ["permission", "tool_call"], reason = "to answer them" }
"""

CODE = """
from ally_plugins import hookimpl

class Plugin:
    def __init__(self, ally):
        pass

    @hookimpl
    async def ally_gate_permission(self, request):
        return None

    @hookimpl
    async def ally_gate_tool_call(self, call):
        return None
"""


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home directory of somebody whose state lies below it, in a folder with a quote in its name."""
    home = tmp_path / "a person's"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ALLY_HOME", str(home / "state"))
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "ALLY_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    return home


FILES = {
    "claude": ".claude/settings.json",
    "codex": ".codex/hooks.json",
    "gemini": ".gemini/settings.json",
    "copilot": ".copilot/hooks/ally-plugins.json",
    "opencode": ".config/opencode/plugin/ally-plugins.js",
    "pi": ".pi/agent/extensions/ally-plugins.ts",
    "goose": ".agents/plugins/ally-plugins/hooks/hooks.json",
}
MERGED = ["claude", "codex", "gemini"]
"""Those whose file is not ours alone."""


def file_of(person: Path, agent: str) -> Path:
    return person / FILES[agent]


def commands_at(settings: dict[str, Any], event: str) -> list[str]:
    return [hook["command"] for group in settings["hooks"].get(event, []) for hook in group["hooks"]]


@pytest.mark.parametrize("agent", MERGED)
def test_every_event_has_one_hook_of_ours_and_theirs_stay(agent: str, person: Path) -> None:
    file = file_of(person, agent)
    file.parent.mkdir()
    file.write_text(OLD)
    said = json.loads(run_command("connect", agent, "--json").stdout)
    assert said["other_hooks"] == ({} if agent == "gemini" else {"PreToolUse": ["theirs --now"]})
    for _ in range(2):  # the second time changes nothing
        settings = json.loads(file.read_text())
        assert settings["model"] == "m"
        assert settings["hooks"]["Other"] == []
        for event in CLOSED[agent]:
            assert [is_ours(each) for each in commands_at(settings, event)].count(True) == 1
        assert commands_at(settings, "PreToolUse")[0] == "theirs --now"
        assert json.loads(run_command("connect", agent, "--json").stdout)["changed"] is False


@pytest.mark.parametrize("agent", ["claude", "gemini"])
@pytest.mark.parametrize("before", [None, "", "{}", OLD, OLD + "\r\n\t"])
def test_disconnecting_puts_the_file_back_to_the_byte(agent: str, before: str | None, person: Path) -> None:
    file = file_of(person, agent)
    file.parent.mkdir()
    if before is not None:
        file.write_bytes(before.encode())
        file.chmod(0o640)
    run_command("connect", agent)
    assert file.stat().st_mode & 0o777 == (0o600 if before is None else 0o640)
    assert json.loads(run_command("disconnect", agent, "--json").stdout)["how"] == "restored"
    assert (file.read_bytes() if file.exists() else None) == (None if before is None else before.encode())
    assert json.loads(run_command("disconnect", agent, "--json").stdout)["how"] == "none"


def test_the_client_puts_the_file_back_to_the_byte_without_the_package(person: Path) -> None:
    file, client = file_of(person, "claude"), person / "state" / "hooks" / "hook"
    file.parent.mkdir()
    for before in (OLD, None):
        file.unlink(missing_ok=True)
        if before is not None:
            file.write_text(before)
        run_command("connect", "claude")
        ours = file.read_text()
        file.write_text(ours + " ")
        done = subprocess.run([client, "disconnect", "claude"], capture_output=True, timeout=30, check=False)
        assert (done.returncode, file.read_text()) == (1, ours + " ")
        assert f"take the entries out that name {client}" in done.stderr.decode()
        file.write_text(ours)
        subprocess.run([client, "disconnect", "claude"], timeout=30, check=True)
        assert (file.read_text() if file.exists() else None) == before
        done = subprocess.run([client, "disconnect", "claude"], capture_output=True, timeout=30, check=False)
        assert done.returncode == 1
        if before is not None:
            assert json.loads(run_command("disconnect", "claude", "--json").stdout)["how"] == "none"


def test_what_others_have_changed_since_stays_when_ours_goes(person: Path) -> None:
    run_command("connect", "claude")
    file = file_of(person, "claude")
    settings = json.loads(file.read_text())
    settings["hooks"]["PreToolUse"].append(THEIRS)
    settings["new"] = True
    file.write_text(json.dumps(settings))
    assert json.loads(run_command("disconnect", "claude", "--json").stdout)["how"] == "taken out"
    assert json.loads(file.read_text()) == {"hooks": {"PreToolUse": [THEIRS]}, "new": True}


names = st.text(max_size=5)
hooks = st.fixed_dictionaries({"command": names}, optional={"type": names, "timeout": st.integers()})
group = st.fixed_dictionaries({}, optional={"hooks": st.lists(hooks, max_size=2), "matcher": names})
# An empty list of an event, which says nothing, may go: it cannot be told from what ours was alone in.
groups = st.lists(group, min_size=1, max_size=2)
events = st.dictionaries(st.sampled_from(["PreToolUse", "Stop", "Odd"]), groups, max_size=3)
settings = st.dictionaries(st.sampled_from(["model", "x", "hooks"]), events, max_size=3)


@given(settings, st.sampled_from(["claude", "codex"]))
def test_taking_out_what_was_merged_gives_the_settings_from_before(before: dict[str, Any], agent: str) -> None:
    entries = {event: {"command": f"'/h/hooks/hook' {agent} {event} || exit 2"} for event in CLOSED[agent]}
    text = json.dumps(before)
    merged = merge_hooks(text, entries, is_ours, "f")
    assert merge_hooks(merged, entries, is_ours, "f") == merged
    after = json.loads(take_out_hooks(merged, is_ours, "f"))
    if not before.get("hooks") and "hooks" in before:
        after.setdefault("hooks", {})
    assert after == before


@pytest.mark.parametrize("broken", ["{", "[]", '{"hooks": []}', '{"hooks": {"Stop": {}}}', '{"hooks": {"Stop": [1]}}'])
def test_settings_that_cannot_be_read_are_left_alone(broken: str, person: Path) -> None:
    file = file_of(person, "claude")
    file.parent.mkdir()
    file.write_text(broken)
    assert str(file) in run_command("connect", "claude", code=2).stderr
    assert file.read_text() == broken


@pytest.mark.parametrize("agent", ["copilot", "opencode", "pi", "goose"])
def test_an_agent_with_a_file_of_ours_alone_has_it_while_it_is_connected(agent: str, person: Path) -> None:
    run_command("connect", agent)
    text = file_of(person, agent).read_text()
    if FILES[agent].endswith(".json"):
        assert json.loads(text)["hooks"].keys() == CLOSED[agent].keys()
    else:
        assert f'const CLIENT = "{person}/state/hooks/hook"' in text
    shown = json.loads(run_command("connect", agent, "--status", "--json").stdout)
    assert shown["agents"][0]["connected"] == "not seen yet"
    run_command("disconnect", agent)
    assert [each for each in person.rglob("*") if each.is_file() and "state" not in each.parts] == []
    for command in ("connect", "disconnect"):  # also where somebody has changed it
        run_command(command, agent)
        if command == "connect":
            file_of(person, agent).write_text(text.replace("60", "61"))
    assert not file_of(person, agent).exists()


def test_what_was_connected_twice_is_put_back_without_hooks_of_ours(person: Path) -> None:
    file = file_of(person, "claude")
    run_command("connect", "claude")
    file.write_text(file.read_text().replace("|| exit 2", "|| exit 2 "))
    run_command("connect", "claude")
    run_command("disconnect", "claude")
    assert json.loads(file.read_text() if file.exists() else "{}") == {}


@pytest.mark.parametrize("agent", [agent for agent, file in FILES.items() if file.endswith(".json")])
def test_each_entry_is_of_the_form_that_its_agent_takes(agent: str, tmp_path: Path) -> None:
    entries = entries_for(Connection(agent, tmp_path), Home("ally-plugins", tmp_path))
    for event, entry in entries.items():
        limit = entry["timeoutSec" if agent == "copilot" else "timeout"]
        assert limit == 60 * (1000 if agent == "gemini" else 1)
        assert type(limit) is int  # Codex drops a whole file for one that is not
        assert ("onFailure" in entry) == (agent == "claude" and CLOSED[agent][event] != PASSES)
        assert is_ours(entry["bash" if agent == "copilot" else "command"])


@pytest.mark.parametrize("agent", ["copilot", "goose"])
def test_an_agent_without_hooks_of_a_project_is_not_connected_for_one(agent: str, person: Path) -> None:
    assert "no hooks of a project" in run_command("connect", agent, "--project", str(person), code=2).stderr


def test_printing_the_settings_writes_nothing(person: Path) -> None:
    printed = json.loads(run_command("connect", "codex", "--print").stdout)
    assert printed["hooks"].keys() == CLOSED["codex"].keys()
    assert sorted(each.name for each in person.iterdir()) == []


# --- a project ---


@pytest.mark.parametrize(("missing", "code"), [("closed", 2), ("open", 0)])
def test_a_projects_hooks_name_no_person_and_tell_who_has_no_client_what_to_do(
    missing: str, code: int, person: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    run_command("connect", "claude", "--project", str(project), "--missing", missing)
    text = (project / ".claude" / "settings.json").read_text()
    assert str(person) not in text
    (line,) = commands_at(json.loads(text), "PreToolUse")
    colleague = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "colleague")}
    done = subprocess.run(["sh", "-c", line], input=b"{}", capture_output=True, env=colleague, timeout=30, check=False)
    assert done.returncode == code
    assert b"pip install ally-plugins; ally-plugins connect claude" in done.stderr
    (observer,) = commands_at(json.loads(text), "Stop")
    assert subprocess.run(["sh", "-c", observer], input=b"{}", env=colleague, timeout=30, check=False).returncode == 0
    run_command("disconnect", "claude", "--project", str(project))
    assert not (project / ".claude" / "settings.json").exists()


def test_a_projects_hooks_find_the_client_of_the_person(person: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    run_command("connect", "codex", "--project", str(project))
    (line,) = commands_at(json.loads((project / ".codex" / "hooks.json").read_text()), "PreToolUse")
    (person / "state" / "hooks" / "serve").write_text("/nowhere")
    done = subprocess.run(["sh", "-c", line], input=b"{}", capture_output=True, timeout=30, check=False)
    assert done.returncode == 2
    assert b"ally-plugins: it is not installed any more where it was" in done.stderr


# --- what would not guard ---


def test_an_agent_that_would_run_no_hook_of_ours_is_not_connected(person: Path) -> None:
    settings = file_of(person, "claude")
    settings.parent.mkdir()
    settings.write_text('{"disableAllHooks": true}')
    assert "disableAllHooks = true" in run_command("connect", "claude", code=2).stderr
    assert settings.read_text() == '{"disableAllHooks": true}'
    config = person / ".codex" / "config.toml"
    config.parent.mkdir()
    config.write_text("[features]\nhooks = false\n")
    assert tomllib.loads(config.read_text())
    assert "features.hooks = false" in run_command("connect", "codex", code=2).stderr
    assert not file_of(person, "codex").exists()


@pytest.mark.parametrize(
    ("agent", "file", "settings", "words"),
    [
        ("gemini", ".gemini/settings.json", {"hooksConfig": {"enabled": False}}, "hooksConfig.enabled = false"),
        ("gemini", ".gemini/settings.json", {"hooksConfig": {"disabled": ["'/h/hooks/hook' gemini BeforeTool || x"]}},
         "hooksConfig.disabled lists"),
        ("pi", ".pi/agent/settings.json", {"extensions": ["-extensions/ally-plugins.ts"]}, "extensions lists"),
        ("pi", ".pi/agent/settings.json", {"extensions": ["!extensions/*"]}, "extensions lists"),
        ("pi", ".pi/agent/settings.json", {"extensions": ["a.ts", "!**"]}, "extensions lists"),
    ],
)  # fmt: skip
def test_an_agent_whose_settings_leave_our_hooks_out_is_not_connected(
    agent: str, file: str, settings: dict[str, Any], words: str, person: Path
) -> None:
    path = person / file
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(settings))
    assert words in run_command("connect", agent, code=2).stderr
    _, files = guarded_places(None)
    assert str(path) in files, "and the agent may not write it"


def test_settings_that_name_other_hooks_are_no_reason(person: Path) -> None:
    path = person / ".pi" / "agent" / "settings.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"extensions": ["-extensions/mine.ts", "+extensions/ally-plugins.ts", 1, "ally.ts"]}))
    run_command("connect", "pi")


def test_a_switch_that_came_later_is_shown_by_the_status(person: Path) -> None:
    run_command("connect", "claude")
    assert json.loads(run_command("connect", "--status", "--json").stdout)["agents"][0]["connected"] == "not seen yet"
    (person / ".claude" / "settings.local.json").write_text('{"disableAllHooks": true}')
    shown = json.loads(run_command("connect", "--status", "--json", code=1).stdout)
    assert shown["agents"][0]["connected"].startswith("no: disableAllHooks = true")


def test_hooks_of_which_some_were_taken_out_are_not_connected(person: Path) -> None:
    run_command("connect", "codex")
    file = file_of(person, "codex")
    text = json.loads(file.read_text())
    del text["hooks"]["PreToolUse"]
    file.write_text(json.dumps(text))
    shown = json.loads(run_command("connect", "codex", "--status", "--json", code=1).stdout)
    assert shown["agents"][0]["connected"] == "partly: connect it again"


@pytest.fixture
def asker(person: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the same person, who has agreed to a plugin that gates permission questions."""
    site = Site(tmp_path / "site")
    site.plugin("asker", MANIFEST, code=CODE)
    monkeypatch.syspath_prepend(str(site.path))
    run_command("enable", "asker", "--place", "inline", "--yes")
    return person


@pytest.mark.usefixtures("asker")
def test_what_an_agent_does_not_serve_is_in_the_table() -> None:
    said = {agent: json.loads(run_command("connect", agent, "--json").stdout) for agent in ("claude", "codex")}
    rows = {agent: {row["grant"]: row["how"] for row in each["served"]} for agent, each in said.items()}
    assert rows["claude"] == {"gate:permission": "yes", "gate:tool_call": "yes"}
    assert rows["codex"] == {"gate:permission": "no", "gate:tool_call": "partly"}


def test_a_mandatory_plugin_that_needs_what_the_agent_does_not_serve_is_refused(asker: Path) -> None:
    config = asker / "state" / "config.toml"
    config.write_text(config.read_text().replace("[plugins.asker]", "[plugins.asker]\nmandatory = true"))
    assert "gate:permission" in run_command("connect", "codex", code=1).stderr
    assert not file_of(asker, "codex").exists()
    run_command("connect", "claude")


# --- updates ---


def test_a_guard_that_an_upgrade_removed_closes_and_the_reason_names_the_command_that_brings_it_back(
    asker: Path, tmp_path: Path
) -> None:
    for each in (tmp_path / "site").glob("asker-*.dist-info"):
        shutil.rmtree(each)
    home = Home("ally-plugins", asker / "state")
    payload = next(each["payload"] for each in recorded("claude") if each["event"] == "PreToolUse")

    async def ask() -> Reply:
        async with Host("ally-plugins", home=home) as host:
            return await Conversations(host).reply("claude", "PreToolUse", json.dumps(payload).encode(), 10)

    reply = asyncio.run(ask())
    assert react("claude", "PreToolUse", payload, (reply.exit_code, reply.stdout, reply.stderr)).stopped
    assert "if an upgrade has removed it: ally-plugins install asker" in reply.stdout


# --- the client that is laid ---

compiled = pytest.mark.skipif(shutil.which("cc") is None, reason="the machine has no C compiler")


@compiled
def test_the_compiled_client_stays_and_no_hook_line_changes_with_it(person: Path) -> None:
    run_command("connect", "codex")
    lines = file_of(person, "codex").read_bytes()
    client = person / "state" / "hooks" / "hook"
    assert client.read_bytes().startswith(b"#!")
    assert json.loads(run_command("connect", "codex", "--client", "c", "--json").stdout)["client"] == "c"
    assert client.read_bytes().startswith(b"\x7fELF")
    assert client.stat().st_mode & 0o777 == 0o700
    said = json.loads(run_command("connect", "codex", "--json").stdout)  # as it is, without being named
    assert (said["client"], said["changed"]) == ("c", False)
    assert file_of(person, "codex").read_bytes() == lines
    run_command("connect", "codex", "--client", "python")
    assert client.read_bytes().startswith(b"#!")
    assert file_of(person, "codex").read_bytes() == lines


@compiled
def test_the_compiled_client_puts_the_file_back_to_the_byte_without_the_package(person: Path) -> None:
    file = file_of(person, "claude")
    file.parent.mkdir()
    file.write_text(OLD)
    run_command("connect", "claude", "--client", "c")
    subprocess.run([person / "state" / "hooks" / "hook", "disconnect", "claude"], timeout=30, check=True)
    assert file.read_text() == OLD


@pytest.mark.parametrize("tool", ["none", "fails", "warns"])
def test_without_a_compiler_the_client_that_is_there_stays_and_the_other_is_offered(
    tool: str, person: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_command("connect", "claude")
    before = {each.name: each.read_bytes() for each in (person / "state" / "hooks").glob("*o*[kn]")}
    (tmp_path / "bin").mkdir()
    if tool != "none":
        what = "echo 'x.c:1: error: no header' >&2; exit 1" if tool == "fails" else "touch hook.0.new; exit 0"
        (tmp_path / "bin" / "cc").write_text(f"#!/bin/sh\n{what}\n")
        (tmp_path / "bin" / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    said = run_command("connect", "claude", "--client", "c", code=2).stderr
    assert "no C compiler is found" in said if tool == "none" else "no header" in said or tool == "warns"
    assert ("connect with --client python" in said) == (tool != "warns")
    after = {each.name: each.read_bytes() for each in (person / "state" / "hooks").glob("*o*[kn]")}
    assert after["hook"] == before["hook"]
    assert after["client.json"] == before["client.json"]
    shown = json.loads(run_command("connect", "claude", "--status", "--json").stdout)
    assert shown["agents"][0]["connected"] == "not seen yet"


@pytest.mark.parametrize("file", ["hook", "ally_hook.py", "serve", "client.json"])
@pytest.mark.parametrize("how", ["changed", "gone", "a link"])
def test_a_client_that_is_not_what_was_laid_is_not_connected_and_gets_no_host(
    file: str, how: str, person: Path
) -> None:
    run_command("connect", "claude")
    found = person / "state" / "hooks" / file
    content = found.read_bytes()
    found.unlink()
    if how == "changed":
        found.write_bytes(content.replace(b'"files"', b'"filed"') if file == "client.json" else content + b"\n")
    elif how == "a link":
        (person / "elsewhere").write_bytes(content)
        found.symlink_to(person / "elsewhere")
    shown = json.loads(run_command("connect", "claude", "--status", "--json", code=1).stdout)
    assert "find out who did; then connect an agent again" in shown["agents"][0]["connected"]
    home = Home("ally-plugins", person / "state")
    assert find_change(home) is not None
    run_command("connect", "claude")
    assert find_change(home) is None


# --- plugins' tools ---

SERVERS = {
    "claude": (".claude.json", "mcpServers"),
    "codex": (".codex/config.toml", "mcp_servers"),
    "gemini": (".gemini/settings.json", "mcpServers"),
    "copilot": (".copilot/mcp-config.json", "mcpServers"),
    "opencode": (".config/opencode/opencode.json", "mcp"),
}
"""Where each agent looks for the person's MCP servers."""

SERVER_SETTINGS = {
    "claude": '{\n  "numStartups": 3,\n  "mcpServers": {"theirs": {"command": "x"}}}',
    "codex": 'model = "m"\n# theirs\n[mcp_servers.theirs]\ncommand = "x"\n\n# of theirs\n[features]\nhooks = true',
}


def _read_settings(file: Path) -> dict[str, Any]:
    text = file.read_text()
    return tomllib.loads(text) if file.suffix == ".toml" else dict(json.loads(text))


@pytest.mark.parametrize("agent", sorted(SERVERS))
def test_an_agent_gets_a_server_of_plugins_tools_that_starts_with_this_home_and_it_goes_again(
    agent: str, person: Path
) -> None:
    name, key = SERVERS[agent]
    file = person / name
    said = json.loads(run_command("connect", agent, "--json").stdout)
    assert said["tools"] == {"offered": True, "file": str(file), "why": ""}
    server = _read_settings(file)[key]["ally"]
    command = server["command"]
    line = command if isinstance(command, list) else [command, *server["args"]]
    assert line[1:] == ["-m", "ally_plugins", "mcp", agent, "--home", str(person / "state"), "--app", "ally-plugins"]
    if agent == "claude":  # the same program for all
        done = subprocess.run(line, input=b'{"id": 1, "method": "ping"}\n', capture_output=True, timeout=60, check=True)
        assert json.loads(done.stdout) == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert json.loads(run_command("connect", "--status", agent, "--json").stdout)["agents"][0]["tools"]
    run_command("disconnect", agent)
    assert not file.exists()
    assert not json.loads(run_command("connect", "--status", agent, "--json").stdout)["agents"][0]["tools"]


@pytest.mark.parametrize("agent", sorted(SERVER_SETTINGS))
@pytest.mark.parametrize("changes", [False, True])
def test_servers_of_others_stay_where_ours_comes_and_goes(agent: str, changes: bool, person: Path) -> None:  # noqa: FBT001
    file = person / SERVERS[agent][0]
    file.parent.mkdir(exist_ok=True)
    file.write_text(SERVER_SETTINGS[agent])
    before = _read_settings(file)
    run_command("connect", agent)
    run_command("connect", agent)
    found = _read_settings(file)
    assert found[SERVERS[agent][1]].keys() == {"theirs", "ally"}
    if changes and agent == "codex":  # as Codex does, which then keeps what it was told of our tools
        file.write_text(file.read_text() + '\n[mcp_servers.ally.tools.x]\nmode = "approve"\n\n# last\n[later]\na = 1\n')
        before |= {"later": {"a": 1}}
    elif changes:
        file.write_text(json.dumps({**found, "numStartups": 4}))
        before |= {"numStartups": 4}
    run_command("disconnect", agent)
    assert _read_settings(file) == before
    if not changes:
        assert file.read_text() == SERVER_SETTINGS[agent]
    if agent == "codex":
        assert "# of theirs" in file.read_text()
        assert ("# last" in file.read_text()) == changes


@pytest.mark.parametrize(
    ("agent", "text", "says"),
    [
        ("claude", '{"mcpServers": {"ally": {"command": "x"}}}', "of others"),
        ("claude", '{"mcpServers": []}', "expected an object"),
        ("opencode", '{"mcp": {} // mine\n}', "cannot be read"),
        ("codex", "mcp_servers = { theirs = { command = 'x' } }\n", "cannot be read"),
        ("codex", "[[", "cannot be read"),
    ],
)
def test_where_the_server_cannot_stand_the_agent_is_guarded_without_and_it_is_said(
    agent: str, text: str, says: str, person: Path
) -> None:
    file = person / SERVERS[agent][0]
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(text)
    said = json.loads(run_command("connect", agent, "--json").stdout)
    assert not said["tools"]["offered"]
    assert says in said["tools"]["why"]
    assert file.read_text() == text
    assert json.loads(run_command("connect", "--status", agent, "--json").stdout)["agents"][0]["connected"] != "no"


def test_an_agent_without_servers_and_a_project_get_none_and_it_is_said_why(person: Path, tmp_path: Path) -> None:
    del person
    assert "pi offers its model no tools" in run_command("connect", "pi").stdout
    assert "Goose keeps its servers in YAML" in run_command("connect", "goose").stdout
    assert "a project's settings are for all" in run_command("connect", "claude", "--project", str(tmp_path)).stdout


def test_the_client_takes_the_server_out_too_without_the_package(person: Path) -> None:
    file = person / ".claude.json"
    file.write_text(SERVER_SETTINGS["claude"])
    run_command("connect", "claude")
    client = person / "state" / "hooks" / "hook"
    subprocess.run([client, "disconnect", "claude"], check=True, timeout=60)
    assert file.read_text() == SERVER_SETTINGS["claude"]
