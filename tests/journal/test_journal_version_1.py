"""A journal and exports that were written before events had one JSON form: they verify, and say what they said.

`version_1` holds a journal with four sessions (one of them pruned) and its `audit.head`, the exports of two sessions,
and in `durable.jsonl` what a daemon with a durable subscription to everything was sent of it, byte for byte.
"""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from ally_plugins import Host, ToolCallEnd
from ally_plugins.host.durable.offsets import Place, PlacedEvent, Walk
from ally_plugins.journal.audit import verify
from ally_plugins.journal.explanation import explain
from ally_plugins.journal.export import export
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.migrations import VERSION
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import PendingMessage
from ally_plugins.replay.export import read_export
from ally_plugins.replay.recording import RecordingFormat, open_recording
from ally_plugins.wire.eventlines import event_lines, with_offset
from tests.kit.waiting import go

BEFORE = Path(__file__).with_name("version_1")

STEPS: dict[str, dict[str, int]] = {
    "tool-calls": {
        "SessionStarted": 1, "PersonMessage": 1, "ToolCalled": 3, "ToolReturned": 3, "Skipped": 9, "TodosChanged": 1,
        "Usage": 1, "AgentStarted": 1, "AgentEnded": 1, "AssistantReplied": 1, "SessionEnded": 1,
    },
    "every-type": {
        "SessionStarted": 1, "ToolCalled": 9, "ToolReturned": 11, "AgentStarted": 3, "AgentEnded": 3, "Skipped": 52,
        "PermissionRequested": 3, "PermissionAnswered": 3, "CompactionStarted": 4, "CompactionCompleted": 3, "Usage": 9,
        "TodosChanged": 3, "Thought": 3, "DiffMade": 3, "PersonMessage": 3, "AssistantReplied": 3, "ModelRequested": 3,
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


def test_a_key_of_the_journal_is_free_in_other_sessions(journal: Path) -> None:
    with closing(sqlite3.connect(journal)) as db:
        plugin, session_id, key = db.execute(
            "SELECT plugin, session_id, key FROM records WHERE key IS NOT NULL"
        ).fetchone()
    opened = Journal.open(journal)
    try:
        assert opened.find_key(plugin, session_id, key) is not None
        assert opened.find_key(plugin, "another", key) is None
        accepted = PendingMessage("m-new", "another", plugin, 1, "user", "steer", trigger_turn=False, body={}, key=key)
        assert go(_accept(opened, accepted)) > 0
    finally:
        opened.close_blocking()


async def _accept(opened: Journal, message: PendingMessage) -> int:
    return await opened.accept(message)


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
    with JournalReader(journal) as reading:
        walk = Walk(*_all_of(reading))
        found: list[PlacedEvent] = []
        while not walk.is_over:
            found += walk.portion(lambda _: True, lambda _: True, 1000)
    lines = [event_lines([with_offset(one.encoded, str(one.place))]) for one in found]
    assert lines == (BEFORE / "durable.jsonl").read_bytes().splitlines(keepends=True)
    assert walk.pruned == 21


def _all_of(reading: JournalReader) -> Any:
    blocks, end = reading.event_blocks(0)
    return blocks, Place(0), end


@pytest.mark.parametrize("name", STEPS)
def test_an_export_is_replayed_as_before(name: str) -> None:
    path = BEFORE / f"{name}.jsonl"
    with path.open("rb") as file:
        assert Counter(type(step).__name__ for step in read_export(file)) == STEPS[name]
    assert open_recording(path).format is RecordingFormat.EXPORT


@pytest.mark.parametrize(("name", "session_id"), [("tool-calls", "s-1"), ("every-type", "s:2")])
def test_it_is_exported_in_todays_form_and_replayed_as_its_old_export_is(
    name: str, session_id: str, journal: Path
) -> None:
    with JournalReader(journal) as reading:
        lines = list(export(reading, session_id))
    assert orjson.loads(lines[0])["version"] == 2
    events = [value for line in lines if (value := orjson.loads(line)).get("kind") == "event"]
    assert all({"event_type", "event_data", "session_id", "timestamp"} <= set(event) for event in events)
    old = read_export(io.BytesIO((BEFORE / f"{name}.jsonl").read_bytes()))
    assert list(read_export(io.BytesIO(b"".join(lines)))) == list(old)


def test_what_led_to_a_message_is_told_with_the_call_it_is_about(journal: Path) -> None:
    with JournalReader(journal) as reading:
        (message,) = reading.messages("s-1")
        found = explain(reading, message.id)
        assert found is not None
        assert [event.type for event in found.causes] == ["TOOL_CALL_START", "DECISION", "TOOL_CALL_END"]
        assert [event.value()["call_id"] for event in found.causes] == ["c1"] * 3
        assert [record.kind for record in found.related] == ["decision", "message_state"]


def test_an_id_that_is_no_text_stands_as_it_was_written(journal: Path) -> None:
    with JournalReader(journal) as reading:
        (event,) = (each for each in reading.events("s:2") if b"an id that is no text" in each.body)
    assert event.value()["call_id"] == 7


def test_a_host_goes_on_with_it_and_both_forms_are_one_journal(journal: Path) -> None:
    async def main() -> None:
        async with Host("test", home=journal.parent, discover=False) as host:
            session = host.session("s-1")
            session.emit(ToolCallEnd(tool_name="new", call_id="c1"))
            await session.close()

    go(main())
    verify(journal).raise_if_broken()
    with JournalReader(journal) as reading:
        events = list(reading.events("s-1"))
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert [event.value()["id"] for event in events] == [event.id for event in events]
        assert [event.written == event.body for event in events] == [event.seq > 22 for event in events]
        assert events[-2].value()["event_data"]["toolName"] == "new"
        assert len(list(read_export(io.BytesIO(b"".join(export(reading, "s-1")))))) > STEPS["tool-calls"]["Skipped"]


def test_a_program_that_knows_only_version_1_opens_it_no_more_once_todays_has(journal: Path) -> None:
    def version() -> int:
        with closing(sqlite3.connect(journal)) as db:
            return int(db.execute("PRAGMA user_version").fetchone()[0])

    with JournalReader(journal) as reading:
        assert len(reading.sessions()) == 4
    assert version() == 1  # who only looks changes nothing
    Journal.open(journal).close_blocking()
    assert version() == VERSION
