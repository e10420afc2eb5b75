"""A plugin can be tested on a recorded session, with the same outcome every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from ally_plugins import Ally, RecordingError, ThoughtComplete, ToolCallEnd, hookimpl
from ally_plugins.testing import BlockingHarness, replay_recording


class Thinker:
    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_thought_complete(self, event: ThoughtComplete) -> None:
        await self.ally.add_message("user", f"I see {len(event.thinking)} characters of thought")
        await self.ally.emit_event("saw", {"length": len(event.thinking)})


def test_the_sample_session_is_played_when_no_other_is_named() -> None:
    played = replay_recording(Thinker)
    assert played.report.events["THOUGHT_COMPLETE"] == len(played.messages) == len(played.emitted) == 4
    assert played.messages[0].source_plugin == "thinker"
    assert played.crashes == ()


def test_the_outcome_is_the_same_every_time() -> None:
    first, second = replay_recording(Thinker), replay_recording(Thinker)
    assert [message.content for message in first.messages] == [message.content for message in second.messages]
    assert first.report.events == second.report.events


def test_a_recording_of_ones_own_is_played(tmp_path: Path) -> None:
    record = (
        '{"type":"user","uuid":"u1","sessionId":"s","timestamp":"2026-01-01T00:00:00Z","cwd":"/",'
        '"message":{"role":"user","content":"hello"}}\n'
    )
    file = tmp_path / "own.jsonl"
    file.write_text(record, encoding="utf-8")
    played = replay_recording(Thinker, file)
    assert played.report.events["USER_MESSAGE"] == 1
    assert played.messages == ()


def test_a_file_that_is_no_recording_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError):
        replay_recording(Thinker, tmp_path / "nothing.jsonl")


DURABLE = """
[events]
subscribe = ["TOOL_CALL_END"]
durable = ["TOOL_CALL_END"]
[permissions]
add_message = { roles = ["user"], reason = "to say so" }
"""


class Counting:
    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        if event.tool_name == "bash":
            await self.ally.add_message("user", "heard it")


def test_what_is_durable_is_heard_at_its_time_in_recordings_and_in_tests() -> None:
    counts = replay_recording(Counting, manifest=DURABLE).report
    assert counts.plugins["counting"].delivered == counts.events["TOOL_CALL_END"] > 0
    with BlockingHarness(Counting, manifest=DURABLE) as harness:
        harness.emit(ToolCallEnd(tool_name="bash", success=True))
        assert [message.content for message in harness.pending] == ["heard it"]
