"""What a daemon reads of `initialize`: strictly what it uses, and nothing of what it does not know."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.values.errors import ValidationRefused
from ally_plugins.daemon.init_params import DEADLINES, Initialization

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KEYS = [
    "plugin",
    "protocol",
    "protocols",
    "capabilities",
    "settings",
    "secrets",
    "data_dir",
    "deadlines",
    "limits",
]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"plugin": 3}, "plugin is the number 3; expected a string"),
        ({"plugin": None}, "plugin is null; expected a string"),
        ({"settings": []}, "settings is a list; expected an object"),
        ({"settings": "hunter2"}, "settings is a string of 7 characters; expected an object"),
        ({"secrets": ["a", 7]}, "secrets[1] is the number 7; expected a string"),
        ({"secrets": "key"}, "secrets is a string of 3 characters; expected a list"),
        ({"capabilities": {}}, "capabilities is an object; expected a list"),
        ({"protocols": [1]}, "protocols[0] is the number 1; expected a string"),
        ({"deadlines": {"gate": "soon"}}, "deadlines.gate is a string of 4 characters; expected a number above 0"),
        ({"deadlines": {"gate": 0}}, "deadlines.gate is the number 0; expected a number above 0"),
        ({"deadlines": {"gate": True}}, "deadlines.gate is true; expected a number above 0"),
        ({"deadlines": {"gate": float("inf")}}, "deadlines.gate is the number inf; expected a number above 0"),
        ({"deadlines": {"gate": None}}, "deadlines.gate is null; expected a number above 0"),
        ({"data_dir": 1}, "data_dir is the number 1; expected a string"),
        ({"limits": 5}, "limits is the number 5; expected an object"),
    ],
)
def test_a_wrong_field_is_refused_with_its_path_and_without_its_text(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationRefused) as caught:
        Initialization.read({"plugin": "p", "protocols": ["1"], **wrong})
    assert str(caught.value) == f"initialize: {text}"


def test_without_a_name_there_is_no_plugin() -> None:
    with pytest.raises(ValidationRefused, match=r"^initialize: plugin is missing; expected a string$"):
        Initialization.read({"protocols": ["1"]})


def test_what_is_null_or_unknown_counts_as_absent() -> None:
    absent = dict.fromkeys(KEYS[1:])
    read = Initialization.read({"plugin": "p", **absent, "mood": 1, "limits": {"frame_bytes": "many", "mood": 1}})
    assert read == Initialization("p", protocols=("",))
    assert read.deadlines == DEADLINES


@given(json_values | st.dictionaries(st.sampled_from(KEYS), json_values))
def test_garbage_is_read_or_refused_and_nothing_else(params: Any) -> None:
    with suppress(ValidationRefused):
        assert Initialization.read(params).plugin == params["plugin"]
