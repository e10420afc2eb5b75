"""Five crashes in sixty seconds end in quarantine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.policy.restart import CrashCounter


def test_the_fifth_crash_within_sixty_seconds_is_one_too_many() -> None:
    counter = CrashCounter()
    assert [counter.crashed(now) for now in (0, 15, 30, 45, 60)] == [False, False, False, False, True]


def test_crashes_that_are_long_past_do_not_count() -> None:
    counter = CrashCounter()
    assert not any(counter.crashed(now) for now in (0, 15, 30, 45, 60.1, 200, 215, 230, 245))


def test_a_released_plugin_starts_with_a_clean_slate() -> None:
    counter = CrashCounter(limit=2)
    counter.crashed(1)
    counter.reset()
    assert not counter.crashed(2)
    assert counter.crashed(3)


def test_crashes_on_another_clock_are_not_mixed_with_those_before() -> None:
    counter = CrashCounter(limit=2)
    assert not counter.crashed(1_000_000)
    assert not counter.crashed(5)
    assert counter.crashed(6)


def test_a_clock_that_goes_back_a_little_does_not_save_a_plugin_that_keeps_crashing() -> None:
    counter = CrashCounter(limit=3)
    assert [counter.crashed(now) for now in (10, 9, 8)] == [False, False, True]


@pytest.mark.parametrize("limit", [1, 2, 5])
@given(moments=st.lists(st.floats(0, 1_000), max_size=60))
def test_it_says_quarantine_exactly_when_enough_crashes_lie_within_the_window(limit: int, moments: list[float]) -> None:
    counter = CrashCounter(limit=limit)
    moments.sort()
    for index, now in enumerate(moments):
        first = index - limit + 1
        assert counter.crashed(now) == (first >= 0 and now - moments[first] <= 60)
