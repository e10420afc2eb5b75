"""A stranger's plugin, written from the README alone: built, installed with pip, agreed to, replayed, audited."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.wheels import build_wheel

if TYPE_CHECKING:
    from .conftest import Operator

pytestmark = [pytest.mark.e2e, pytest.mark.smoke]

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


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of the README's plugin: its fenced blocks that begin with a file's name, and nothing else."""
    folder = tmp_path_factory.mktemp(NAME)
    found = BLOCK.findall((ROOT / "README.md").read_text("utf-8"))
    blocks = [(name, text) for name, text in found if not name.startswith("plugins/")]  # those are a home's
    assert {name for name, _ in blocks} == FILES
    for name, text in blocks:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    build_wheel(folder, folder / "dist")
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def operator(operator: Operator, stranger: Path) -> Operator:
    """Return an operator who has installed the stranger's wheel too."""
    operator.pip("install", str(stranger))
    return operator


@pytest.fixture(params=["own", "recorded"])
def session(request: pytest.FixtureRequest, transcript: Path) -> Path:
    """Return a transcript with six tool calls, two of them Bash: one of our own, and a real one where it is at hand."""
    if request.param == "own":
        return transcript
    if not RECORDED.exists():
        pytest.skip("the recorded sessions are not beside the checkout")
    return RECORDED


def test_it_waits_for_consent_then_speaks_and_all_of_it_is_audited(
    operator: Operator, session: Path, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "conversation.jsonl"

    assert "consent" in operator.ally("list", "--all", home=home)
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
    assert "consent" in operator.ally("list", "--all", home=home)


def test_the_demo_needs_no_set_up_and_shows_all_fifteen_events(operator: Operator, home: Path) -> None:
    events = operator.ask("demo", home=home)["events"]
    assert {name for name, count in events.items() if count} >= FIFTEEN
    assert list(home.iterdir()) == []


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]
