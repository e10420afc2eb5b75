"""The sample session holds everything that the demo shows."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from ally_plugins.replay import steps as kinds
from ally_plugins.replay.recording import RecordingFormat, open_recording
from ally_plugins.replay.sample import sample_path


def sample() -> list[kinds.Step]:
    with sample_path() as path:
        recording = open_recording(path)
        assert recording.format is RecordingFormat.TRANSCRIPT
        return list(recording.steps())


def test_all_twelve_event_types_can_be_made_of_it() -> None:
    found = Counter(type(step) for step in sample())
    for kind in (
        kinds.ToolCalled, kinds.ToolReturned, kinds.AgentStarted, kinds.AgentEnded, kinds.PermissionRequested,
        kinds.PermissionAnswered, kinds.CompactionStarted, kinds.CompactionCompleted, kinds.Usage, kinds.TodosChanged,
        kinds.Thought, kinds.DiffMade, kinds.PersonMessage, kinds.AssistantReplied, kinds.SessionStarted,
        kinds.SessionEnded, kinds.ModelRequested, kinds.ModelResponded, kinds.Skipped,
    ):  # fmt: skip
        assert found[kind], kind
    assert not found[kinds.BrokenLine]
    assert found[kinds.ToolCalled] == found[kinds.ToolReturned]


def test_usage_passes_every_threshold_and_falls_after_the_compaction() -> None:
    percents = [step.percent for step in sample() if isinstance(step, kinds.Usage)]
    for threshold in (50, 75, 90):
        assert any(before < threshold <= after for before, after in pairwise(percents))
    assert percents[-1] < 50


def test_an_agent_repeats_the_same_failing_call() -> None:
    failed = {step.call_id for step in sample() if isinstance(step, kinds.ToolReturned) and not step.success}
    repeated = Counter(
        (step.tool_name, str(step.arguments))
        for step in sample()
        if isinstance(step, kinds.ToolCalled) and step.call_id in failed
    )
    assert max(repeated.values()) >= 5


def test_a_call_and_a_result_hold_credentials_that_are_nobodys() -> None:
    token = "ghp" + "_EXAMPLE"
    assert any(isinstance(step, kinds.ToolCalled) and token in str(step.arguments) for step in sample())
    key = "AKIA" + "Y34FZKBOKMUTVV7A"
    assert any(isinstance(step, kinds.ToolReturned) and key in step.output for step in sample())
    with sample_path() as path:
        text = path.read_text(encoding="utf-8")
    assert token not in text  # written with an escape: no scanner takes it for a leak
    assert key not in text
