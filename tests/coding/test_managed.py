"""`connect --managed`: what an administrator deploys, and what users are told where it is there."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ally_plugins.adapters.coding.client.client_files import hook_line
from ally_plugins.adapters.coding.client.compiled_client import SOURCE, TABLE, compile_client, source_text, table_text
from ally_plugins.adapters.coding.client.hook_client import CLOSED, PASSES
from ally_plugins.adapters.coding.settings import agent_switches, managed
from ally_plugins.adapters.coding.settings.agent_switches import find_managed, find_switches
from ally_plugins.adapters.coding.settings.connections import is_ours
from ally_plugins.catalog.home import machine_policy
from ally_plugins.catalog.home.machine_policy import parse_policy
from tests.kit.commands import run_command
from tests.kit.sites import Site

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="tried on Linux only"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the machine has no C compiler"),
]

MANIFEST = """
description = "guards"
[permissions]
gate = { on = ["tool_call"], reason = "to guard" }
emit_event = { reason = "to speak" }
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the root of a machine on which somebody has enabled a guard; who runs this counts as root."""
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    for module, name, path in (
        (managed, "LIBRARY", "usr/local/lib/ally-plugins/hooks"),
        (managed, "MANAGED_CLAUDE", "etc/claude-code"),
        (managed, "MANAGED_CODEX", "etc/codex"),
        (agent_switches, "MANAGED_CLAUDE", "etc/claude-code"),
        (agent_switches, "MANAGED_CODEX", "etc/codex"),
        (machine_policy, "POLICY_FILE", "etc/ally-plugins/policy.toml"),
    ):
        monkeypatch.setattr(module, name, root / path)
    for module in (managed, machine_policy):
        monkeypatch.setattr(module, "_ROOT", (os.geteuid(), os.getegid()))
    person = tmp_path / "person"
    person.mkdir()
    monkeypatch.setenv("HOME", str(person))
    monkeypatch.setenv("ALLY_HOME", str(person / "state"))
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "ALLY_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    site = Site(tmp_path / "site")
    site.plugin("watcher", MANIFEST)
    monkeypatch.syspath_prepend(str(site.path))
    run_command("enable", "watcher", "--yes")
    return root


def deploy() -> subprocess.CompletedProcess[str]:
    """Run the script as an administrator does."""
    script = run_command("connect", "--managed").stdout.replace('"$(id -u)" = 0', "0 = 0")
    return subprocess.run(["sh"], input=script, capture_output=True, text=True, timeout=60, check=True)


def test_what_is_deployed_guards_every_event_and_asks_for_what_is_enabled(machine: Path) -> None:
    deploy()
    for agent, file in (
        ("claude", "claude-code/managed-settings.d/ally-plugins.json"),
        ("codex", "codex/requirements.toml"),
    ):
        path = machine / "etc" / file
        found = (json.loads if path.suffix == ".json" else tomllib.loads)(path.read_text())
        assert found["hooks"].keys() >= CLOSED[agent].keys()
        for event, way in CLOSED[agent].items():
            ((entry,),) = [group["hooks"] for group in found["hooks"][event]]
            assert entry["command"] == hook_line(managed.LIBRARY / "hook", agent, event)
            assert is_ours(entry["command"])
            assert type(entry["timeout"]) is int
            assert ("onFailure" in entry) == (agent == "claude" and way != PASSES)
        assert found["allow_managed_hooks_only" if agent == "codex" else "allowManagedHooksOnly"] is True
        assert find_managed(agent, is_ours) == path
    policy = parse_policy((machine / "etc/ally-plugins/policy.toml").read_bytes(), "policy.toml")
    assert (policy.mandatory, policy.distributions) == (("watcher",), ("watcher",))
    assert (policy.allow, policy.pause) == (False, False)
    assert policy.ceilings["watcher"].texts() == ("emit_event", "gate:tool_call")
    # What it was made of goes on under it.
    plugins = {each["name"]: each for each in json.loads(run_command("list", "--json").stdout)["plugins"]}
    assert (plugins["watcher"]["state"], plugins["watcher"]["mandatory"]) == ("enabled", True)
    assert "makes 'watcher' mandatory" in run_command("disable", "watcher", code=1).stderr


def test_what_an_administrator_has_edited_stays_and_the_rest_is_renewed(machine: Path) -> None:
    deploy()
    policy, settings = machine / "etc/ally-plugins/policy.toml", machine / "etc/codex/requirements.toml"
    policy.write_text("mandatory = []")
    client = machine / "usr/local/lib/ally-plugins/hooks/hook"
    client.write_bytes(b"old")
    said = deploy().stderr
    assert policy.read_text() == "mandatory = []"
    assert f"{policy} is there, and stays" in said
    assert f"{settings} is there, and stays" in said
    assert client.read_bytes().startswith(b"\x7fELF")


def test_only_root_runs_the_script(machine: Path) -> None:
    script = run_command("connect", "--managed").stdout.replace("$(id -u)", "1000")
    done = subprocess.run(["sh"], input=script, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "this is for root\n")
    assert list(machine.iterdir()) == []


def test_programs_that_users_could_replace_are_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managed, "_ROOT", (4711, 4711))
    monkeypatch.setattr(managed, "fault_of", lambda path, *_, **__: "others can write it" if "python" in path else "")
    printed = run_command("connect", "--managed")
    assert "users could replace what answers the hooks" in printed.stderr
    assert str(machine) in printed.stdout


# --- users of such a machine ---


def test_an_agent_that_the_machine_connects_is_not_connected_by_a_user_too(machine: Path) -> None:
    deploy()
    shown = json.loads(run_command("connect", "claude", "--status", "--json").stdout)["agents"][0]
    assert shown["connected"] == "not seen yet"
    assert shown["file"].endswith("managed-settings.d/ally-plugins.json")
    assert "asks your plugins already" in run_command("connect", "claude", code=2).stderr
    (machine / "usr/local/lib/ally-plugins/hooks/hook").chmod(0o757)
    shown = json.loads(run_command("connect", "claude", "--status", "--json", code=1).stdout)["agents"][0]
    assert "can be written by everybody" in shown["connected"]
    (machine / "usr/local/lib/ally-plugins/hooks/hook").unlink()
    shown = json.loads(run_command("connect", "claude", "--status", "--json", code=1).stdout)["agents"][0]
    assert shown["connected"].endswith("hooks/hook is not there")


def test_settings_with_some_of_the_events_are_no_connection(machine: Path) -> None:
    deploy()
    file = machine / "etc/claude-code/managed-settings.d/ally-plugins.json"
    settings = json.loads(file.read_text())
    del settings["hooks"]["PreToolUse"]
    file.write_text(json.dumps(settings))
    assert find_managed("claude", is_ours) is None
    assert "allowManagedHooksOnly = true" in run_command("connect", "claude", code=2).stderr


@pytest.mark.parametrize(
    ("agent", "file", "text", "words"),
    [
        (
            "claude",
            "claude-code/managed-settings.json",
            '{"allowManagedHooksOnly": true}',
            "allowManagedHooksOnly = true",
        ),
        ("claude", "claude-code/managed-settings.json", '{"disableAllHooks": true}', "disableAllHooks = true"),
        ("claude", "claude-code/managed-settings.d/9.json", '{"allowManagedHooksOnly": true}', "allowManagedHooksOnly"),
        ("codex", "codex/requirements.toml", "allow_managed_hooks_only = true", "allow_managed_hooks_only = true"),
        ("codex", "codex/requirements.toml", "[features]\nhooks = false", "features.hooks = false"),
        ("codex", "codex/requirements.toml", "hooks = false", "hooks = false"),
        ("codex", "codex/managed_config.toml", "[features]\nhooks = false", "features.hooks = false"),
        ("codex", "codex/config.toml", "[features]\ncodex_hooks = false", "features.codex_hooks = false"),
    ],
)
def test_managed_settings_that_ignore_a_users_hooks_are_found_and_no_success_is_claimed(
    agent: str, file: str, text: str, words: str, machine: Path
) -> None:
    path = machine / "etc" / file
    run_command("connect", agent)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    shown = json.loads(run_command("connect", agent, "--status", "--json", code=1).stdout)["agents"][0]
    assert shown["connected"].startswith("no: ")
    assert words in shown["connected"]
    run_command("disconnect", agent)
    assert words in run_command("connect", agent, code=2).stderr
    assert find_switches(agent, machine / "nowhere") != []


def test_settings_that_switch_nothing_off_are_no_reason(machine: Path) -> None:
    for text in ("{", "[]", '{"disableAllHooks": false, "allowManagedHooksOnly": "true"}'):
        path = machine / "etc/claude-code/managed-settings.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        run_command("connect", "claude")


# --- its client ---


def test_the_client_of_a_machine_finds_the_home_of_its_user_whatever_the_environment_says(tmp_path: Path) -> None:
    library = tmp_path / "hooks"
    library.mkdir()
    person = pwd.getpwuid(os.geteuid()).pw_dir
    # From the real user's home to here, so that nothing is made there.
    home = os.path.relpath(tmp_path / "state" / "deep", person)
    (library / SOURCE).write_text(source_text())
    (library / TABLE).write_text(table_text(MANAGED_HOME=home))
    (library / "serve").write_text(
        f"/bin/sh\n-c\nenv > '{tmp_path}/got'; pwd >> '{tmp_path}/got'; echo no >&2; exit 3\n"
    )
    compile_client(library, library / "hook")
    env = {"HOME": "/nowhere", "ALLY_HOME": "/nowhere", "XDG_STATE_HOME": "/nowhere", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["/bin/sh", "-c", hook_line(library / "hook", "claude", "PreToolUse")], input=b"{}", env=env,
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, b"ally-plugins: the host cannot be started: no")
    got = (tmp_path / "got").read_text().splitlines()
    assert f"HOME={person}" in got
    assert not any(line.startswith(("ALLY_HOME", "XDG_STATE")) for line in got)
    run = tmp_path / "state" / "deep" / "run"
    assert os.path.realpath(got[-1]) == os.path.realpath(run)
    assert run.stat().st_mode & 0o777 == 0o700
