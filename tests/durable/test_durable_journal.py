from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ally_plugins.contract.values.events import EVENT_TYPES, EventsDropped, PluginEvent, ToolCallEnd, ToolCallStart
from ally_plugins.journal.audit import verify
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.runtime.lanes.observers import Implementation, Observers
from ally_plugins.runtime.lanes.tables import without_durable
from tests.durable.rig import Heard, ends
from tests.kit.waiting import go


def put(home: Path, place: str) -> None:
    with closing(sqlite3.connect(home / "journal.db", isolation_level=None)) as db:
        db.execute("UPDATE meta SET value = ? WHERE name = 'bookmark:durable:p'", (place,))


def test_pruned_events_are_skipped_with_a_warning_and_the_rest_comes(
    rig: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        ear = Heard()
        async with rig() as host:
            await host.inline(ally_tool_call_end=ear.hook)
            host.emit(*ends(3))
            await ear.take(3)
        async with rig() as host:
            host.emit(*ends(4))
            await host.journal.flush()
            await host.journal.prune(1_000_008)
            host.emit(*ends(2))
            await host.inline(ally_tool_call_end=ear.hook)
            await ear.take(2)
            assert ear.ids == ["s:1", "s:2", "s:3", "s:8", "s:9"]
        assert "4 events were pruned before 'p' had acknowledged them" in caplog.text

    go(main())


def test_how_far_a_plugin_is_survives_pruning_and_the_chain_stays_whole(rig: Any, kept: Any, tmp_path: Path) -> None:
    async def main() -> None:
        ear = Heard()
        async with rig() as host:
            await host.inline(ally_tool_call_end=ear.hook)
            host.emit(*ends(3))
            await ear.take(3)
        before = kept()
        async with rig() as host:
            await host.journal.prune(2_000_000_000_000)
        assert kept() == before
        assert verify(tmp_path / "home" / "journal.db").ok
        async with rig() as host:
            await host.inline(ally_tool_call_end=ear.hook)
            host.emit(*ends(1))
            await ear.take(1)
            assert ear.ids == ["s:1", "s:2", "s:3", "s:4"]

    go(main())


@pytest.mark.parametrize("place", ["nonsense", "99999999.0", ""])
def test_a_place_that_the_journal_does_not_have_is_told_and_begins_at_its_end(
    rig: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    async def main() -> None:
        ear = Heard()
        async with rig() as host:
            await host.inline(ally_tool_call_end=ear.hook)
        put(tmp_path / "home", place)
        async with rig() as host:
            host.emit(*ends(2))
            await host.journal.flush()
            await host.inline(ally_tool_call_end=ear.hook)
            host.emit(*ends(1))
            await ear.take(1)
            assert ear.ids == ["s:3"]
        assert f"the journal has no place {place!r}" in caplog.text

    go(main())


def test_events_that_cannot_be_read_are_told_and_the_others_come(rig: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        ear = Heard()
        async with rig() as host:
            await host.inline(ally_tool_call_end=ear.hook, ally_tool_call_start=ear.hook, types=["*"])
            host.emit(*ends(1))
            bodies = (
                b"{}", b"not json", b"[]", b'{"event_type":"TOOL_CALL_END","event_data":7,"origin":[]}',
                b'{"id":"s:6","type":"TOOL_CALL_END","data":7,"origin":[]}', b'{"id":7}', b'{"id":no json',
            )  # fmt: skip
            host.journal.add_events([("s", 2 + i, 1, "TOOL_CALL_END", None, body) for i, body in enumerate(bodies)])
            about = b'"origin":[],"seq":10,"timestamp":1,"session_id":"s"}'
            newer = b'{"event_type":"OF_TOMORROW","event_data":{},' + about
            host.journal.add_events([("s", 9, 1, "OF_TOMORROW", None, newer)])
            odd = b'{"event_type":"TOOL_CALL_END","event_data":{"toolName":7,"isNew":true},' + about  # it is what it is
            host.journal.add_events([("s", 10, 1, "TOOL_CALL_END", None, odd)])
            host.feeds.wake()
            await ear.take(2)
            assert ear.ids == ["s:1", "s:10"]
            assert ear.events[1].extra == {"isNew": True}
        assert caplog.text.count("cannot be read") == len(bodies)

    go(main())


def test_a_new_journal_has_no_row_for_any_bookmark(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Journal.open(path).close_blocking()
    with closing(sqlite3.connect(path)) as db:
        columns = db.execute("SELECT name FROM meta").fetchall()
        assert columns == [("chain",)]
    with JournalReader(path) as reading:
        assert reading.bookmark("x") is None


def test_the_last_of_several_bookmarks_counts_also_beside_records_of_the_same_batch(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal.open(tmp_path / "journal.db")
        journal.add_events([("s", 1, 1, "TODO_UPDATE", None, b"{}")])
        writing = [journal.put_bookmark("x", str(number)) for number in range(600)]
        writing.append(journal.put_bookmark("y", "other"))
        for one in writing:
            await one
        assert [journal.reader.bookmark(name) for name in ("x", "y", "z")] == ["599", "other", None]
        assert journal.last_seq("s") == 1
        await journal.close()

    go(main())
    assert verify(tmp_path / "journal.db").ok


def test_blocks_are_read_some_at_a_time_and_none_is_left_out(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal.open(tmp_path / "journal.db")
        for number in range(1, 31):
            journal.add_events([(f"s{number % 3}", number, 1, "TODO_UPDATE", None, b'"%b"' % (b"x" * 100_000))])
            await journal.flush()
        seen, first, reads = [], 1, 0
        while True:
            blocks, end = journal.reader.event_blocks(first)
            if end == first:
                break
            seen += [event.seq for block in blocks for event in block.events()]
            first, reads = end, reads + 1
            assert len(blocks) <= 11
        assert seen == list(range(1, 31))
        assert reads == 3
        await journal.close()

    go(main())


def observers() -> Observers:
    async def hook(event: Any) -> None:
        del event

    names = ("ally_tool_call_end", "ally_tool_call_start", "ally_events_dropped", "ally_event")
    implementations = {name: Implementation.of("p", name, hook, ("event",)) for name in names}
    return Observers.compile(implementations, lambda name: name != "TODO_UPDATE")


def test_the_ring_has_no_durable_events_left_and_all_others() -> None:
    table = without_durable(observers(), {"TOOL_CALL_END", "a:one"})
    assert ToolCallEnd not in table.types
    assert table.types == observers().types - {ToolCallEnd}
    assert set(table.single) | set(table.several) == table.types
    assert not table.wants(ToolCallEnd(tool_name="x"))
    assert table.wants(ToolCallStart(tool_name="x"))
    assert not table.wants(PluginEvent(event_type="a:one"))
    assert table.wants(PluginEvent(event_type="a:two"))
    assert not table.receives("TODO_UPDATE")


def test_with_everything_durable_the_ring_tells_of_losses_only() -> None:
    table = without_durable(observers(), {"*"})
    assert table.types == {EventsDropped, PluginEvent}
    assert not any(table.receives(name) for name in (*EVENT_TYPES, "a:one"))


def test_a_daemons_table_loses_its_durable_types_too() -> None:
    table = without_durable(Observers(types=frozenset({ToolCallEnd, ToolCallStart, PluginEvent})), {"TOOL_CALL_END"})
    assert table.types == {ToolCallStart, PluginEvent}
