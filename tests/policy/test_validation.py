"""What a plugin says is checked before it reaches anybody, and a refusal says what to change."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.values.errors import HopLimitRefused, ValidationRefused
from ally_plugins.contract.values.events import EVENT_TYPES
from ally_plugins.contract.values.frozen import freeze
from ally_plugins.policy.validation import (
    check_deliver_as,
    check_event_data,
    check_event_type,
    check_key,
    check_name,
    check_role,
    check_text,
    extend_chain,
    find_text_problem,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Colour(StrEnum):
    USER = "user"


class Liar(str):
    """A string that says of itself what suits it."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def encode(self, *_: object) -> bytes:
        return b"harmless"


class TwoFaced(dict[str, Any]):
    """A dict that shows one thing to whoever asks it, and holds another."""

    def items(self) -> Any:
        raise RuntimeError

    def __iter__(self) -> Any:
        return iter(())


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(object()),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner) | st.sets(st.integers())
    ),
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=20,
)


def find_refusal(check: Callable[[object], object], value: object) -> ValidationRefused | None:
    try:
        check(value)
    except ValidationRefused as refused:
        return refused
    return None


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_the_three_roles_are_accepted(role: str) -> None:
    assert check_role(role) == role


@pytest.mark.parametrize(
    "role", ["tool", "User", "", None, 1, b"bytes", pytest.param(Colour.USER, id="enum"), Liar("root"), ["user"]]
)
def test_any_other_role_is_refused_with_the_list_of_roles(role: object) -> None:
    with pytest.raises(ValidationRefused, match="expected one of 'user', 'assistant', 'system'") as caught:
        check_role(role)
    assert caught.value.field == "role"


def test_the_three_moments_of_delivery_are_accepted_and_nothing_else() -> None:
    assert [check_deliver_as(one) for one in ("steer", "follow_up", "next_turn")] == ["steer", "follow_up", "next_turn"]
    with pytest.raises(ValidationRefused, match="deliver_as is 'now'; expected one of 'steer'"):
        check_deliver_as("now")


def test_a_text_with_newlines_tabs_and_every_script_is_accepted_and_measured_in_bytes() -> None:
    text = "try\tagain:\nżółw, 你好, 🙂 ° «»"
    assert check_text(text) == len(text.encode())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        (None, "is None; expected a string"),
        (b"bytes", "is of the type bytes"),
        (Liar("\0"), "expected a plain string"),
        ("a\x00b", r"U\+0000 at 1"),
        ("line\r\n", r"U\+000D at 4"),
        ("\x1b[31mred", r"U\+001B at 0"),
        ("\x7f", r"U\+007F at 0"),
        ("é\x85", r"U\+0085 at 1"),
        ("\x9b31m", r"U\+009B at 0"),
        ("ok \ud800", "lone surrogate at 3"),
        ("x" * 65_537, "has 65537 bytes of UTF-8; expected 65536 at most"),
        ("é" * 32_769, "has 65538 bytes"),
    ],
)
def test_a_bad_text_is_refused_and_the_reason_names_what_and_where(text: object, problem: str) -> None:
    with pytest.raises(ValidationRefused, match=problem) as caught:
        check_text(text)
    assert caught.value.field == "content"


def test_a_text_of_exactly_the_limit_is_accepted() -> None:
    assert check_text("é" * 32_768) == 65_536


def test_a_refused_text_is_never_repeated_in_the_reason() -> None:
    with pytest.raises(ValidationRefused) as caught:
        check_text("sk-very-secret\0")
    assert "secret" not in str(caught.value)


@given(st.text(st.characters()))
def test_a_text_is_accepted_exactly_when_no_character_is_a_control_or_a_surrogate(text: str) -> None:
    is_clean = bool(text) and all(c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cs"} for c in text)
    assert (find_text_problem(text) is None) == is_clean
    if is_clean:
        assert check_text(text) == len(text.encode())
    else:
        with pytest.raises(ValidationRefused):
            check_text(text)


@given(anything)
def test_no_value_makes_a_check_raise_anything_but_a_refusal(value: object) -> None:
    for check in (check_role, check_text, check_key, check_name, check_deliver_as, check_event_data):
        refusal = find_refusal(check, value)
        assert refusal is None or (refusal.field and len(str(refusal)) < 1_000)
    refusal = find_refusal(lambda one: check_event_type("plug", one), value)
    assert refusal is None or refusal.field == "type"


@pytest.mark.parametrize("key", ["a", "turn-7:warn", "x" * 256, "two words"])
def test_a_key_of_printable_ascii_is_accepted(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize("key", ["", " a", "a ", "a\n", "é", "x" * 257, None, 7, "a\0"])
def test_any_other_key_is_refused(key: object) -> None:
    with pytest.raises(ValidationRefused, match="expected"):
        check_key(key)


@pytest.mark.parametrize("name", ["", "a b", "a.b", "x" * 65, "naïve", None, "a\n"])
def test_a_name_that_model_providers_would_not_take_is_refused(name: object) -> None:
    with pytest.raises(ValidationRefused, match="action"):
        check_name(name, "action")


def test_the_short_type_of_an_event_becomes_the_full_one_and_the_full_one_stays() -> None:
    assert check_event_type("loop-guard", "loop_found") == "loop-guard:loop_found"
    assert check_event_type("loop-guard", "loop-guard:loop_found") == "loop-guard:loop_found"


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_a_plugin_cannot_emit_a_type_of_the_host(name: str) -> None:
    for event_type in (name, f"p:{name}"):
        with pytest.raises(ValidationRefused, match="a type of the host"):
            check_event_type("p", event_type)


@pytest.mark.parametrize("event_type", ["q:x", ":x", "q:p:x", "P:x"])
def test_a_plugin_cannot_emit_under_another_name(event_type: str) -> None:
    with pytest.raises(ValidationRefused, match="only under its own name"):
        check_event_type("p", event_type)


@pytest.mark.parametrize("event_type", ["", "p:", "a b", "a\n", "x" * 65, "é", "*"])
def test_a_type_with_other_characters_is_refused(event_type: str) -> None:
    with pytest.raises(ValidationRefused, match="letters, digits"):
        check_event_type("p", event_type)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=4))
def test_data_that_json_can_say_comes_back_as_json(data: dict[str, Any]) -> None:
    assert orjson.loads(check_event_data(data)) == data
    assert check_event_data(freeze(data) if data else data) == check_event_data(data)


def test_data_in_a_defaultdict_and_tuples_is_accepted() -> None:
    data: defaultdict[str, tuple[int, ...]] = defaultdict(tuple, a=(1, 2))
    assert check_event_data(data) == b'{"a":[1,2]}'


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([1], "data is of the type list; expected a dict"),
        (None, "data is None"),
        ({"a": {"b": [1, float("nan")]}}, r"data\.a\.b\[1\] is nan"),
        ({"a": float("-inf")}, "data.a is -inf"),
        ({"a": {1: 2}}, r"data\.a has a key that is of the type int"),
        ({"a": {1, 2}}, "data.a is of the type set"),
        ({"a": Colour.USER}, "data.a is of the type Colour; expected a plain string"),
        ({"a": 2**70}, "64-bit"),
        ({"a": "\ud800"}, "surrogates"),
        ({"a": ["x"] * 10_001}, "more than 10000 values"),
        ({"a": "x" * 65_536}, "expected 65536 at most"),
    ],
)
def test_data_that_json_cannot_say_is_refused_with_its_path(data: object, problem: str) -> None:
    with pytest.raises(ValidationRefused, match=problem) as caught:
        check_event_data(data)
    assert caught.value.field == "data"


def test_data_that_contains_itself_is_refused() -> None:
    data: dict[str, Any] = {}
    data["self"] = [data]
    with pytest.raises(ValidationRefused, match="nested deeper than 32"):
        check_event_data(data)


def test_data_that_shares_its_parts_a_billion_times_is_refused_at_once() -> None:
    bomb: Any = "ha"
    for _ in range(30):
        bomb = [bomb] * 10
    with pytest.raises(ValidationRefused, match="10000 values"):
        check_event_data({"bomb": bomb})


def test_a_dict_that_lies_about_itself_is_read_for_what_it_holds() -> None:
    assert check_event_data(TwoFaced(a=1)) == b'{"a":1}'
    with pytest.raises(ValidationRefused, match=r"data\.a is of the type object"):
        check_event_data(TwoFaced(a=object()))


def test_a_chain_grows_by_the_plugin_that_acts_until_eight() -> None:
    chain: tuple[str, ...] = ()
    for turn in range(8):
        chain = extend_chain(chain, f"p{turn % 2}")
    assert len(chain) == 8
    with pytest.raises(HopLimitRefused, match=r"p0 → p1 .* would be 9 plugins") as caught:
        extend_chain(chain, "p0")
    assert caught.value.chain == (*chain, "p0")
