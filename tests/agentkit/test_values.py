"""What adapters share of messages and results: kept, woven, mended, and shown to plugins as the model reads them."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins import GateRefused, Message, ToolCall, ToolResult, evolve
from ally_plugins.adapters.kit.kept_messages import kept_data, kept_message, text_beside
from ally_plugins.adapters.kit.mending import mended_value, new_call_id
from ally_plugins.adapters.kit.weaving import shown, woven
from ally_plugins.contract.tools.recorded_calls import recorded_call, refuse_cut_calls
from ally_plugins.contract.tools.returned import changed_value, result_of_value, settled_value
from ally_plugins.contract.tools.schemas import thaw

PLUGINS = Message(role="user", content="try", id="p1", metadata={"sourcePlugin": "p", "n": [1, {"a": None}]})


# --- plugins' messages ---


def test_a_plugins_message_is_the_same_after_a_history_was_stored() -> None:
    assert kept_message(json.loads(json.dumps(kept_data(PLUGINS))), "[plugin p] try") == PLUGINS


@pytest.mark.parametrize(
    "change",
    [
        {"id": 1},
        {"metadata": ["p"]},
        {"content": None},
        {"content": "stop"},
        {"metadata": "x"},
        {"metadata": {"a": float("nan")}},
    ],
)
def test_what_somebody_has_edited_in_a_stored_history_is_no_plugins_message(change: dict[str, Any]) -> None:
    assert kept_message({**kept_data(PLUGINS), **change}, PLUGINS.text_for_model) is None


@pytest.mark.parametrize("text", ["try", "[plugin p] try\nand this", "", None])
def test_a_plugins_mark_on_another_text_makes_that_no_plugins(text: str | None) -> None:
    assert kept_message(kept_data(PLUGINS), text) is None


def test_a_mark_that_names_no_plugin_makes_a_text_nobodys_but_the_persons() -> None:
    assert kept_message({**kept_data(PLUGINS), "metadata": {}}, "try") is None


@pytest.mark.parametrize("kept", [None, "p1", [], 7, {}])
def test_what_is_no_message_at_all_is_none(kept: Any) -> None:
    assert kept_message(kept, "try") is None


def test_the_lines_that_describe_an_image_are_left_out_of_the_text_once_each() -> None:
    assert text_beside("see\n<image>\nhere\n<image>", ["<image>", "<gone>"]) == "see\nhere\n<image>"


# --- weaving ---


def item(number: int, role: Any = "user") -> tuple[str, Message]:
    return f"item {number}", Message(role=role, content=f"text {number}")


def test_messages_get_the_ids_that_they_get_again_and_plugins_keep_theirs() -> None:
    items = [("prompt", None), item(1), ("plugin's", PLUGINS), item(2)]
    assert [message.id for _, message in shown(items, "s") if message is not None] == ["s:m1", "p1", "s:m2"]
    assert list(shown(items, "s")) == list(shown(items, "s"))


def test_what_was_added_comes_behind_what_it_followed_and_first_of_all_behind_the_prompt() -> None:
    items = list(shown([("prompt", None), item(1), ("marker", None), item(2)], "s"))
    one, two = (message for _, message in items if message is not None)
    first, middle, last = (Message(role="user", content=text, id=text) for text in ("first", "middle", "last"))
    left = list(woven(items, [first, one, middle, evolve(two, content="changed"), last]))
    assert [place or now.id for place, _, now in left] == [
        "prompt",
        "first",
        "item 1",
        "middle",
        "marker",
        "item 2",
        "last",
    ]
    (changed,) = [now.content for _, before, now in left if before is not None and before.content != now.content]
    assert changed == "changed"


def test_what_plugins_left_out_is_gone_and_what_is_no_message_stays() -> None:
    items = list(shown([("prompt", None), item(1), item(2)], "s"))
    assert [place for place, _, _ in woven(items, [message for _, message in items[2:] if message])] == [
        "prompt",
        "item 2",
    ]
    added = Message(role="user", content="new", id="new")
    assert [place for place, _, _ in woven(items, [added])] == ["prompt", None]


@given(st.lists(st.sampled_from(["m", "-"]), max_size=8), st.data())
def test_nothing_is_lost_or_doubled_whatever_is_dropped_and_added(kinds: list[str], data: st.DataObject) -> None:
    items = list(shown([item(n) if kind == "m" else (f"item {n}", None) for n, kind in enumerate(kinds)], "s"))
    left = [message for _, message in items if message is not None and data.draw(st.booleans())]
    after: list[Message] = []
    for number, message in enumerate([*left, None]):
        count = data.draw(st.integers(0, 2))
        after += [Message(role="user", content="x", id=f"a{number}.{n}") for n in range(count)]
        after += [message] if message is not None else []
    made = list(woven(items, after))
    assert [now.id for _, _, now in made if now is not None] == [message.id for message in after]
    unshown = [f"item {n}" for n, kind in enumerate(kinds) if kind == "-"]
    assert [place for place, _, now in made if now is None] == unshown


@pytest.mark.parametrize("arguments", ['{"a": "%s"}', {"a": "%s"}])
def test_a_request_with_a_call_that_plugins_would_see_the_size_of_alone_is_refused(arguments: Any) -> None:
    text = "x" * 7_000_000
    large = arguments % text if isinstance(arguments, str) else {"a": text}
    with pytest.raises(GateRefused, match="a call of 'bash' in it is too large"):
        refuse_cut_calls([said(large)])
    refuse_cut_calls([said(arguments), said({}), said({"unshown": "7,000,000 characters"})])


def said(arguments: Any) -> Message:
    return Message(role="assistant", content="", tool_calls=(recorded_call("bash", arguments, "c1"),))


class Unprintable:
    """Raises when somebody wants to print it."""

    def __repr__(self) -> str:
        raise OSError


@pytest.mark.parametrize(
    ("arguments", "why"),
    [({"n": 10**5000}, "a dict that raises ValueError when it is printed"),
     ({"n": Unprintable()}, "a dict that raises OSError when it is printed")],
)  # fmt: skip
def test_a_call_that_nothing_can_print_is_in_the_history_all_the_same(arguments: Any, why: str) -> None:
    call = recorded_call("bash", arguments, "c1")
    assert call == ToolCall("bash", {"unshown": why}, "c1")
    refuse_cut_calls([said(arguments)])


def test_a_text_is_shown_as_it_is_sent_whatever_its_class_says_of_it() -> None:
    class Mild(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "harmless"

    result = ToolResult(success=False, output=Mild("SECRET"), error=Mild("SECRET"))
    assert (f"{result.output}", f"{result.error}") == ("SECRET", "SECRET")


# --- mending ---


def test_what_can_be_sent_is_the_same_object_and_what_cannot_is_mended_everywhere() -> None:
    fine: Any = {"a": ["b", ("c", {"d": 1})]}
    assert mended_value(fine) is fine
    mended = mended_value({"a\ud800": ["b\udfff", ("c", {"d": "\ud800"})]})
    json.dumps(mended, ensure_ascii=False).encode()  # it can be
    assert mended_value(iter(["a", "b"])) == ["a", "b"]


def test_each_call_of_a_response_gets_an_id_of_its_own() -> None:
    taken: set[str] = set()
    assert [new_call_id(call_id, taken) for call_id in ("c", "c", "c-2", "c")] == ["c", "c-2", "c-2-2", "c-3"]


# --- results ---


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    colour: Colour


@attrs.frozen
class Line:
    points: tuple[Point, ...]


@pytest.mark.parametrize(
    ("value", "output", "data"),
    [
        pytest.param("text", "text", None, id="text"),
        pytest.param(None, "", None, id="nothing"),
        pytest.param({"a": [1, True]}, '{"a": [1, true]}', {"a": [1, True]}, id="data"),
        pytest.param(Line((Point(1, Colour.RED),)), None, {"points": [{"x": 1, "colour": "red"}]}, id="classes"),
    ],
)
def test_a_value_is_shown_as_the_model_reads_it(value: Any, output: str | None, data: Any) -> None:
    result = result_of_value(value)
    assert (result.success, result.unshown, thaw(result.data)) == (True, None, data)
    assert result.output == output if output is not None else json.loads(result.output) == data


def test_media_are_shown_as_what_they_are() -> None:
    shown = json.loads(result_of_value({"image": b"\x89PNG"}).output)["image"]
    assert (shown["bytes"], len(shown["sha256"])) == (4, 64)


def _deep() -> Any:
    value: Any = []
    for _ in range(5_000):
        value = [value]
    return value


@pytest.mark.parametrize("value", [object(), float("nan"), 2**70, _deep(), {"a": float("inf")}, {1, object()}])
def test_what_cannot_be_shown_says_why_and_is_never_something_else(value: Any) -> None:
    result = result_of_value(value)
    assert result.unshown
    assert result.data is None


def test_a_settled_value_is_what_plugins_were_shown_whatever_becomes_of_the_object() -> None:
    point = Point(1, Colour.RED)
    settled = settled_value(point)
    point.x = 2
    assert settled == {"x": 1, "colour": "red"}
    unsayable = object()
    assert settled_value(unsayable) is unsayable


def test_changed_data_counts_and_without_its_data_the_text_does() -> None:
    before = ToolResult(success=True, output="{}", data={"a": 1})
    assert changed_value(before, evolve(before, data={"a": 2})) == {"a": 2}
    assert changed_value(before, evolve(before, output="other")) == "other"
    assert changed_value(before, evolve(before, output="other", data=None)) == "other"
