"""Events become lines once, and are on the other side what an inline plugin would see."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.author.samples import sample_events
from ally_plugins.contract.values.codec import decode, encode, encoded
from ally_plugins.contract.values.errors import EncodeError, EventError
from ally_plugins.contract.values.eventjson import event_from_params, event_params
from ally_plugins.contract.values.events import (
    EVENT_TYPES,
    CompactionStart,
    Event,
    EventsDropped,
    PermissionRequest,
    PluginEvent,
    ToolCallEnd,
    stamp,
)
from ally_plugins.wire.eventlines import event_lines, with_offset


def _stamped(event: Event) -> Event:
    stamp(event, 41, 1767225599000, "s1", ("a", "b"), "u4")
    return event


def _over_the_wire(event: Event) -> Event | None:
    frame = decode(event_lines([encoded(event)]))
    assert (frame["jsonrpc"], frame["method"]) == ("2.0", "on_event")
    return event_from_params(frame["params"])


def _envelope(event: Event) -> tuple[Any, ...]:
    return (event.id, event.seq, event.timestamp, event.session_id, event.origin, event.turn_id, event.extra)


GOOD = event_params(_stamped(ToolCallEnd(tool_name="bash")))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"event_type": 5}, "event_type of on_event is of the type int; expected a string"),
        ({"event_data": []}, "event_data of on_event is of the type list; expected an object"),
        ({"seq": "41"}, "seq of on_event is of the type str; expected an integer"),
        ({"seq": True}, "seq of on_event is of the type bool; expected an integer"),
        ({"timestamp": 1.5}, "timestamp of on_event is of the type float; expected an integer"),
        ({"session_id": None}, "session_id of on_event is of the type NoneType; expected a string"),
        ({"origin": "a"}, "origin of on_event is not a list of plugins' names"),
        ({"origin": [1]}, "origin of on_event is not a list of plugins' names"),
        ({"call_id": 5}, "call_id of on_event is of the type int; expected a string"),
        ({"turn_id": 5}, "turn_id of on_event is of the type int; expected a string"),
        (
            {"event_type": "PERMISSION_REQUEST", "event_data": {"toolName": "x"}},
            "event_data of 'PERMISSION_REQUEST'",
        ),
        ({"event_data": {"result": "text"}}, "expected a mapping, found str"),
    ],
)
def test_a_wrong_envelope_is_an_error_that_names_the_field(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(EventError) as caught:
        event_from_params(decode(encode({**GOOD, **wrong})))
    assert str(caught.value).startswith(text)


def test_an_envelope_that_lacks_a_field_is_an_error() -> None:
    for name in ("event_type", "event_data", "seq", "timestamp", "session_id"):
        with pytest.raises(EventError, match=f"{name} of on_event is missing"):
            event_from_params({key: value for key, value in decode(encode(GOOD)).items() if key != name})


@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "turn_id", "call_id"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just([]) | st.just({}),
    ),
    st.sampled_from([*EVENT_TYPES, "p:x", "??"]),
    st.dictionaries(st.sampled_from(["toolName", "extra", "seq", "parentId", "options"]), st.integers() | st.just([])),
)
def test_garbage_is_an_event_or_an_error_or_passed_over(wrong: dict[str, Any], kind: str, data: dict[str, Any]) -> None:
    try:
        event = event_from_params({**decode(encode(GOOD)), "event_type": kind, "event_data": data, **wrong})
    except EventError:
        return
    assert event is None or isinstance(event, Event)


def test_each_built_in_event_comes_out_as_it_went_in() -> None:
    for event in sample_events():
        there = _over_the_wire(_stamped(event))
        assert there == event
        assert there is not None
        assert _envelope(there) == _envelope(event)


def test_a_plugins_own_event_comes_out_as_it_went_in() -> None:
    event = _stamped(PluginEvent(event_type="p:x", data={"a": [1, {"b": None}]}, parent_id="s1:40"))
    there = _over_the_wire(event)
    assert there == event
    assert there is not None
    assert _envelope(there) == _envelope(event)


def test_a_type_that_only_a_newer_host_has_is_passed_over() -> None:
    assert event_from_params({**decode(encode(GOOD)), "event_type": "BRAND_NEW"}) is None


def test_a_field_that_only_a_newer_host_has_is_kept() -> None:
    params = decode(encode(GOOD))
    params["event_data"]["brandNew"] = [1]
    params["brand_new"] = 1
    event = event_from_params(params)
    assert event is not None
    assert event.extra == {"brandNew": (1,)}


def test_the_first_three_fields_are_code_allys_and_optional_ones_are_left_out() -> None:
    event = ToolCallEnd(tool_name="bash", success=False, error="no")
    stamp(event, 1, 1699999999999, "s", (), None)
    params = decode(event_lines([encoded(event)]))["params"]
    assert list(params)[:3] == ["event_type", "event_data", "timestamp"]
    assert params["event_data"] == {
        "toolName": "bash", "success": False, "denied": False, "result": {}, "error": "no",
    }  # fmt: skip
    assert set(params) == {"event_type", "event_data", "timestamp", "id", "seq", "session_id", "origin"}


def test_the_parent_of_a_compaction_stands_in_its_data_too() -> None:
    event = _stamped(CompactionStart(parent_id="s1:3"))
    params = decode(event_lines([encoded(event)]))["params"]
    assert params["event_data"] == {"parentId": "s1:3"}
    assert params["parent_id"] == "s1:3"
    assert _over_the_wire(event) == event


def test_lists_within_an_event_come_out_as_what_cannot_change() -> None:
    there = _over_the_wire(_stamped(EventsDropped(plugin_name="p", count=3, ranges=((1, 2), (4, 4)))))
    assert isinstance(there, EventsDropped)
    assert there.ranges == ((1, 2), (4, 4))
    asked = _over_the_wire(_stamped(PermissionRequest(request_id="r", tool_name="t", options=({"id": "y"},))))
    assert isinstance(asked, PermissionRequest)
    with pytest.raises(TypeError):
        asked.options[0]["id"] = "n"


def test_a_durable_event_carries_its_offset() -> None:
    line = event_lines([with_offset(encoded(_stamped(ToolCallEnd())), "17.3")])
    assert decode(line)["params"] == {**decode(encoded(_stamped(ToolCallEnd()))), "offset": "17.3"}


@pytest.mark.parametrize("text", [b'{"event_type":"A"}\n{"id":1}', b'{"event_type":"A"} ', b"[]", b""])
def test_a_text_that_would_not_stay_one_object_on_one_line_gets_no_offset(text: bytes) -> None:
    with pytest.raises(EncodeError, match="is not one JSON object on one line"):
        with_offset(text, "17.3")


def test_each_line_is_one_line_whatever_an_event_holds() -> None:
    event = _stamped(ToolCallEnd(tool_name="a\nb\r\u2028", output="\ud800", result={"n": 2**70}))
    line = event_lines([encoded(event)])
    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")
    assert decode(line)["params"]["event_data"]["result"] == {"n": str(2**70)}
