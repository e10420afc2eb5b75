"""A Python source is parsed whatever else parses at the same time."""

from __future__ import annotations

import ast
import gc

import pytest

from ally_plugins.contract.values.compat import parse_source

SOURCE = "def f(x):\n    return [x, (x + 1) * 2]\n" * 50


class Parses:
    """What the collector finds in a circle, and parses when it is collected."""

    ended = 0

    def __init__(self) -> None:
        self.circle = self

    def __del__(self) -> None:
        Parses.ended += 1
        ast.parse("x = 1")


def test_a_source_is_parsed_though_the_collector_runs_what_parses_as_well() -> None:
    gc.collect()
    limits, ended = gc.get_threshold(), Parses.ended
    gc.set_threshold(200)  # in the midst of the tree, which is made of objects that it counts
    Parses()
    try:
        tree = parse_source(SOURCE)
    finally:
        gc.set_threshold(*limits)
    assert ast.unparse(tree) == ast.unparse(ast.parse(SOURCE))
    assert Parses.ended > ended


def test_what_is_no_source_is_refused_as_ever() -> None:
    with pytest.raises(SyntaxError):
        parse_source("def", "x.py")
    with pytest.raises((ValueError, SyntaxError)):
        parse_source("\0")
