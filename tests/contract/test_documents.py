"""A document is read to its end: every mistake is told at once, nothing is coerced, and what is right is kept."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.documents import (
    ARGUMENTS,
    FILLED,
    LINE,
    LINES,
    LONGEST_TEXT,
    Document,
    checked,
    choices,
    count,
    line,
    lines,
    named_tables,
    table,
)
from ally_plugins.contract.shapes import FLAG, SECONDS, one_of
from ally_plugins.contract.tables import keys
from ally_plugins.contract.values.frozen import FrozenDict

DOCUMENT = keys(
    ("name",),
    name=FILLED,
    about=LINE,
    tags=LINES,
    few=lines(at_least_one=True),
    command=ARGUMENTS,
    is_on=FLAG,
    seconds=SECONDS,
    tries=count(1),
    mode=one_of("warn", "deny"),
    parts=choices("todos", "focus"),
    inner=table("a table such as { is_on = true }", is_on=FLAG),
    settings=named_tables(table("a table", ("type",), type=LINE), str.isidentifier, "letters and digits"),
    secret=line(lambda text: None if text.isupper() else "expected capital letters", is_shown=False),
)


def read(written: dict[str, Any]) -> tuple[Any, list[str]]:
    document = Document()
    return DOCUMENT.read({"name": "x", **written}, "", document), document.problems


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({"name": " "}, "name: found ' ', expected a text that is not empty"),
        ({"name": None}, "name: missing, expected a text"),
        ({"about": 3}, "about: found 3, expected a text"),
        ({"about": True}, "about: found true, expected a text"),
        ({"about": "x" * (LONGEST_TEXT + 1)}, "about: has 1001 characters, expected at most 1000"),
        ({"about": "\x1b[2J"}, "about: found '\\x1b[2J', expected one line without control characters"),
        ({"about": "a\u202eb"}, "about: found 'a\\u202eb', expected one line without control characters"),
        ({"tags": "a"}, "tags: found 'a', expected a list of texts"),
        ({"tags": {}}, "tags: found a table, expected a list of texts"),
        ({"tags": ["a", ""]}, "tags[1]: found '', expected a text that is not empty"),
        ({"few": []}, "few: is empty, expected at least one"),
        ({"command": []}, "command: is empty, expected at least one"),
        ({"command": ["a", 1]}, "command[1]: found 1, expected a text"),
        ({"is_on": "no"}, "is_on: found 'no', expected true or false"),
        ({"is_on": 1}, "is_on: found 1, expected true or false"),
        ({"is_on": 0.0}, "is_on: found 0.0, expected true or false"),
        ({"seconds": True}, "seconds: found true, expected a number above 0"),
        ({"seconds": 0}, "seconds: found 0, expected a number above 0"),
        ({"seconds": float("nan")}, "seconds: found nan, expected a number above 0"),
        ({"seconds": float("inf")}, "seconds: found inf, expected a number above 0"),
        ({"seconds": "5"}, "seconds: found '5', expected a number above 0"),
        ({"tries": 0}, "tries: found 0, expected a whole number from 1"),
        ({"tries": True}, "tries: found true, expected a whole number from 1"),
        ({"tries": 1.0}, "tries: found 1.0, expected a whole number from 1"),
        ({"tries": 2**63}, "tries: found a very large integer, expected a whole number from 1"),
        ({"tries": 10**5000}, "tries: found a very large integer, expected a whole number from 1"),
        ({"mode": "wran"}, "mode: found 'wran', did you mean 'warn'?"),
        ({"mode": ["warn"]}, "mode: found a list, expected one of warn, deny"),
        ({"parts": ["todo"]}, "parts: found 'todo', did you mean 'todos'?"),
        ({"inner": [["is_on", True]]}, "inner: found a list, expected a table such as { is_on = true }"),
        ({"inner": {"is_off": True}}, "inner.is_off: unknown key, did you mean 'is_on'?"),
        ({"settings": {"1x": {"type": "a"}}}, "settings: found the name '1x', expected letters and digits"),
        ({"settings": {"x": 3}}, "settings.x: found 3, expected a table"),
        ({"settings": {"x": {}}}, "settings.x.type: missing, expected a text"),
        ({"nmae": 1}, "nmae: unknown key, did you mean 'name'?"),
        ({"\x1b[2J": 1}, "the top level: '\\x1b[2J': unknown key, "),
    ],
)
def test_a_mistake_is_told_with_its_path_what_was_found_and_what_was_expected(
    written: dict[str, Any], problem: str
) -> None:
    _, problems = read(written)
    assert len(problems) == 1
    assert problems[0].startswith(problem)
    assert problems[0].isprintable()


def test_a_key_that_is_needed_is_missed() -> None:
    document = Document()
    assert DOCUMENT.read({"about": "a"}, "", document) == {"about": "a"}
    assert document.problems == ["name: missing, expected a text"]


@pytest.mark.parametrize("secret", ["hunter2", "HUNTER2\x1b", "hunter2\n", "hunter2" * 200])
def test_what_may_be_a_secret_is_not_shown(secret: str) -> None:
    _, problems = read({"secret": secret})
    assert len(problems) == 1
    assert "unter2" not in problems[0].lower()


def test_what_is_right_is_kept_beside_what_is_wrong() -> None:
    found, problems = read(
        {"tags": ["a", 3, "b", "a"], "parts": ["focus", "x"], "tries": "1", "inner": {"is_on": True}}
    )
    assert found == {"name": "x", "tags": ("a", "b"), "parts": ("focus",), "inner": {"is_on": True}}
    assert len(problems) == 3


def test_keys_that_contradict_each_other_are_told_beside_other_mistakes() -> None:
    both = checked(
        table("a table", a=FLAG, b=FLAG, c=FLAG),
        lambda given, written: [("a", f"and b, of {len(written)}")] if given.get("a") and given.get("b") else (),
    )
    document = Document()
    assert both.read({"a": True, "b": True, "c": 1}, "x", document) == {"a": True, "b": True}
    assert document.problems == ["x.c: found 1, expected true or false", "x.a: and b, of 3"]


class Mode(StrEnum):
    WARN = "warn"


class MixedMode(str, Enum):  # noqa: UP042 - its `str()` is another one
    WARN = "warn"


@pytest.mark.parametrize("mode", [Mode.WARN, MixedMode.WARN], ids=["StrEnum", "str and Enum"])
def test_a_document_given_by_code_may_have_tuples_frozen_dicts_and_words_of_an_enum(mode: str) -> None:
    found, problems = read({"tags": ("a",), "mode": mode, "inner": FrozenDict({"is_on": True})})
    assert problems == []
    assert found == {"name": "x", "tags": ("a",), "mode": "warn", "inner": {"is_on": True}}
    assert type(found["mode"]) is str


def test_words_of_a_command_keep_their_order_and_may_be_empty_or_repeated() -> None:
    found, problems = read({"command": ["x", "-r", "a", "-r", ""]})
    assert (found["command"], problems) == (("x", "-r", "a", "-r", ""), [])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from([each.key for each in DOCUMENT.keys]) | st.text(max_size=8), values, max_size=8))
def test_any_table_is_read_to_its_end_and_no_mistake_breaks_a_line(written: dict[str, Any]) -> None:
    found, problems = read(written)
    assert set(found) <= {each.key for each in DOCUMENT.keys}
    assert all(problem.isprintable() for problem in problems)
