"""A journal and exports that were written before events had one JSON form: they verify, and say what they said.

`version_1` holds a journal with four sessions (one of them pruned) and its `audit.head`, the exports of two sessions,
and in `durable.jsonl` what a daemon with a durable subscription to everything was sent of it, byte for byte.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ally_plugins.host.durable.places import Found, Place, Walk
from ally_plugins.journal.audit import verify
from ally_plugins.journal.reading import Reading
from ally_plugins.replay.export import read_export
from ally_plugins.replay.reading import RecordingFormat, open_recording
from ally_plugins.wire.eventlines import event_line

BEFORE = Path(__file__).with_name("version_1")

STEPS: dict[str, dict[str, int]] = {
    "tool-calls": {
        "SessionStarted": 1, "PersonMessage": 1, "ToolCalled": 3, "ToolReturned": 3, "Skipped": 9, "TodosChanged": 1,
        "Usage": 1, "AgentStarted": 1, "AgentEnded": 1, "AssistantMessage": 1, "SessionEnded": 1,
    },
    "every-type": {
        "SessionStarted": 1, "ToolCalled": 9, "ToolReturned": 11, "AgentStarted": 3, "AgentEnded": 3, "Skipped": 52,
        "PermissionAsked": 3, "PermissionAnswered": 3, "CompactionStarted": 4, "CompactionCompleted": 3, "Usage": 9,
        "TodosChanged": 3, "Thought": 3, "DiffMade": 3, "PersonMessage": 3, "AssistantMessage": 3, "ModelRequested": 3,
        "ModelResponded": 3, "SessionEnded": 1,
    },
}  # fmt: skip


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Return a copy of the journal, with its head beside it."""
    for name in ("journal.db", "audit.head"):
        shutil.copyfile(BEFORE / name, tmp_path / name)
        (tmp_path / name).chmod(0o600)
    return tmp_path / "journal.db"


def test_the_journal_verifies(journal: Path) -> None:
    report = verify(journal)
    report.raise_if_broken()
    assert (report.records, report.pruned, report.lag) == (51, 13, 0)


def test_the_operator_is_told_that_it_verifies(journal: Path) -> None:
    command = [sys.executable, "-m", "ally_plugins", "audit", "verify"]
    environment = {**os.environ, "ALLY_HOME": str(journal.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("the audit holds")


def test_a_changed_event_is_noticed(journal: Path) -> None:
    content = journal.read_bytes()
    assert content.count(b"it does not build") == 1
    journal.write_bytes(content.replace(b"it does not build", b"it does now build"))
    problem = verify(journal).problem
    assert problem is not None
    assert problem.kind == "altered"


def test_its_events_are_sent_from_the_journal_byte_for_byte_as_before(journal: Path) -> None:
    with Reading(journal) as reading:
        walk = Walk(*_all_of(reading))
        found: list[Found] = []
        while not walk.is_over:
            found += walk.portion(lambda _: True, lambda _: True, 1000)
    lines = [event_line(one.event, str(one.place)) for one in found]
    assert lines == (BEFORE / "durable.jsonl").read_bytes().splitlines(keepends=True)
    assert walk.pruned == 21


def _all_of(reading: Reading) -> Any:
    blocks, end = reading.event_blocks(0)
    return blocks, Place(0), end


@pytest.mark.parametrize("name", STEPS)
def test_an_export_is_replayed_as_before(name: str) -> None:
    path = BEFORE / f"{name}.jsonl"
    with path.open("rb") as file:
        assert Counter(type(step).__name__ for step in read_export(file)) == STEPS[name]
    assert open_recording(path).format is RecordingFormat.EXPORT
