"""Every event type says in JSON what Code-Ally's plugins read, and comes back the same."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins import CODE_ALLY_TYPES, EVENT_TYPES, Event, PluginEvent
from ally_plugins.contract.values import events
from ally_plugins.contract.values.codec import ascii_json, decode, encode, encoded
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.event_types import EVENT_NAMES
from ally_plugins.contract.values.eventjson import camel, event_data, event_from_params, event_params

NUMBERS = st.integers(-(2**53), 2**53)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "str": TEXT,
    "bool": st.booleans(),
    "int": NUMBERS,
    "float": st.floats(allow_nan=False, allow_infinity=False) | NUMBERS.map(float),
    "FrozenDict": st.dictionaries(TEXT, JSON, max_size=3),
    "tuple[Any, ...]": st.lists(JSON, max_size=3),
    "tuple[str, ...]": st.lists(TEXT, max_size=3),
    "tuple[tuple[int, int], ...]": st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3),
    "Any": JSON,
}
STAMPED = {"seq", "timestamp", "session_id", "origin"}


def kinds(cls: type[Event]) -> dict[str, str]:
    """Return the annotation of each field that an emitter gives; attrs keeps resolved ones once they were asked for."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= vars(base).get("__annotations__", {})
    return {a.name: found[a.name] for a in attrs.fields(cls) if a.name not in STAMPED | {"extra"}}


def strategy_of(kind: str) -> st.SearchStrategy[Any]:
    whole, _, none = kind.partition(" | ")
    found = BY_TYPE[whole]
    return found | st.none() if none == "None" else found


@st.composite
def any_event(draw: st.DrawFn) -> Event:
    cls = EVENT_TYPES[draw(st.sampled_from(sorted(EVENT_TYPES)))]
    values = {name: draw(strategy_of(kind)) for name, kind in kinds(cls).items()}
    return cls(**values)


def read(event_type: Any, data: Any, **envelope: Any) -> Event | None:
    """Return the event that JSON with these data says."""
    params = {"event_type": event_type, "event_data": data, "seq": 3, "timestamp": 5, "session_id": "s1", **envelope}
    return event_from_params(decode(encode(params)))


@pytest.mark.slow
@given(any_event())
def test_every_event_comes_back_from_its_json_as_it_was(event: Event) -> None:
    assert event_from_params(decode(encode(event_params(event)))) == event


@pytest.mark.slow
@given(any_event(), st.dictionaries(TEXT.map(lambda text: f"x{text}"), JSON, min_size=1, max_size=3))
def test_fields_of_a_newer_version_are_kept_and_written_again(event: Event, more: dict[str, Any]) -> None:
    data = {**decode(encode(event_data(event))), **more}
    back = read(event.type, data)
    assert back is not None
    assert decode(encode(event_data(back))) == data


@given(st.sampled_from(sorted(EVENT_TYPES)), st.dictionaries(TEXT, JSON, max_size=4), st.data())
def test_garbage_is_an_event_or_an_event_error_and_nothing_else(
    event_type: str, data: dict[str, Any], drawn: st.DataObject
) -> None:
    names = [camel(a.name) for a in attrs.fields(EVENT_TYPES[event_type])]
    data |= drawn.draw(st.dictionaries(st.sampled_from(names), JSON, max_size=4))
    try:
        event = read(event_type, data)
    except EventError:
        return
    assert event is not None
    assert event.type == event_type


def test_an_event_that_was_emitted_keeps_its_json_and_one_that_was_not_does_not() -> None:
    event = events.ToolCallEnd(tool_name="bash")
    assert decode(encoded(event))["id"] == ":0"
    events.stamp(event, 7, 5, "s1", (), None)
    assert decode(encoded(event))["id"] == "s1:7"
    assert encoded(event) is encoded(event)
    fresh = events.unstamped(event)
    assert decode(encoded(fresh))["id"] == ":0"


def test_what_is_kept_is_what_encoding_makes_of_the_event() -> None:
    event = events.ToolCallEnd(tool_name="bash", call_id="c1")
    events.stamp(event, 7, 5, "s1", ("p",), "t1")
    assert encoded(event) == encode(event) == encode(event_params(event))


# --- names, as code-ally-facts has them in section 4 ---

NAMES: dict[str, set[str]] = {
    "TOOL_CALL_START": {
        "toolName", "arguments", "visibleInChat", "isTransparent", "collapsed", "shouldCollapse", "hideOutput",
        "groupExecution", "toolCount", "tools",
    },
    "TOOL_CALL_END": {"toolName", "success", "result", "error", "output"},
    "AGENT_START": {"message", "isSpecializedAgent", "instanceId", "agentName", "taskPrompt", "model"},
    "AGENT_END": {
        "content", "interrupted", "interruptionCause", "isSpecializedAgent", "instanceId", "agentName", "result",
        "duration", "toolUseCount", "contextUsage",
    },
    "PERMISSION_REQUEST": {"requestId", "toolName", "path", "command", "arguments", "sensitivity", "options"},
    "PERMISSION_RESPONSE": {"requestId", "choice"},
    "COMPACTION_START": {"parentId"},
    "COMPACTION_COMPLETE": {
        "oldContextUsage", "newContextUsage", "threshold", "strategy", "degraded", "error", "errorMessage",
    },
    "CONTEXT_USAGE_UPDATE": {"contextUsage", "parentCallId"},
    "TODO_UPDATE": {"todos"},
    "THOUGHT_COMPLETE": {"thinking"},
    "DIFF_PREVIEW": {"toolName", "filePath", "oldContent", "newContent", "operationType", "editsCount"},
    "PLUGIN_MESSAGE_RECEIVED": {"pluginName", "message"},
    "PLUGIN_EVENT_EMITTED": {"pluginName", "type", "data"},
    "PLUGIN_ACTION_REQUESTED": {"pluginName", "action", "arguments", "requestedBy"},
}  # fmt: skip
OURS = {
    "TOOL_CALL_START": {"unshown", "commonName"},
    "TOOL_CALL_END": {"durationMs", "denied", "decisionId", "unshown", "commonName"},
    "PERMISSION_REQUEST": {"commonName"},
}
SAMPLES: dict[str, Any] = {
    "str": "x", "bool": True, "int": 3, "float": 2.5, "FrozenDict": {"a": 1}, "tuple[Any, ...]": [1], "Any": {"a": 1},
}  # fmt: skip


def full(event_type: str) -> Event:
    cls = EVENT_TYPES[event_type]
    return cls(**{name: SAMPLES[kind.partition(" | ")[0]] for name, kind in kinds(cls).items()})


def test_the_twelve_types_are_there() -> None:
    assert set(CODE_ALLY_TYPES) == set(NAMES) - {name for name in NAMES if name.startswith("PLUGIN_")}
    assert len(CODE_ALLY_TYPES) == 12


@pytest.mark.parametrize("event_type", sorted(NAMES))
def test_data_has_code_allys_names(event_type: str) -> None:
    assert set(event_data(full(event_type))) == NAMES[event_type] | OURS.get(event_type, set())


def test_the_envelope_has_its_names_and_stands_beside_the_data() -> None:
    params = event_params(full("THOUGHT_COMPLETE"))
    expected = {"id", "event_type", "seq", "timestamp", "session_id", "turn_id", "call_id", "agent_id", "parent_id"}
    assert set(params) == expected | {"origin", "event_data"}
    assert params["event_data"] == {"thinking": "x"}


def test_a_compaction_has_its_parent_in_its_data_as_code_ally_has() -> None:
    assert event_data(events.CompactionStart(parent_id="p1")) == {"parentId": "p1"}
    assert event_data(events.CompactionStart()) == {}
    back = read("COMPACTION_START", {"parentId": "p1"})
    assert back is not None
    assert back.parent_id == "p1"


def test_optional_fields_that_are_none_are_left_out_and_needed_ones_are_not() -> None:
    assert event_data(events.ToolCallEnd(tool_name="bash")) == {
        "toolName": "bash", "success": True, "denied": False, "result": {},
    }  # fmt: skip
    assert event_data(events.CompactionComplete(error=True, error_message="full")) == {
        "error": True, "errorMessage": "full",
    }  # fmt: skip


@pytest.mark.parametrize("event_type", ["", "NOPE", "tool_call_end", ":x", "p:", "p:a b", "P:x"])
def test_an_unknown_type_is_no_event(event_type: str) -> None:
    assert read(event_type, {}) is None


@pytest.mark.parametrize("data", [None, [], "text", 5])
def test_data_that_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(EventError, match="expected an object"):
        read("TOOL_CALL_END", data)


def test_a_plugins_own_event_keeps_its_data_whatever_names_it_has() -> None:
    event = read("loop-guard:found", {"type": "x", "seq": 5, "tool_name": "y"})
    assert isinstance(event, PluginEvent)
    assert event.type == "loop-guard:found"
    assert event_data(event) == {"type": "x", "seq": 5, "tool_name": "y"}
    assert event.seq == 3


def test_an_events_data_and_envelope_cannot_be_set() -> None:
    event = events.ToolCallStart(tool_name="bash", arguments={"a": [1]})
    for name in ("tool_name", "arguments", "seq", "session_id", "origin", "call_id"):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(event, name, "x")
    with pytest.raises(TypeError):
        event.arguments["a"] = 2
    assert event.arguments["a"] == (1,)


@given(JSON)
def test_json_in_ascii_has_the_same_values_and_nothing_that_a_terminal_acts_on(value: Any) -> None:
    plain = encode(value)
    shown = ascii_json(plain)
    assert shown.decode("ascii").isprintable()
    assert decode(shown) == decode(plain)
    assert ascii_json(b'["a b"]\n') == b'["a b"]\n'


def test_the_names_of_events_are_those_of_their_classes() -> None:
    assert list(EVENT_NAMES) == list(EVENT_TYPES)
