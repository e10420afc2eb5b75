"""Patterns of a plugin's schema that could take for ever are refused; those that people write are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.tools.patterns import find_pattern_problem, has_nested_repeat


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a*)*",
        "(a{2,}){3,}",
        r"(\w+\s?)*$",
        "(a|b+)*",
        "((a+b)+)+",
        "(?:x+)+",
        "(?P<name>x+)+",
        "(a+){2,20}",
        "(a+)*?",
        "^(([a-z])+.?)+[A-Z]$",
        "(^a+)+",
    ],
)
def test_a_repeat_of_nothing_but_a_repeat_is_found(pattern: str) -> None:
    assert has_nested_repeat(pattern)
    assert "may take for ever" in str(find_pattern_problem(pattern))


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "^$",
        "[(+]*",
        "a{1,}",
        "(ab)*c+",
        "((a+)b)?",
        r"\(a+\)*",
        r"^(\w+\.)+\w+$",
        "^[a-z]+(-[a-z]+)*$",
        "(a+){2}",
        "(a|b)*",
        r"^\d{4}-\d{2}-\d{2}(T\d+:\d+)?$",
        "[]*]+",
        "(?i:abc)+",
        "(?=a+)b*",
        "a++b",
    ],
)
def test_a_pattern_that_people_write_is_well(pattern: str) -> None:
    assert find_pattern_problem(pattern) is None


@pytest.mark.parametrize("pattern", ["(a", "a{99999999999}", "[z-a]", "(?P<1>a)", "*a", "\\", "[[a]"])
def test_what_is_no_regular_expression_is_told_so(pattern: str) -> None:
    assert "is not a regular expression" in str(find_pattern_problem(pattern))


def test_a_pattern_that_parses_a_language_is_too_long() -> None:
    assert "has 513 characters; expected 512" in str(find_pattern_problem("a" * 513))


@given(st.text() | st.text("()[]{}*+?|\\^$a1,:P<>=!-", max_size=40))
def test_any_text_is_judged_without_an_error(pattern: str) -> None:
    has_nested_repeat(pattern)
    find_pattern_problem(pattern)
