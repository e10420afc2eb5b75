"""A stranger's plugin, written from the README alone: built, installed with pip, agreed to, replayed, audited."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
NAME = "loop-warner"
FILES = {"loop_warner/__init__.py", "loop_warner/ally-plugin.toml", "pyproject.toml"}
BLOCK = re.compile(r"^```\w+\n# (\S+\.\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
MESSAGE = "Bash has run often; say what you expect from it next"
FIFTEEN = {
    *("TOOL_CALL_START", "TOOL_CALL_END", "AGENT_START", "AGENT_END", "PERMISSION_REQUEST", "PERMISSION_RESPONSE"),
    *("COMPACTION_START", "COMPACTION_COMPLETE", "CONTEXT_USAGE_UPDATE", "TODO_UPDATE", "THOUGHT_COMPLETE"),
    *("DIFF_PREVIEW", "PLUGIN_MESSAGE_RECEIVED", "PLUGIN_EVENT_EMITTED", "PLUGIN_ACTION_REQUESTED"),
}
RECORDED = ROOT.parent / "shared" / "sessions" / "tool_heavy.jsonl"


class Operator:
    """A person at a terminal of a fresh environment: an own venv, an own home, the two wheels installed with pip."""

    def __init__(self, folder: Path, wheels: list[Path]) -> None:
        self.folder = folder
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        venv.create(folder / "venv", with_pip=True)
        self.pip("install", *map(str, wheels))

    def pip(self, *args: str) -> None:
        subprocess.run([self.bin / "python", "-m", "pip", "--quiet", *args], check=True)

    def ally(self, *args: str, home: Path, code: int = 0) -> str:
        """Run a command without a terminal; return what it prints."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("ALLY_", "COV", "PYTHON"))}
        env |= {
            "ALLY_HOME": str(home),
            "PATH": f"{self.bin}{os.pathsep}{env['PATH']}",
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        command = [str(self.bin / "ally-plugins"), *args]
        done = subprocess.run(
            command, check=False, env=env, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == code, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def ask(self, *args: str, home: Path) -> Any:
        """Run a command with --json; nothing but the object may be on its standard output."""
        return json.loads(self.ally(*args, "--json", home=home))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return both wheels: the ones that nox built, or new ones."""
    folder = Path(os.environ.get("ALLY_WHEELS") or tmp_path_factory.mktemp("wheels"))
    if not list(folder.glob("*.whl")):
        for source in (ROOT, ROOT / "ally_plugins_contrib"):
            _build(source, folder)
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of the README's plugin: its fenced blocks that begin with a file's name, and nothing else."""
    folder = tmp_path_factory.mktemp(NAME)
    blocks = BLOCK.findall((ROOT / "README.md").read_text("utf-8"))
    assert {name for name, _ in blocks} == FILES
    for name, text in blocks:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    _build(folder, folder / "dist")
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory, wheels: list[Path], stranger: Path) -> Operator:
    """Return an operator who has installed all three wheels with pip."""
    person = Operator(tmp_path_factory.mktemp("operator"), wheels)
    person.pip("install", str(stranger))
    return person


@pytest.fixture(params=["own", "recorded"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a transcript with six tool calls, two of them Bash: one of our own, and a real one where it is at hand."""
    if request.param == "recorded":
        if not RECORDED.exists():
            pytest.skip("the recorded sessions are not beside the checkout")
        return RECORDED
    file = tmp_path / "session.jsonl"
    file.write_text("".join(f"{json.dumps(record)}\n" for record in _transcript()), "utf-8")
    return file


def test_it_waits_for_consent_then_speaks_and_all_of_it_is_audited(
    operator: Operator, session: Path, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "conversation.jsonl"

    assert "consent" in operator.ally("list", home=home)
    before = operator.ask("replay", str(session), home=home)
    assert before["plugins"].get(NAME, {}).get("messages", 0) == 0

    asked = operator.ally("enable", NAME, "--yes", home=home)
    assert "to steer the agent" in asked
    after = operator.ask("replay", str(session), "--out", str(out), home=home)
    assert (after["events"]["TOOL_CALL_START"], after["events"]["TOOL_CALL_END"]) == (6, 6)
    assert after["events"]["THOUGHT_COMPLETE"] == 1
    assert (after["broken_lines"], after["broken"]) == (0, [])
    assert after["plugins"][NAME]["delivered"] == 6
    assert after["plugins"][NAME]["messages"] == 1

    (message,) = [line for line in _lines(out) if line.get("metadata", {}).get("isPluginGenerated")]
    assert message["metadata"]["sourcePlugin"] == NAME
    assert (message["role"], MESSAGE in message["content"]) == ("user", True)

    records = operator.ally("audit", "--json", home=home)
    assert NAME in records
    operator.ally("audit", "verify", home=home)


def test_without_its_grant_it_is_refused_and_the_error_names_the_command(
    operator: Operator, session: Path, home: Path
) -> None:
    operator.ally("enable", NAME, "--only", "events:TOOL_CALL_END", "--yes", home=home)
    result = operator.ask("replay", str(session), home=home)
    assert result["plugins"][NAME]["messages"] == 0
    assert result["plugins"][NAME]["refused"] == {"permission": 1}
    assert f"ally-plugins grant {NAME} add_message:user" in operator.ally("audit", home=home)


def test_without_a_person_the_answer_is_no(operator: Operator, home: Path) -> None:
    operator.ally("enable", NAME, home=home, code=1)
    assert "consent" in operator.ally("list", home=home)


def test_the_demo_needs_no_set_up_and_shows_all_fifteen_events(operator: Operator, home: Path) -> None:
    events = operator.ask("demo", home=home)["events"]
    assert {name for name, count in events.items() if count} >= FIFTEEN
    assert list(home.iterdir()) == []


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def _build(source: Path, out: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(build, check=True, capture_output=True)


def _transcript() -> list[dict[str, Any]]:
    """Return a small transcript: a question, a thought, six tool calls with their results, an answer."""
    tools = ["Bash", "Read", "Bash", "Glob", "Grep", "WebFetch"]
    records: list[dict[str, Any]] = [_record(0, "user", "why does the page not scroll?")]
    records.append(_record(1, "assistant", [{"type": "thinking", "thinking": "look at the handler first"}]))
    for i, tool in enumerate(tools):
        use = {"type": "tool_use", "id": f"t{i}", "name": tool, "input": {"step": i}}
        result = {"type": "tool_result", "tool_use_id": f"t{i}", "content": "done"}
        records += [_record(2 * i + 2, "assistant", [use]), _record(2 * i + 3, "user", [result])]
    records.append(_record(20, "assistant", [{"type": "text", "text": "the handler swallows the event"}]))
    return records


def _record(second: int, role: str, content: object) -> dict[str, Any]:
    return {
        "type": role,
        "uuid": f"u{second}",
        "sessionId": "s1",
        "timestamp": f"2026-03-01T10:00:{second:02}.000Z",
        "isSidechain": False,
        "message": {"role": role, "content": content},
    }
