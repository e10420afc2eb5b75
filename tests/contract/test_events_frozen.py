"""What events carry cannot be changed, and holds only what JSON can say."""

from __future__ import annotations

import copy
import json
import math
import pickle
from enum import Enum, IntEnum, StrEnum
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins import FrozenDict, ToolCallStart
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.frozen import EMPTY, MAX_DEPTH, freeze, freeze_mapping

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def thawed(value: Any) -> Any:
    if isinstance(value, FrozenDict):
        return {key: thawed(item) for key, item in value.items()}
    return [thawed(item) for item in value] if isinstance(value, tuple) else value


CHANGES = {
    "set": lambda d: d.__setitem__("a", 2),
    "delete": lambda d: d.__delitem__("a"),
    "clear": lambda d: d.clear(),
    "pop": lambda d: d.pop("a"),
    "popitem": lambda d: d.popitem(),
    "setdefault": lambda d: d.setdefault("z", 1),
    "update": lambda d: d.update({"z": 1}),
    "update by keywords": lambda d: d.update(z=1),
    "or": lambda d: d.__ior__({"z": 1}),
    "attribute": lambda d: setattr(d, "z", 1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_frozen_mapping_refuses_every_change(change: Any) -> None:
    value = FrozenDict({"a": 1})
    with pytest.raises((TypeError, AttributeError)):
        change(value)
    assert value == {"a": 1}


def test_an_augmented_or_does_not_change_it_for_others() -> None:
    value = event_arguments = ToolCallStart(arguments={"a": 1}).arguments
    with pytest.raises(TypeError):
        value |= {"z": 1}
    assert event_arguments == {"a": 1}


def test_being_initialised_again_changes_nothing() -> None:
    value = FrozenDict({"a": 1})
    value.__init__({"z": 1})  # type: ignore[misc]
    assert value == {"a": 1}


def test_whoever_makes_one_freezes_all_that_is_in_it() -> None:
    inner = ["x", {"y": [1]}]
    value = FrozenDict({"a": inner}, b=inner)
    inner.append("later")
    assert value == {"a": ("x", {"y": (1,)}), "b": ("x", {"y": (1,)})}
    with pytest.raises(EventError, match="a is set"):
        FrozenDict({"a": {1}})
    with pytest.raises(EventError, match=r"a\[0\] is nan"):
        FrozenDict({"a": [math.nan]})


def test_copies_that_may_change_are_made_on_purpose() -> None:
    value = freeze({"a": {"b": [1]}})
    assert copy.copy(value) is value
    assert copy.deepcopy(value) is value
    for mutable in (dict(value), value.copy(), value | {}):
        assert type(mutable) is dict
        mutable["z"] = 1
    assert value == {"a": {"b": (1,)}}


@given(JSON)
def test_freezing_keeps_the_value_and_every_way_of_writing_it(value: Any) -> None:
    frozen = freeze(value)
    assert thawed(frozen) == value
    assert freeze(frozen) == frozen
    assert pickle.loads(pickle.dumps(frozen)) == frozen  # noqa: S301 - our own
    assert json.loads(json.dumps(frozen)) == value


@given(JSON)
def test_encoding_never_fails_on_what_was_frozen(value: Any) -> None:
    text = encode(freeze(value))
    orjson.loads(text)


class Colour(StrEnum):
    RED = "red"


class OldColour(str, Enum):  # noqa: UP042 - what others still write
    RED = "red"


class Number(IntEnum):
    ONE = 1


class Celsius(float):
    pass


def test_members_of_enums_become_plain_values_as_keys_too() -> None:
    value = freeze({Colour.RED: OldColour.RED, "n": Number.ONE, "t": Celsius(1.5), OldColour.RED: Colour.RED})
    assert value == {"red": "red", "n": 1, "t": 1.5}
    assert {type(key) for key in value} == {str}
    assert [type(item) for item in value.values()] == [str, int, float]
    assert encode(value) == b'{"red":"red","n":1,"t":1.5}'


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": math.nan}, "a"),
        ({"a": [1, math.inf]}, "a[1]"),
        ({"a": {"b": -math.inf}}, "a.b"),
        ({"a": object()}, "a"),
        ({"a": b"bytes"}, "a"),
        ({"a": {1, 2}}, "a"),
        ({"a": {1: 2}}, "a"),
        ({None: 1}, ""),
        ({"a": 1j}, "a"),
        ({"a": [lambda: None]}, "a[0]"),
    ],
)
def test_what_json_cannot_say_is_refused_with_its_path(value: Any, path: str) -> None:
    with pytest.raises(EventError) as caught:
        freeze(value)
    assert caught.value.path == path
    assert path in str(caught.value)


def test_depth_has_a_limit_and_a_list_within_itself_has_an_end() -> None:
    value: Any = []
    for _ in range(MAX_DEPTH):
        value = [value]
    freeze(value)
    with pytest.raises(EventError, match="nested deeper"):
        freeze([value])
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(EventError, match="nested deeper"):
        freeze(endless)


@pytest.mark.parametrize("value", [[1], "text", 5, ("a", 1)])
def test_what_is_no_mapping_is_no_mapping(value: Any) -> None:
    with pytest.raises(EventError, match="expected a mapping"):
        freeze_mapping(value)


def test_nothing_is_the_one_empty_mapping() -> None:
    assert freeze_mapping(None) is freeze_mapping({}) is EMPTY
