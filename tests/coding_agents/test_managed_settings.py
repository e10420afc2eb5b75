"""What `connect --managed` deploys, in the real agents: its hooks run whatever a user has switched off."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .box import AGENTS, PROGRAMS, skip_without

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can put another /etc in its place"),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not there"),
]

CLIENT = """#!/bin/sh
cat > /dev/null
echo "$1 $2" >> '{log}'
case "$2" in PreToolUse) echo 'the machine says no' >&2; exit 2;; esac
"""
INSIDE = """
import json, os, subprocess, sys
from pathlib import Path
from ally_plugins.adapters.coding.settings import managed
from ally_plugins.adapters.coding.offline.agents import prepare
from ally_plugins.adapters.coding.offline.scripted_model import ScriptedModel, Step

agent, program, folder, is_off = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4] == "off"
managed.LIBRARY = folder / "hooks"
for file, text in (
    ("codex/requirements.toml", managed._codex_requirements()),
    ("claude-code/managed-settings.d/ally-plugins.json", managed._claude_settings("ally-plugins")),
):
    path = Path("/etc", file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
home = folder / "home"
home.mkdir()
model = ScriptedModel([Step(command=f"touch '{folder}/ran'")])
made = prepare(agent, program, home, model.url, prompt="please", resumes=False)
if is_off and agent == "codex":
    config = home / ".codex/config.toml"
    config.write_text(config.read_text().replace("[features]", "[features]\\nhooks = false"))
elif is_off:
    (home / ".claude").mkdir(exist_ok=True)
    (home / ".claude/settings.json").write_text(json.dumps({"disableAllHooks": True}))
line = [word for word in made.line if "bypass-hook-trust" not in word]
subprocess.run(line, env=made.environment, cwd=made.project, stdin=subprocess.DEVNULL, timeout=90)
"""
OTHER_ETC = """
ip link set lo up; cp -a /etc "$0/etc"
mount --make-rprivate /; mount --bind "$0/etc" /etc; mount -t proc proc /proc
"""


@pytest.mark.parametrize("switched", ["on", "off"])
@pytest.mark.parametrize("agent", ["claude", "codex"])
def test_hooks_of_the_machine_run_without_trust_and_no_user_switches_them_off(
    agent: str, switched: str, tmp_path: Path
) -> None:
    skip_without(agent)
    log, hooks = tmp_path / "log", tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "hook").write_text(CLIENT.format(log=log))
    (hooks / "hook").chmod(0o755)
    inside = [sys.executable, "-c", INSIDE, agent, str(AGENTS / PROGRAMS[agent]), str(tmp_path), switched]
    command = [
        "unshare",
        "-n",
        "-m",
        "-p",
        "-f",
        "--kill-child",
        "sh",
        "-euc",
        f'{OTHER_ETC}exec "$@"',
        str(tmp_path),
    ]
    done = subprocess.run([*command, *inside], capture_output=True, text=True, timeout=150, check=False)
    said = done.stdout + done.stderr
    assert log.exists(), said
    assert f"{agent} PreToolUse" in log.read_text().splitlines(), said
    assert not (tmp_path / "ran").exists(), said
