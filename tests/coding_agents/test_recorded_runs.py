"""A run of each agent as its page shows it; `nox -s coding_agents -- --record` writes it there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

from ally_plugins.adapters.coding.dialects import DIALECTS
from ally_plugins.adapters.coding.offline.agents import AGENTS

from .box import AGENTS as FOLDER
from .box import NODE, PROGRAMS, Run, Seen, command, plugin_tool, run_in_box, skip_without

pytestmark = pytest.mark.e2e

KEY = "AKIAIOSFODNN7REALKEY"
PLUGINS = ["secret-guard", "rule-guard", "session-notes"]
LONGEST = 400
"""Characters of what the model is given back for a call that a page shows."""


@pytest.mark.parametrize("agent", sorted(PROGRAMS))
def test_a_run_is_guarded_as_its_page_shows(agent: str, tmp_path: Path) -> None:
    skip_without(agent)
    commands = ["touch begun", "rm -rf ~", "git push --force", "cat settings.env"]
    steps = [command(each) for each in commands]
    steps += [plugin_tool("remember", text="the tests run with make")] if DIALECTS[agent].tool_prefix else []
    files = {"settings.env": f"AWS_ACCESS_KEY_ID={KEY}\n"}
    after = [["audit", "--kind", "decision", "--limit", "3"]]
    seen = run_in_box(agent, tmp_path, Run(steps), plugins=PLUGINS, files=files, after=after)
    assert {"begun", "settings.env"} <= {*seen.files}, seen
    assert "which says how this agent is guarded" in seen.results[1], seen
    assert "rule-guard" in seen.results[2], seen
    assert (KEY in seen.results[3]) == ("transform:tool_output" in DIALECTS[agent].serves.missing), seen
    text = written(agent, tmp_path, commands, seen)
    assert str(tmp_path) not in text
    if folder := os.environ.get("ALLY_RECORD"):
        (Path(folder) / f"{agent}.txt").write_text(text, "utf-8")


def written(agent: str, home: Path, commands: list[str], seen: Seen) -> str:
    """Return a run as text for a reader: what was typed, what the model wanted, and what it was given back."""
    program, path = FOLDER / PROGRAMS[agent], f"{FOLDER / NODE}:/usr/bin:/bin"
    environment = {"HOME": str(home), "PATH": path, "COPILOT_AUTO_UPDATE": "false"}
    # Offline as all the rest.
    line = ["unshare", "--net", str(program), "--version"]
    told = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=False)
    number = re.search(r"\d+\.\d+\.\d+", told.stdout)
    today = datetime.now(UTC).date().isoformat()
    named = number[0] if number is not None else "of an unknown version"
    parts = [
        f"{AGENTS[agent].program} {named}, ally-plugins {version('ally-plugins')}, {today}, offline, a scripted model"
    ]
    parts += ["", f"$ for plugin in {' '.join(PLUGINS)}; do ally-plugins enable $plugin --yes; done"]
    parts += [f"$ ally-plugins connect {agent}", seen.said[len(PLUGINS)].partition("\n")[2].strip()]
    parts += [f'$ {AGENTS[agent].program} ... "please"']
    tool = f"{DIALECTS[agent].tool_prefix}remember  the tests run with make"
    for wanted, result in zip([*(f"$ {each}" for each in commands), tool], seen.results, strict=False):
        parts += [f"  the model wants:  {wanted}", f"  is given back:    {_shown(result)}"]
    parts += ["", "$ ally-plugins audit --kind decision --limit 3", seen.after[0].partition("\n")[2].strip()]
    text = "\n".join(parts).replace(str(home), "~").replace(sys.executable, "python")
    return "\n".join(line.rstrip() for line in text.split("\n")) + "\n"


def _shown(result: str) -> str:
    text = re.sub(r"\s*<system-reminder>.*?</system-reminder>", "", result, flags=re.DOTALL).strip() or "(nothing)"
    short = text if len(text) <= LONGEST else text[:LONGEST] + " ..."
    return re.sub(r"\n\s*", "\n                    ", short)
