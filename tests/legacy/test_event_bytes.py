"""What goes to a daemon of Code-Ally's for an event, byte for byte as it was when `on_event.jsonl` was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import evolve

from ally_plugins.author.samples import sample_events
from ally_plugins.contract.values.codec import decode
from ally_plugins.contract.values.events import EVENT_TYPES, stamp
from ally_plugins.host.sockets.messages import event_message

GOLDEN = Path(__file__).with_name("on_event.jsonl").read_bytes().splitlines(keepends=True)


def test_an_event_is_written_byte_for_byte_as_before() -> None:
    made = set()
    for sample in sample_events():
        # What is newer than the file stands behind all else, where there is any.
        changes: dict[str, Any] = {"common_name": None} if hasattr(sample, "common_name") else {}
        event = evolve(sample, **changes)
        stamp(event, 41, 1767225599000, "s1", (), None)
        made.add(event_message(event))
    assert [line for line in GOLDEN if line not in made] == []
    assert {decode(line)["params"]["event_type"] for line in GOLDEN} == {*EVENT_TYPES, "other:news"}
