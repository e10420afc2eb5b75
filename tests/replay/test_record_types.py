"""The table of record types: a new one in a sample session fails here, until it is written down and looked at."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ally_plugins.replay.record_types import RECORD_TYPES, is_transcript_start
from ally_plugins.replay.sample import sample_path

ROOT = Path(__file__).parents[2]
RECORDED = sorted((ROOT.parent / "shared" / "sessions").glob("*.jsonl"))
ROW = re.compile(r"\| `([a-z-]+)` \| ([\d.]+) \| .+ \|")


def types_of(path: Path) -> set[str]:
    return {json.loads(line)["type"] for line in path.read_text("utf-8").splitlines() if line.strip()}


def test_every_record_type_of_the_sample_session_is_in_the_table() -> None:
    with sample_path() as path:
        found = types_of(path)
    assert {"assistant", "user"} <= found
    made_up = {"session-title"}  # the sample shows that an unknown type is counted
    assert found - RECORD_TYPES.keys() == made_up


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_every_record_type_of_a_recorded_session_is_in_the_table(path: Path) -> None:
    assert types_of(path) <= RECORD_TYPES.keys()


def test_the_documentation_has_the_table() -> None:
    page = (ROOT / "docs" / "reference" / "recordings.md").read_text("utf-8")
    assert dict(ROW.findall(page)) == RECORD_TYPES


def test_every_type_but_those_of_messages_shows_a_transcript_by_its_session() -> None:
    for kind in RECORD_TYPES.keys() - {"assistant", "user"}:
        assert is_transcript_start({"type": kind, "sessionId": "s1"})
        assert not is_transcript_start({"type": kind, "timestamp": "2026-03-01T10:00:00Z"})
