"""Five crashes in sixty seconds end in quarantine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.policy.restart import Backoff, CrashCounter


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


def test_what_ran_starts_again_soon_and_then_waits_twice_as_long_each_time() -> None:
    backoff = Backoff(lambda: 0.0)
    assert [backoff.failed(1.0) for _ in range(5)] == [0.01, 0.25, 0.5, 1.0, 2.0]


def test_what_could_not_start_waits_from_the_first_time_on() -> None:
    backoff = Backoff(lambda: 0.0)
    assert [backoff.failed(ran_for) for ran_for in (0.0, 1.0, 0.0)] == [0.25, 0.5, 1.0]


def test_after_a_minute_of_health_or_a_restart_by_hand_it_starts_soon_again() -> None:
    backoff = Backoff(lambda: 0.0)
    assert [backoff.failed(ran_for) for ran_for in (1.0, 1.0, 60.0, 1.0)] == [0.01, 0.25, 0.01, 0.25]
    backoff.reset()
    assert backoff.failed(1.0) == 0.01


@given(ran_for=st.lists(st.floats(0, 100), max_size=80), random=st.floats(0, 1))
def test_no_wait_is_longer_than_half_a_minute_nor_cut_by_more_than_a_quarter(
    ran_for: list[float], random: float
) -> None:
    backoff = Backoff(lambda: random)
    for seconds in ran_for:
        wait = backoff.failed(seconds)
        assert wait is not None
        assert 0.0075 <= wait <= 30
