"""A real agent in the box, from outside: what it is given, and what was seen."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import field, frozen

import ally_plugins

HERE = Path(__file__).parent
AGENTS = Path(os.environ.get("ALLY_CODING_AGENTS", "/nowhere"))
"""Where npm has put each of them, a folder by its name."""

PROGRAMS = {
    "claude": "claude/node_modules/@anthropic-ai/claude-code-linux-x64/claude",
    "codex": "codex/node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex",
    "gemini": "gemini/node_modules/.bin/gemini",
    "copilot": "copilot/node_modules/@github/copilot-linux-x64/copilot",
    "opencode": "opencode/node_modules/opencode-linux-x64/bin/opencode",
    "pi": "pi/node_modules/.bin/pi",
    "goose": "goose/node_modules/@aaif/goose-binary-linux-x64/bin/goose",
}
NODE = "node/node_modules/.bin"
"""A Node that is new enough for pi."""

_ENDS = "pkill -9 -f 'ally_plugins serve'\n"

_KIT = "opencode-plugin"
LINKS = {
    f"{folder}/{name}": f"{_KIT}/{name}"
    for folder in (".config/opencode", "project/.opencode")
    for name in ("node_modules", "package.json", "package-lock.json")
}
"""What opencode fetches for any plugin, and waits for without end where there is no network."""


@frozen
class Run:
    """One run of an agent: what its model wants of it, one after the other."""

    steps: Sequence[Any]
    prompt: str = "please"
    resumes: bool = False
    agent: str = ""
    kill_when: str = ""
    """The file in the project with which the agent is killed."""
    variables: Mapping[str, str] = field(factory=dict)
    script: str = ""
    """What a shell runs in the place of the agent, which is on its PATH with all that it needs of an environment."""


@frozen
class Ran:
    """What came of one run: `results` is what the model was given back for each step."""

    code: int | None
    """None where it did not end in time."""
    said: str
    results: list[str]
    requests: list[dict[str, Any]]
    seconds: float
    """From its start to its end."""
    processor: float
    """Seconds of the processor that it used, with the hooks that it waited for; our host's are not among them."""


@frozen
class Seen:
    """What came of all runs in one home."""

    said: list[str]
    runs: list[Ran]
    after: list[str]
    sessions: dict[str, str]
    audit: str
    files: list[str]

    @property
    def results(self) -> list[str]:
        """What the model of the first run was given back."""
        return self.runs[0].results

    def __str__(self) -> str:
        told = "\n".join(f"{each.code}: {each.said[-1500:]}\n{each.results}" for each in self.runs)
        return f"{self.said}\n{told}\n{self.files}"


def command(text: str) -> dict[str, Any]:
    """Return the step of a command."""
    return {"command": text}


def plugin_tool(name: str, **arguments: Any) -> dict[str, Any]:
    """Return the step that calls a plugin's tool."""
    return {"tool": name, "arguments": arguments}


def skip_without(*agents: str) -> None:
    """Skip a test whose programs are not there."""
    for agent in agents:
        if not (AGENTS / PROGRAMS[agent]).exists():
            pytest.skip(f"{agent} is not at {AGENTS / PROGRAMS[agent]}")


def run_in_box(
    agent: str,
    home: Path,
    *runs: Run | Sequence[Run],
    plugins: Iterable[str] = ("secret-guard",),
    before: Sequence[Sequence[str]] = (),
    after: Sequence[Sequence[str]] = (),
    wait_for: str = "",
    connects: bool = True,
    files: Mapping[str, str] | None = None,
) -> Seen:
    """Connect an agent in a fresh home, and run it; those of a sequence run at once. `files` are of the project."""
    agents = {agent} | {each.agent for run in runs for each in _together(run) if each.agent}
    enables = [["enable", name, "--yes"] for name in plugins]
    job = {
        "agent": agent,
        "programs": {each: str(AGENTS / PROGRAMS[each]) for each in agents},
        "path": [str(AGENTS / NODE)],
        "links": {link: str(AGENTS / to) for link, to in LINKS.items()} if "opencode" in agents else {},
        "before": [*enables, *(["connect", each] for each in sorted(agents) if connects), *before],
        "files": files or {},
        "runs": [[_as_json(each) for each in _together(run)] for run in runs],
        "after": after,
        "wait_for": wait_for,
    }
    home.mkdir(exist_ok=True)
    # In the box, whose processes are its own.
    (home / "end-host").write_text(_ENDS)
    (home / "loosen").write_text(f"{sys.executable} -m ally_plugins disable secret-guard\n")
    (home / "end-for-good").write_text(f"rm ~/.local/state/ally-plugins/hooks/serve\n{_ENDS}")
    (home / "job.json").write_text(json.dumps(job))
    package = Path(ally_plugins.__file__).parent.parent
    shown = {Path(sys.prefix), Path(sys.base_prefix), package, HERE, AGENTS}
    inside = shlex.join([sys.executable, str(HERE / "inside.py"), str(home / "job.json")])
    shown = {each for each in shown if not any(other != each and other in each.parents for other in shown)}
    line = [str(each) for each in (HERE / "box.sh", home, inside, *sorted(shown))]
    done = subprocess.run(line, capture_output=True, text=True, timeout=400, check=False)
    seen = home / "seen.json"
    assert seen.exists(), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    found = json.loads(seen.read_text())
    return Seen(**{**found, "runs": [Ran(**each) for each in found["runs"]]})


def _together(run: Run | Sequence[Run]) -> Sequence[Run]:
    return (run,) if isinstance(run, Run) else run


def _as_json(run: Run) -> dict[str, Any]:
    about: dict[str, Any] = {"steps": list(run.steps), "prompt": run.prompt, "resumes": run.resumes}
    about |= {"kill_when": run.kill_when, "variables": dict(run.variables), "script": run.script}
    return about | ({"agent": run.agent} if run.agent else {})
