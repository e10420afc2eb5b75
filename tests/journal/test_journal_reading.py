from __future__ import annotations

import asyncio
import io
import itertools
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from ally_plugins.contract.values.errors import JournalError
from ally_plugins.journal import explanation
from ally_plugins.journal import journal as journal_module
from ally_plugins.journal.explanation import explain
from ally_plugins.journal.export import export
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.values import PendingMessage, Record
from ally_plugins.replay.export import read_export

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def journal() -> Iterator[Journal]:
    journal = Journal.in_memory()
    yield journal
    journal.close_blocking()


def event(seq: int, type_: str, data: dict[str, Any], **envelope: Any) -> tuple[str, int, int, str, None, bytes]:
    said = {"event_type": type_, "event_data": data, "timestamp": 1000 + seq, "id": f"s:{seq}", "seq": seq}
    return ("s", seq, 1000 + seq, type_, None, orjson.dumps({**said, "session_id": "s", "origin": [], **envelope}))


def message(id_: str, **changes: Any) -> PendingMessage:
    body = {"role": "user", "content": "try another way", "decision": "d1"}
    given = PendingMessage(id_, "s", "loop-guard", 1003, "user", "steer", trigger_turn=False, body=body, cause="s:3")
    return given._replace(**changes)


def fill(journal: Journal) -> None:
    async def main() -> None:
        await journal.append(Record("grant", 900, "loop-guard", None, "loop-guard", {"grant": "add_message:user"}))
        await journal.append(Record("grant", 900, "other", None, "other", {"grant": "emit_event"}))
        journal.add_events(
            [
                event(1, "USER_MESSAGE", {"content": "build it"}),
                event(2, "TOOL_CALL_START", {"toolName": "bash"}, call_id="c1"),
                event(3, "TOOL_CALL_END", {"toolName": "bash", "success": False}, call_id="c1"),
                event(4, "TOOL_CALL_START", {"toolName": "bash"}, call_id="c2"),
            ]
        )
        await journal.append(Record("decision", 1003, "secret-guard", "s", "d1", {"cause": "m1", "votes": ["allow"]}))
        await journal.append(Record("decision", 1003, "secret-guard", "s", "d2", {"cause": "c1", "votes": ["deny"]}))
        await journal.append(Record("decision", 1003, "secret-guard", "s", "d3", {"cause": "c9", "votes": []}))
        await journal.accept(message("m1"))
        await journal.accept(message("m2", cause=None, body={}))
        await journal.mark_delivered(["m1"], 1004)
        await journal.append(Record("grant", 2000, "loop-guard", None, "loop-guard", {"grant": "emit_event"}))

    asyncio.run(main())


def test_records_are_filtered_paged_and_limited(journal: Journal) -> None:
    fill(journal)
    for i in range(600):
        journal.append_soon(Record("context_read", 5000 + i, "p", "t"))
    journal.flush_blocking()
    reading = journal.reader
    assert [r.ref for r in reading.records(kind="decision")] == ["d1", "d2", "d3"]
    assert [r.ref for r in reading.records(kind=("decision", "grant"), plugin="loop-guard")] == ["loop-guard"] * 2
    assert len(list(reading.records(session_id="t"))) == 600
    assert [r.at for r in reading.records(since=5598)] == [5598, 5599]
    assert [r.at for r in reading.last_records(2, session_id="t")] == [5598, 5599]
    assert len(list(reading.records(limit=300))) == 300
    last = reading.last_n()
    assert [r.n for r in reading.records(after_n=last - 3)] == [last - 2, last - 1, last]
    assert all(r.kind != "events" for r in reading.records())
    assert sum(r.kind == "events" for r in reading.records(with_events=True)) == 1


def test_explaining_a_message_gathers_what_led_to_it(journal: Journal) -> None:
    fill(journal)
    found = explain(journal.reader, "m1")
    assert found is not None
    assert found.message is not None
    assert (found.message.id, found.message.state) == ("m1", "delivered")
    assert [e.seq for e in found.causes] == [2, 3]
    assert [(r.data or {})["grant"] for r in found.permissions] == ["add_message:user"]
    assert [(r.kind, r.ref) for r in found.related] == [("decision", "d1"), ("decision", "d2"), ("message_state", None)]


def test_explaining_a_decision_an_event_and_nothing(journal: Journal) -> None:
    fill(journal)
    decision = explain(journal.reader, "d2")
    assert decision is not None
    assert decision.record is not None
    assert decision.record.data == {"cause": "c1", "votes": ["deny"]}
    told = explain(journal.reader, "s:3")
    assert told is not None
    assert told.event is not None
    assert [r.ref for r in told.related] == ["d2"]
    without_cause = explain(journal.reader, "m2")
    assert without_cause is not None
    assert without_cause.causes == ()
    assert explain(journal.reader, "nothing") is None
    assert explain(journal.reader, "s:99") is None


def test_causes_that_go_in_a_circle_end(journal: Journal) -> None:
    journal.add_events([event(1, "TODO_UPDATE", {}, cause="s:2"), event(2, "TODO_UPDATE", {}, cause="s:1")])
    asyncio.run(accept(journal, message("m1", cause="s:1")))
    found = explain(journal.reader, "m1")
    assert found is not None
    assert {e.seq for e in found.causes} == {1, 2}


async def accept(journal: Journal, given: PendingMessage) -> None:
    await journal.accept(given)


def test_an_export_says_what_it_is_and_is_in_order_of_time(journal: Journal) -> None:
    fill(journal)
    lines = [orjson.loads(line) for line in export(journal.reader, "s")]
    assert lines[0] == {"format": "ally-journal", "version": 2, "session_id": "s"}
    assert [(line["kind"], line.get("seq") or line["id"]) for line in lines[1:]] == [
        *(("event", seq) for seq in (1, 2, 3)),
        *(("decision", id_) for id_ in ("d1", "d2", "d3")),
        *(("message", id_) for id_ in ("m1", "m2")),
        ("event", 4),
    ]
    assert all(line["session_id"] == "s" for line in lines[1:])
    assert lines[4]["decision"] == {"cause": "m1", "votes": ["allow"]}
    assert lines[7]["state"] == "delivered"
    assert lines[7]["body"]["content"] == "try another way"


def test_what_is_exported_can_be_replayed(journal: Journal) -> None:
    fill(journal)
    steps = list(read_export(io.BytesIO(b"".join(export(journal.reader, "s")))))
    assert [type(step).__name__ for step in steps] == [
        *("SessionStarted", "PersonMessage", "ToolCalled", "ToolReturned"),
        *("Skipped", "Skipped", "ToolCalled", "SessionEnded"),
    ]


def test_sessions_are_counted_with_their_events_and_messages(journal: Journal) -> None:
    fill(journal)
    journal.add_events([("t", 1, 9000, "TODO_UPDATE", None, b"{}"), ("t", 2, 9000, "TODO_UPDATE", None, b"{}")])
    journal.flush_blocking()
    found = [(s.id, s.events, s.messages) for s in journal.reader.sessions()]
    assert found == [("s", 4, 2), ("t", 2, 0)]


def test_events_of_one_type_can_be_asked_for(journal: Journal) -> None:
    fill(journal)
    assert [e.seq for e in journal.reader.events("s", type="TOOL_CALL_START")] == [2, 4]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that cannot be written, also by root")
def test_a_journal_in_a_folder_that_cannot_be_written_can_be_read(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.db")
    journal.append_blocking(Record("x", 1))
    journal.close_blocking()
    tmp_path.chmod(0o555)
    (tmp_path / "journal.db").chmod(0o444)
    code = (
        "import sys, os, pathlib, urllib.parse\nfrom ally_plugins.journal.reader import JournalReader\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "print(len(list(JournalReader(pathlib.Path(sys.argv[1])).records())))\n"
    )
    for folder in tmp_path.parents[:3]:
        folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "journal.db")], capture_output=True, text=True, check=False
    )
    tmp_path.chmod(0o755)
    if "Permission" in done.stderr and "ally" not in done.stderr:
        pytest.skip("SKIPPED: another user cannot run this Python")
    assert done.stdout == "1\n", done.stderr


def test_a_reader_that_is_closed_says_so(journal: Journal) -> None:
    reading = JournalReader(journal.path)
    reading.close()
    with pytest.raises(JournalError, match="closed"):
        reading.last_n()


def test_decisions_on_other_calls_of_the_same_tool_are_not_part_of_an_explanation(journal: Journal) -> None:
    async def main() -> None:
        for number in (1, 2):
            data = {"subject": "bash", "cause": f"c{number}", "votes": []}
            await journal.append(Record("decision", 1000 + number, None, "s", f"d{number}", data))

    asyncio.run(main())
    found = explain(journal.reader, "d1")
    assert found is not None
    assert found.related == ()


def test_what_the_same_event_led_to_elsewhere_is_not_part_of_an_explanation(journal: Journal) -> None:
    async def main() -> None:
        journal.add_events([event(1, "TOOL_CALL_END", {"toolName": "bash"})])
        for number in (1, 2):
            data = {"name": "work", "cause": "s:1"}
            await journal.append(Record("task", 1000 + number, "worker", "s", f"t{number}", data))
        await journal.append(Record("task_end", 1003, "worker", "s", "t1", {"state": "done"}))

    asyncio.run(main())
    task, first = explain(journal.reader, "t1"), explain(journal.reader, "s:1")
    assert task is not None
    assert first is not None
    assert [each.id for each in task.causes] == ["s:1"]
    assert [each.kind for each in task.related] == ["task_end"]
    assert [each.ref for each in first.related] == ["t1", "t2"]


def test_what_a_replay_decides_on_its_events_stands_behind_them(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = itertools.count(10_000)
    monkeypatch.setattr(journal_module, "now_ms", lambda: next(times))
    journal.is_replay = True
    held: list[Any] = []
    journal.before_durable.append(lambda _: journal.add_events([held.pop()]) if held else None)

    async def main() -> None:
        held.append(event(1, "TOOL_CALL_START", {"toolName": "bash"}))
        await journal.append(Record("decision", 1001, "guard", "s", "d1", {}))
        held.append(event(2, "TOOL_CALL_END", {}))
        await journal.accept(message("m1"))
        held.append(event(3, "TODO_UPDATE", {}))
        await journal.mark_delivered(["m1"], 1004)

    asyncio.run(main())
    lines = [orjson.loads(line) for line in export(journal.reader, "s")][1:]
    order = [line.get("event_type", line["kind"]) for line in lines]
    assert order == ["TOOL_CALL_START", "decision", "TOOL_CALL_END", "message", "TODO_UPDATE"]


def test_in_a_long_journal_what_has_its_id_and_its_delivery_is_found_however_far_away(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_NEAR_BEFORE", "_NEAR_AFTER"):
        monkeypatch.setattr(explanation, name, 3)

    async def fill_up(at: int) -> None:
        for number in range(20):
            await journal.append(Record("context_read", at + number, "p", "s"))

    async def main() -> None:
        await journal.accept(message('m"1', cause=None))
        await journal.append(Record("decision", 1001, None, "s", "d1", {"message_id": 'm"1'}))
        await fill_up(1002)
        await journal.append(Record("decision", 1100, None, "s", "d2", {"message_id": 'm"1'}))
        await fill_up(1101)
        await journal.mark_delivered(['m"1'], 1200)
        await journal.append(Record("note", 1201, None, "s", "d1", {}))

    asyncio.run(main())
    found = explain(journal.reader, 'm"1')
    assert found is not None
    # The second decision only names it, far away: a word of it there is what a long journal is not searched for.
    assert [(each.kind, each.ref) for each in found.related] == [
        ("decision", "d1"), ("message_state", None), ("note", "d1"),
    ]  # fmt: skip
