"""A plugin that is moved into a process by a setting, untouched: the same conversation and the same events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.wheels import write_wheel

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Operator

pytestmark = pytest.mark.e2e

TALKER = "e2e-talker"
CONTRIB = ("conversation-monitor", "loop-guard", "secret-guard")
MANIFEST = """
requires_host = ">=0"
[events]
subscribe = ["TOOL_CALL_END", "USER_MESSAGE", "SESSION_END"]
[permissions]
add_message = { roles = ["user"], reason = "to be heard" }
emit_event = { reason = "to tell" }
get_context = { parts = ["messages"], reason = "to see how much was said" }
gate = { on = ["tool_call"], reason = "to refuse one" }
transform = { on = ["tool_output"], reason = "to mark it" }
"""
CODE = """
from attrs import evolve
from ally_plugins import Deny, Replace, hookimpl

class Talker:
    def __init__(self, ally):
        self.ally = ally
        self.failed = 0

    @hookimpl
    async def ally_user_message(self, event):
        await self.ally.emit_event("asked", {"text": event.content})

    @hookimpl
    async def ally_tool_call_end(self, event):
        self.failed += not event.success
        context = await self.ally.get_context(("messages",))
        await self.ally.emit_event("counted", {"failed": self.failed, "messages": len(context.messages)})
        await self.ally.add_message("user", f"{event.tool_name}: {self.failed} of {len(context.messages)}")
        await self.ally.add_message("assistant", "not granted")

    @hookimpl
    def ally_gate_tool_call(self, call):
        return Deny("enough") if self.failed > 1 else None

    @hookimpl
    def ally_transform_tool_output(self, call, result):
        return Replace(evolve(result, output=f"[{result.output}]"))
"""


@pytest.fixture
def talker(tmp_path: Path, operator: Operator) -> str:
    """Install a third party's plugin that does much at every event."""
    files = {"e2e_talker/__init__.py": CODE, "e2e_talker/ally-plugin.toml": MANIFEST}
    entry_points = f"[ally.plugins]\n{TALKER} = e2e_talker:Talker\n"
    wheel = write_wheel(tmp_path / "made", TALKER, "1.0", files, entry_points=entry_points)
    operator.pip("install", "--force-reinstall", str(wheel))
    return TALKER


@pytest.mark.parametrize("session", ["failing", "transcript"])
def test_a_replay_gives_the_same_from_a_process_as_inline(
    session: str, operator: Operator, talker: str, home: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file: Path = request.getfixturevalue(session)
    for name in (talker, *CONTRIB):
        operator.ally("enable", name, "--place", "inline", "--yes", home=home)
    inline, talk = _replay(operator, home, file, tmp_path)
    for name in (talker, *CONTRIB):
        operator.ally("place", name, "process", home=home)
    outside, told = _replay(operator, home, file, tmp_path)
    assert talk == told
    assert inline == outside
    assert inline["plugins"][talker]["messages"] > 3
    assert inline["plugins"][talker]["refused"] == {"permission": inline["plugins"][talker]["messages"]}
    assert any(line["metadata"].get("sourcePlugin") == talker for line in talk)


def _replay(operator: Operator, home: Path, file: Path, folder: Path) -> tuple[Any, Any]:
    """Return the report and the conversation, without what differs from run to run."""
    out = folder / "out.jsonl"
    report = operator.ask("replay", str(file), "--out", str(out), home=home)
    (played,) = report["sessions"]
    for name in ("elapsed_s", "events_per_s", "sessions"):
        del report[name]
    text = out.read_text("utf-8").replace(played["session_id"], "SESSION")
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        if "sourcePlugin" in line["metadata"]:
            del line["id"]  # drawn by lot
    return report, lines
