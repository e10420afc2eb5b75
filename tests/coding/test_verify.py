"""`connect --verify`: an agent that keeps to its hooks, those that do not, and machines on which nothing is run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.kit.commands import run_command

if TYPE_CHECKING:
    from pathlib import Path

AGENT = '''#!{python}
"""A Codex of ours: asks its model, runs its hooks where OBEYS says so, and what the model wants."""
import json, os, pathlib, re, subprocess, sys, urllib.request

OBEYS, STOPS = {obeys}, {stops}
if sys.argv[1:] == ["--version"]:
    print("codex-cli 9.9.9")
    sys.exit()
home = pathlib.Path(os.environ["HOME"])
url = re.search('base_url = "(.*)"', (home / ".codex/config.toml").read_text())[1]
hooks = json.loads((home / ".codex/hooks.json").read_text())["hooks"]
said = []
try:
    urllib.request.urlopen("http://192.0.2.1/", timeout=5)
    sys.exit("there is a network")
except OSError as error:
    print(error)
while True:
    body = {{"input": said, "tools": [{{"name": "exec_command"}}]}}
    request = urllib.request.Request(url + "/responses", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        item = json.load(answer)["output"][0]
    if item["type"] == "message":
        break
    command, why = json.loads(item["arguments"])["cmd"], ""
    if STOPS and said:
        break
    payload = {{"session_id": "s", "cwd": os.getcwd(), "hook_event_name": "PreToolUse", "tool_name": "Bash",
               "tool_input": {{"command": command}}, "tool_use_id": item["call_id"], "permission_mode": "default"}}
    if OBEYS:
        line = hooks["PreToolUse"][0]["hooks"][0]["command"]
        done = subprocess.run(["sh", "-c", line], input=json.dumps(payload), capture_output=True, text=True)
        why = done.stderr if done.returncode else done.stdout
    if "deny" not in why and not (OBEYS and done.returncode):
        subprocess.run(["sh", "-c", command])
    said += [item, {{"type": "function_call_output", "call_id": item["call_id"], "output": why or "done"}}]
'''


def _has_network_of_its_own() -> bool:
    program = shutil.which("unshare")
    return program is not None and subprocess.run([program, "--net", "true"], capture_output=True).returncode == 0  # noqa: PLW1510


needs_network = pytest.mark.skipif(
    sys.platform != "linux" or not _has_network_of_its_own(), reason="no network without a way out can be made here"
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on PATH for programs, on a machine with a home of its own."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.setenv("ALLY_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return programs


def install(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o700)


@pytest.mark.smoke
@needs_network
@pytest.mark.slow
@pytest.mark.parametrize(
    ("obeys", "stops", "says"),
    [
        (True, False, "a call that was denied did not run"),
        (False, False, "THE DENIED CALL RAN"),
        (True, True, "did not run, but the model did not read why"),
    ],
)
def test_an_agent_is_run_offline_and_what_it_did_with_a_denied_call_is_said(
    obeys: bool,  # noqa: FBT001 - a parameter of the test
    stops: bool,  # noqa: FBT001
    says: str,
    machine: Path,
    tmp_path: Path,
) -> None:
    install(machine, "codex", AGENT.format(python=sys.executable, obeys=obeys, stops=stops))
    found = json.loads(
        run_command("connect", "--verify", "codex", "--json", code=0 if "was denied" in says else 1).stdout
    )
    assert says in found["why"]
    assert found["version"] == "codex-cli 9.9.9"
    assert "there is a network" not in found["said"]
    assert not (tmp_path / "person").exists()  # nothing of the person's was touched
    assert not (tmp_path / "state").exists()


@needs_network
@pytest.mark.slow
def test_an_agent_that_does_not_come_to_a_call_is_not_called_safe(machine: Path) -> None:
    install(machine, "codex", "#!/bin/sh\necho it is broken\n")
    found = run_command("connect", "--verify", "codex", code=1)
    assert "did not come as far as its first call" in found.stdout
    assert "  it is broken" in found.stdout


def test_where_the_machine_gives_no_network_of_its_own_nothing_is_run(machine: Path, tmp_path: Path) -> None:
    install(machine, "unshare", "#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n")
    install(machine, "codex", f"#!/bin/sh\ntouch {tmp_path}/was-run\n")
    error = run_command("connect", "--verify", "codex", code=1).stderr
    assert "no network without a way out" in error
    assert "Operation not permitted" in error
    assert not (tmp_path / "was-run").exists()


def test_an_agent_that_is_not_installed_is_named(machine: Path) -> None:
    del machine
    assert "'gemini' is not found" in run_command("connect", "--verify", "gemini", code=2).stderr
