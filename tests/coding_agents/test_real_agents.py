"""The real Claude Code and Codex, in a box without a network, against a scripted model: `nox -s coding_agents`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

import ally_plugins

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent
AGENTS = Path(os.environ.get("ALLY_CODING_AGENTS", "/nowhere"))
"""Where npm has put each of them, a folder by its name."""

PROGRAMS = {
    "claude": "claude/node_modules/@anthropic-ai/claude-code-linux-x64/claude",
    "codex": "codex/node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex",
}
KEY = "AKIAIOSFODNN7REALKEY"
SHOWS = "printf 'AKIA%s\\n' IOSFODNN7REALKEY"
"""Shows a key that is not in the command."""


@frozen
class Seen:
    """What came of one run."""

    said: list[str]
    requests: list[dict[str, Any]]
    audit: str
    files: list[str]

    def results(self) -> list[str]:
        """Return what the model was given back for each call, in order."""
        last = self.requests[-1]
        if "input" in last:
            return [str(item["output"]) for item in last["input"] if item.get("type") == "function_call_output"]
        contents = [message["content"] for message in last["messages"] if isinstance(message["content"], list)]
        return [str(part["content"]) for each in contents for part in each if part.get("type") == "tool_result"]


@pytest.fixture(params=sorted(PROGRAMS))
def agent(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if not (AGENTS / PROGRAMS[name]).exists():
        pytest.skip(f"{name} is not at {AGENTS / PROGRAMS[name]}")
    return name


def run(agent: str, home: Path, *commands: str) -> Seen:
    """Connect an agent in a fresh home, and have the model ask for these commands."""
    before = [["enable", "secret-guard", "--yes"], ["connect", agent]]
    job = {"agent": agent, "program": str(AGENTS / PROGRAMS[agent]), "commands": commands, "before": before}
    (home / "job.json").write_text(json.dumps(job))
    package = Path(ally_plugins.__file__).parent.parent
    shown = {Path(sys.prefix), Path(sys.base_prefix), package, HERE, AGENTS}
    inside = shlex.join([sys.executable, str(HERE / "inside.py"), str(home / "job.json")])
    shown = {each for each in shown if not any(other != each and other in each.parents for other in shown)}
    line = [str(each) for each in (HERE / "box.sh", home, inside, *sorted(shown))]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    seen = home / "seen.json"
    assert seen.exists(), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return Seen(**json.loads(seen.read_text()))


def test_a_denied_call_does_not_run_and_the_model_reads_why(agent: str, tmp_path: Path) -> None:
    seen = run(agent, tmp_path, "touch before", f"echo {KEY[:10]}''{KEY[10:]} > leaked", "touch after")
    assert sorted(seen.files) == ["after", "before"], seen.said
    assert "secret-guard" in seen.results()[1]
    assert '"kind": "decision"' in seen.audit


def test_a_key_in_an_output_reaches_no_request_not_even_of_a_command_that_failed(agent: str, tmp_path: Path) -> None:
    seen = run(agent, tmp_path, SHOWS, f"{SHOWS}; exit 3", "touch after")
    assert "redacted" in seen.results()[0], seen.said
    assert KEY not in json.dumps(seen.requests)
    assert ("after" in seen.files) == (agent == "codex")  # Claude Code's turn ends at a failed one that shows it


def test_without_its_host_in_the_middle_no_output_is_shown_and_the_next_call_asks_another_host(
    agent: str, tmp_path: Path
) -> None:
    kill = "kill -9 $(pgrep -f 'ally_plugins serv[e]'); echo raw-output"
    seen = run(agent, tmp_path, "touch before", kill, "touch after")
    assert "raw-output" not in seen.results()[1].replace(kill, ""), seen.said
    assert "withholds the output" in seen.results()[1]
    assert "after" in seen.files


def test_with_nothing_left_that_could_start_a_host_no_call_runs(agent: str, tmp_path: Path) -> None:
    gone = "rm ~/.local/state/ally-plugins/hooks/serve; kill -9 $(pgrep -f 'ally_plugins serv[e]')"
    seen = run(agent, tmp_path, "touch before", gone, "touch after")
    assert "before" in seen.files, seen.said
    assert "after" not in seen.files
