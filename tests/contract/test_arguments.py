"""Arguments are checked against the schema, every problem is named, and no value is ever repeated."""

from __future__ import annotations

import subprocess
import sys
from enum import Enum
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.tools.declared import make_spec
from ally_plugins.contract.values.errors import ArgumentsError, ToolCallError, ValidationRefused
from ally_plugins.contract.values.frozen import freeze
from ally_plugins.policy.arguments import MAX_PROBLEMS, ArgumentChecker


class Level(Enum):
    LOW = "low"
    HIGH = "high"


@attrs.frozen
class Point:
    x: int
    y: float = 0.0


def draw(
    at: Point, level: Level = Level.LOW, *, names: list[str] | None = None, size: tuple[int, int] | None = None
) -> None: ...


def take(**_: Any) -> None: ...


DERIVED = ArgumentChecker(make_spec("tool", draw), plugin="painter")


def checker_of(**schema: Any) -> ArgumentChecker:
    return ArgumentChecker(make_spec("tool", take, schema={"type": "object", **schema}), plugin="painter")


def problems_of(checker: ArgumentChecker, arguments: object) -> tuple[str, ...]:
    try:
        checker.check(arguments)
    except ArgumentsError as error:
        return error.problems
    return ()


def test_arguments_that_fit_pass_whether_frozen_or_not() -> None:
    arguments = {"at": {"x": 1, "y": 2}, "level": "high", "names": ["a"], "size": [1, 2]}
    DERIVED.check(arguments)
    DERIVED.check(freeze(arguments))


def test_every_problem_is_named_with_its_path_and_what_was_expected() -> None:
    arguments = {"at": {"x": "s3cret", "z": 1}, "level": "s3cret", "names": ["a", 5], "size": [1], "mode": "s3cret"}
    assert sorted(problems_of(DERIVED, arguments)) == [
        "arguments.at.x: expected integer, found string",
        "arguments.at: Additional properties are not allowed ('z' was unexpected)",
        "arguments.level: expected one of ['low', 'high']",
        "arguments.names[1]: expected string, found number",
        "arguments.size: does not fit minItems 2",
        "arguments: Additional properties are not allowed ('mode' was unexpected)",
    ]


def test_the_error_names_tool_and_plugin_and_repeats_no_value() -> None:
    with pytest.raises(ArgumentsError, match="arguments of 'draw' are wrong: ") as caught:
        DERIVED.check({"at": "s3cret", "names": "s3cret"})
    assert (caught.value.tool, caught.value.plugin) == ("draw", "painter")
    assert "s3cret" not in str(caught.value)
    assert "arguments.names: expected array or null, found string" in caught.value.problems


@pytest.mark.parametrize("keyword", ["minLength", "pattern", "const", "not", "maxLength", "format"])
def test_no_keyword_repeats_a_value(keyword: str) -> None:
    asked = {"minLength": 99, "pattern": "^x", "const": "y", "not": {}, "maxLength": 1, "format": "date"}[keyword]
    (problem,) = problems_of(checker_of(properties={"a": {keyword: asked}}), {"a": "s3cret"}) or ("s",)
    assert "s3cret" not in problem


@pytest.mark.parametrize("arguments", [None, [], "x", 3, [("at", 1)]], ids=repr)
def test_arguments_that_are_no_object_are_an_error(arguments: object) -> None:
    (problem,) = problems_of(DERIVED, arguments)
    assert problem.startswith("arguments: expected object, found ")


def test_true_is_no_integer() -> None:
    assert problems_of(DERIVED, {"at": {"x": True}}) == ("arguments.at.x: expected integer, found boolean",)


def test_alternatives_of_one_type_are_told_by_their_number() -> None:
    checker = checker_of(properties={"a": {"oneOf": [{"minimum": 1}, {"maximum": 5}]}})
    assert problems_of(checker, {"a": 3}) == ("arguments.a: fits more than one of 2 alternatives",)
    checker = checker_of(properties={"a": {"anyOf": [{"minimum": 9}, {"maximum": 1}]}})
    assert problems_of(checker, {"a": 3}) == ("arguments.a: fits none of 2 alternatives",)


def test_thousands_of_problems_are_cut_short() -> None:
    checker = checker_of(properties={"a": {"type": "array", "items": {"type": "integer"}}})
    assert len(problems_of(checker, {"a": ["x"] * 5_000})) == MAX_PROBLEMS


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"properties": {"a": {"type": "strin"}}}, r"schema\['properties'\]\['a'\]\['type'\] is wrong"),
        ({"properties": {"a": 3}}, "is wrong"),
        ({"properties": {"a": {"minimum": "1"}}}, "is wrong"),
        ({"$schema": "https://example.com/mine"}, "leave it out"),
        ({"$schema": 3}, "leave it out"),
        ({"$ref": "https://example.com/x.json"}, "since nothing is fetched"),
        ({"properties": {"a": {"items": [{"$ref": "file:///etc/passwd"}]}}}, "since nothing is fetched"),
        ({"properties": {"a": {"$dynamicRef": "other#x"}}}, "since nothing is fetched"),
        ({"$ref": "#/$defs/nowhere"}, "which is not there"),
        ({"anyOf": [{}, {}], "$ref": "#/anyOf/2"}, "which is not there"),
        ({"anyOf": [{}, {}], "$ref": f"#/anyOf/{'1' * 5_000}"}, "which is not there"),
        ({"properties": {"a": {"pattern": "(a+)+$"}}}, "may take for ever"),
        ({"patternProperties": {"(a+)+$": {}}}, "may take for ever"),
        ({"properties": {"a": {"pattern": "(a"}}}, "is not a regular expression"),
        ({"description": "x" * 70_000}, "expected 65536 at most"),
        ({"enum": [[]] * 10_001}, "more than 10000 values"),
    ],
)
def test_a_schema_that_is_not_to_be_trusted_is_refused_when_it_is_registered(
    schema: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValidationRefused, match=problem) as caught:
        checker_of(**schema)
    assert (caught.value.plugin, caught.value.field) == ("painter", "schema")
    assert str(caught.value).startswith("'take': ")


def test_a_schema_that_is_nested_too_deep_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(33):
        schema = {"items": schema}
    with pytest.raises(ValidationRefused, match="nested deeper than 32"):
        checker_of(properties={"a": schema})


def test_what_only_looks_like_a_reference_or_a_pattern_is_data() -> None:
    checker = checker_of(
        properties={"a": {"enum": [{"$ref": "https://example.com"}]}, "$ref": {"type": "string"}, "pattern": {}}
    )
    assert problems_of(checker, {"a": {"$ref": "https://example.com"}, "$ref": "x", "pattern": 1}) == ()


def test_references_within_the_schema_are_followed() -> None:
    checker = checker_of(
        properties={"a": {"$ref": "#/$defs/odd~1name"}}, **{"$defs": {"odd/name": {"type": "integer"}}}
    )
    assert problems_of(checker, {"a": "x"}) == ("arguments.a: expected integer, found string",)


def test_a_schema_of_an_older_draft_is_read_as_what_it_says_it_is() -> None:
    checker = checker_of(
        properties={"a": {"items": [{"type": "integer"}]}}, **{"$schema": "http://json-schema.org/draft-07/schema#"}
    )
    assert problems_of(checker, {"a": ["x"]}) == ("arguments.a[0]: expected integer, found string",)


@pytest.mark.parametrize("reference", ["#/properties/a", "#nowhere"])
def test_a_reference_without_end_or_target_fails_the_call_and_not_the_host(reference: str) -> None:
    checker = checker_of(properties={"a": {"$ref": reference}})
    with pytest.raises(ToolCallError, match=r"cannot be followed .*its author must mend it"):
        checker.check({"a": 1})


@pytest.mark.slow
def test_jsonschema_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, ally_plugins.policy.arguments as a, ally_plugins.contract.tools.declared as t\n"
        "def f(x: int) -> None: ...\n"
        "checker = a.ArgumentChecker(t.make_spec('tool', f))\n"
        "assert 'jsonschema' not in sys.modules\n"
        "checker.check({'x': 1})\n"
        "assert 'jsonschema' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "y", "at", "level", "names", "size", "z"]), inner, max_size=4)
    ),
    max_leaves=10,
)
good = st.fixed_dictionaries(
    {"at": st.fixed_dictionaries({"x": st.integers()}, optional={"y": st.integers() | st.just(1.5)})},
    optional={
        "level": st.sampled_from(["low", "high"]),
        "names": st.none() | st.lists(st.text()),
        "size": st.none() | st.lists(st.integers(), min_size=2, max_size=2),
    },
)


@given(st.dictionaries(st.sampled_from(["at", "level", "names", "size", "z"]), json_values) | good)
def test_the_schema_and_the_types_of_a_signature_never_disagree(arguments: dict[str, Any]) -> None:
    fits_schema = not problems_of(DERIVED, arguments)
    try:
        DERIVED.spec.read_arguments(arguments)
    except ArgumentsError:
        assert not fits_schema
    else:
        assert fits_schema
