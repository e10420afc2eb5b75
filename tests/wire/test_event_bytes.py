"""What goes to a daemon for an event, byte for byte as it was when `on_event.jsonl` was written; so for every type."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ally_plugins.author.samples import sample_events
from ally_plugins.contract.values.codec import decode, encoded
from ally_plugins.contract.values.eventjson import event_from_params
from ally_plugins.contract.values.events import EVENT_TYPES, CompactionStart, Event, PluginEvent, ToolCallEnd, stamp
from ally_plugins.wire.eventlines import event_lines, with_offset

GOLDEN = Path(__file__).with_name("on_event.jsonl").read_bytes().splitlines(keepends=True)


def events() -> Iterator[Event]:
    """Yield what the lines were made of: every type, without and with a turn and causes, and some oddities."""
    for event in sample_events():
        stamp(event, 41, 1767225599000, "s1", (), None)
        yield event
    for event in sample_events():
        stamp(event, 42, 1767225599001, "s:2", ("loop-warner", "secret-guard"), "s:2:t4")
        yield event
    for odd in (
        PluginEvent(event_type="p:x", data={"a": [1, {"b": None}], "type": "x", "seq": 5}, parent_id="s1:40"),
        ToolCallEnd(tool_name="a\nb\r\u2028", output="\ud800", result={"n": 2**70}, extra={"brandNew": [1]}),
        CompactionStart(parent_id="s1:3"),
    ):
        stamp(odd, 43, 1767225599002, "s1", ("p",), "u4")
        yield odd


def test_every_built_in_type_is_among_the_lines() -> None:
    assert {decode(line)["params"]["event_type"] for line in GOLDEN} == {*EVENT_TYPES, "other:news", "p:x"}


def test_an_event_is_written_byte_for_byte_as_before() -> None:
    made = {event_lines([encoded(event)]) for event in events()}
    assert [line for line in GOLDEN if line not in made] == []


@pytest.mark.parametrize("offset", [None, "17.3"])
def test_what_was_read_is_written_byte_for_byte_as_it_came(offset: str | None) -> None:
    for line in GOLDEN:
        event = event_from_params(decode(line)["params"])
        assert event is not None
        end = b"}}\n" if offset is None else b',"offset":"17.3"}}\n'
        text = encoded(event) if offset is None else with_offset(encoded(event), offset)
        assert event_lines([text]) == line.removesuffix(b"}}\n") + end


def test_lines_that_are_written_together_are_those_of_each() -> None:
    texts = [encoded(event) for event in events()]
    assert event_lines(texts) == b"".join(event_lines([text]) for text in texts)
