"""The order of plugins depends on what is installed and on nothing else."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.values.errors import OrderError
from ally_plugins.policy.ordering import Orderable, Placement, find_missing, order, order_for_hook

if TYPE_CHECKING:
    from random import Random

NAMES = "abcdefgh"


@st.composite
def installations(draw: st.DrawFn) -> list[Orderable]:
    """Any set of plugins with any edges, cycles and strangers included."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=8))
    edges = st.lists(st.sampled_from(NAMES), max_size=2)
    return [Orderable(name, tuple(draw(edges)), tuple(draw(edges)), draw(st.booleans())) for name in names]


@st.composite
def sound_installations(draw: st.DrawFn) -> list[Orderable]:
    """Plugins whose edges agree with one secret order, so that there is no cycle."""
    names = draw(st.permutations(NAMES))
    return [
        Orderable(
            name,
            before=draw(st.lists(st.sampled_from([*names[i + 1 :], "stranger"]), max_size=2)),
            after=draw(st.lists(st.sampled_from([*names[:i], "stranger"]), max_size=2)),
            mandatory=draw(st.booleans()),
        )
        for i, name in enumerate(names)
    ]


def placements(names: str = NAMES) -> st.SearchStrategy[dict[str, Placement]]:
    return st.dictionaries(st.sampled_from(list(names)), st.sampled_from(["first", "last", None]))


def find_cycle(plugins: list[Orderable]) -> tuple[str, ...]:
    try:
        order(plugins)
    except OrderError as error:
        return error.cycle
    return ()


def test_without_edges_mandatory_plugins_come_first_and_then_the_name_decides() -> None:
    assert order([Orderable("b"), Orderable("z", mandatory=True), Orderable("a")]) == ("z", "a", "b")


def test_edges_win_over_mandatory_tryfirst_and_trylast() -> None:
    plugins = [Orderable("m", mandatory=True, after=("z",)), Orderable("z", after=("y",)), Orderable("y")]
    assert order(plugins) == ("y", "z", "m")
    assert order_for_hook(plugins, {"m": "first", "z": "first", "y": "last"}) == ("y", "z", "m")


def test_tryfirst_and_trylast_decide_before_the_name_and_after_mandatory() -> None:
    plugins = [Orderable(name) for name in "abc"] + [Orderable("m", mandatory=True)]
    assert order_for_hook(plugins, {"a": "last", "b": None, "c": "first", "m": "last"}) == ("m", "c", "b", "a")


def test_in_transforms_the_mandatory_plugin_has_the_last_word() -> None:
    plugins = [Orderable("redact", mandatory=True), Orderable("rewrite"), Orderable("zap")]
    placement: dict[str, Placement] = {"redact": "first", "rewrite": None, "zap": "last"}
    assert order_for_hook(plugins, placement, mandatory_last=True) == ("rewrite", "zap", "redact")


def test_edges_hold_through_plugins_that_do_not_implement_the_hook() -> None:
    plugins = [Orderable("z", before=("m",)), Orderable("m", before=("a",)), Orderable("a")]
    assert order_for_hook(plugins, {"a": None, "z": None}) == ("z", "a")


def test_plugins_that_do_not_implement_the_hook_change_nothing_else() -> None:
    plugins = [Orderable("zzz", before=("a",)), Orderable("a"), Orderable("b")]
    assert order_for_hook(plugins, {"a": None, "b": None}) == ("a", "b")


def test_edges_to_what_is_not_installed_have_no_effect_and_are_told() -> None:
    plugins = [Orderable("b", before=("ghost",)), Orderable("a", after=("b", "phantom"))]
    assert order(plugins) == ("b", "a")
    assert find_missing(plugins) == (
        "'a' is to come after 'phantom', which is not installed",
        "'b' is to come before 'ghost', which is not installed",
    )


def test_a_cycle_is_an_error_that_names_its_members_in_order_and_a_way_out() -> None:
    plugins = [Orderable("c", before=("a",)), Orderable("b", before=("c",)), Orderable("a", before=("b",))]
    with pytest.raises(OrderError, match=r"'a' before 'b' before 'c' before 'a'.*ally-plugins disable") as caught:
        order(plugins)
    assert caught.value.cycle == ("a", "b", "c")


def test_of_several_cycles_the_shortest_is_named_and_bystanders_are_not() -> None:
    plugins = [
        Orderable("a", before=("b",)),
        Orderable("b", before=("c",)),
        Orderable("c", before=("a", "d")),
        Orderable("d", before=("c", "e")),
        Orderable("e"),
    ]
    with pytest.raises(OrderError) as caught:
        order(plugins)
    assert caught.value.cycle == ("c", "d")


def test_a_plugin_that_comes_before_itself_is_a_cycle_of_one() -> None:
    with pytest.raises(OrderError) as caught:
        order([Orderable("a", before=("a",))])
    assert caught.value.cycle == ("a",)


def test_a_cycle_among_plugins_without_the_hook_is_an_error_too() -> None:
    plugins = [Orderable("a", before=("b",)), Orderable("b", before=("a",)), Orderable("c")]
    with pytest.raises(OrderError):
        order_for_hook(plugins, {"c": None})


def test_two_plugins_of_one_name_are_an_error() -> None:
    with pytest.raises(ValueError, match="two plugins are called 'a'"):
        order([Orderable("a"), Orderable("a", mandatory=True)])


@given(plugins=installations(), placement=placements(), last=st.booleans(), rng=st.randoms(use_true_random=False))
def test_the_order_in_which_plugins_were_found_never_matters(
    *, plugins: list[Orderable], placement: dict[str, Placement], last: bool, rng: Random
) -> None:
    names = {plugin.name for plugin in plugins}
    placement = {name: how for name, how in placement.items() if name in names}
    outcomes: list[object] = []
    for _ in range(2):
        try:
            outcomes.append((order(plugins), order_for_hook(plugins, placement, mandatory_last=last)))
        except OrderError as error:
            outcomes.append(error.cycle)
        plugins = rng.sample(plugins, len(plugins))
        placement = dict(rng.sample(list(placement.items()), len(placement)))
    assert outcomes[0] == outcomes[1]


@given(plugins=sound_installations(), placement=placements(), last=st.booleans())
def test_every_edge_is_respected_and_every_plugin_is_there_once(
    *, plugins: list[Orderable], placement: dict[str, Placement], last: bool
) -> None:
    for names in (order(plugins), order_for_hook(plugins, placement, mandatory_last=last)):
        at = {name: index for index, name in enumerate(names)}
        for plugin in plugins:
            for other in plugin.before:
                assert plugin.name not in at or other not in at or at[plugin.name] < at[other]
            for other in plugin.after:
                assert plugin.name not in at or other not in at or at[other] < at[plugin.name]
    assert sorted(order(plugins)) == list(NAMES)
    assert sorted(order_for_hook(plugins, placement)) == sorted(placement)


@given(installations())
def test_what_is_named_as_a_cycle_is_one(plugins: list[Orderable]) -> None:
    by_name = {plugin.name: plugin for plugin in plugins}
    cycle = find_cycle(plugins)
    assert not cycle or cycle[0] == min(cycle)
    for earlier, later in pairwise((*cycle, *cycle[:1])):
        assert later in by_name[earlier].before or earlier in by_name[later].after


@given(names=st.lists(st.sampled_from(NAMES), unique=True), last=st.booleans())
def test_without_edges_the_order_is_a_plain_sort(*, names: list[str], last: bool) -> None:
    plugins = [Orderable(name, mandatory=name in "aceg") for name in names]
    expected = sorted(names, key=lambda name: ((name in "aceg") == last, name))
    assert order_for_hook(plugins, dict.fromkeys(names), mandatory_last=last) == tuple(expected)
