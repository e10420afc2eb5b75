"""Budgets: continuous buckets that hold one minute's worth, calls in flight, and sizes."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.values.errors import BudgetRefused
from ally_plugins.policy.budget import Limits, PluginBudget, TokenBucket

times = st.floats(min_value=0, max_value=1e6)


def test_a_full_bucket_gives_its_capacity_at_once_and_then_says_how_long_to_wait() -> None:
    bucket = TokenBucket(30, 0.5)
    assert [bucket.take(100.0) for _ in range(30)] == [0.0] * 30
    assert bucket.take(100.0) == pytest.approx(2.0)
    assert bucket.take(101.0) == pytest.approx(1.0)
    assert bucket.take(102.0) == 0.0


def test_waiting_as_long_as_it_says_is_enough_even_when_unix_time_is_the_clock() -> None:
    bucket, now = TokenBucket(600, 10), 1_699_999_999.987
    for _ in range(2_000):
        now += bucket.take(now)
        assert bucket.take(now) == 0.0


def test_more_than_the_capacity_never_comes() -> None:
    assert TokenBucket(5, 1).take(0.0, 6) == inf


def test_a_limit_of_nothing_refuses_for_ever() -> None:
    bucket = TokenBucket(0, 0)
    assert [bucket.take(now) for now in (0.0, 1e9)] == [inf, inf]


def test_a_clock_that_goes_back_a_little_gives_nothing_for_free() -> None:
    bucket = TokenBucket(2, 1)
    for now in (10.0, 9.5):
        assert bucket.take(now) == 0.0
    assert bucket.take(9.0) > 0
    assert bucket.take(9.9) > 0


def test_a_clock_that_goes_back_by_years_is_followed_so_that_an_older_recording_is_not_starved() -> None:
    bucket = TokenBucket(2, 1)
    assert [bucket.take(1e9, 2), bucket.take(5.0) > 0, bucket.take(6.0)] == [0.0, True, 0.0]


def test_a_time_that_is_no_number_neither_fills_nor_breaks_the_bucket() -> None:
    bucket = TokenBucket(1, 1)
    assert bucket.take(nan) == 0.0
    assert bucket.take(nan) > 0


def test_giving_tokens_back_by_taking_a_negative_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected 0 or more"):
        TokenBucket(1, 1).take(0.0, -5)


@pytest.mark.parametrize(("capacity", "refill"), [(-1, 1), (1, -1), (inf, 1), (1, nan)])
def test_a_bucket_of_impossible_size_is_an_error(capacity: float, refill: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        TokenBucket(capacity, refill)


@given(st.lists(times, min_size=1, max_size=200), st.integers(1, 50), st.floats(0.01, 20))
def test_never_more_is_taken_than_the_burst_and_the_refill_of_the_time_that_passed(
    moments: list[float], capacity: int, refill: float
) -> None:
    moments.sort()
    bucket = TokenBucket(capacity, refill)
    taken = sum(bucket.take(now) == 0.0 for now in moments)
    assert taken <= capacity + (moments[-1] - moments[0]) * refill + 1e-3


@given(st.lists(times, min_size=1, max_size=200), st.integers(1, 50), st.floats(0.01, 20))
def test_a_refusal_always_names_a_wait_after_which_there_is_enough(
    moments: list[float], capacity: int, refill: float
) -> None:
    bucket = TokenBucket(capacity, refill)
    for now in sorted(moments):
        if wait := bucket.take(now):
            assert bucket.level(now + wait) >= 1 - 1e-3


@given(st.lists(st.floats(), max_size=50))
def test_no_clock_however_mad_fills_a_bucket_beyond_its_capacity(moments: list[float]) -> None:
    bucket = TokenBucket(3, 1)
    for now in moments:
        bucket.take(now)
        assert bucket.level(now) <= 3


TAKES = {
    "messages_per_minute": PluginBudget.take_message,
    "events_per_minute": PluginBudget.take_event,
    "context_reads_per_minute": PluginBudget.take_context_read,
    "logs_per_minute": PluginBudget.take_log,
    "registrations_per_minute": PluginBudget.take_registration,
    "action_requests_per_minute": PluginBudget.take_action_request,
    "tasks_per_minute": PluginBudget.take_task,
}


@pytest.mark.parametrize("name", TAKES)
def test_each_rate_refuses_with_the_limit_the_wait_and_where_the_operator_raises_it(name: str) -> None:
    budget = PluginBudget("loop-warner", attrs.evolve(Limits(), **{name: 6}))
    for _ in range(6):
        TAKES[name](budget, 50.0)
    with pytest.raises(BudgetRefused) as caught:
        TAKES[name](budget, 50.0)
    assert (caught.value.plugin, caught.value.budget) == ("loop-warner", name)
    assert caught.value.retry_after == pytest.approx(10.0)
    assert f"{name}, which is 6; try again in 10.0 s" in str(caught.value)
    assert f"{name} in [plugins.loop-warner.limits] of config.toml" in str(caught.value)


def test_the_rates_of_one_plugin_do_not_touch_each_other() -> None:
    budget = PluginBudget("p", Limits(messages_per_minute=1))
    budget.take_message(0.0)
    budget.take_event(0.0)
    with pytest.raises(BudgetRefused):
        budget.take_message(0.0)


def test_a_limit_of_zero_is_refused_without_a_time_to_try_again() -> None:
    with pytest.raises(BudgetRefused) as caught:
        PluginBudget("p", Limits(messages_per_minute=0)).take_message(1.0)
    assert caught.value.retry_after is None
    assert "try again" not in str(caught.value)


def test_the_defaults_are_those_of_the_design() -> None:
    limits = Limits()
    assert (limits.messages_per_minute, limits.events_per_minute, limits.calls_in_flight) == (30, 600, 32)
    assert limits.message_bytes == 64 * 1024


def test_the_thirty_third_call_in_flight_is_refused_until_one_returns() -> None:
    budget = PluginBudget("p")
    for _ in range(32):
        budget.begin_call()
    with pytest.raises(BudgetRefused, match="32 calls_in_flight and the limit is 32"):
        budget.begin_call()
    budget.end_call()
    budget.begin_call()


def test_returning_more_often_than_beginning_gives_no_credit() -> None:
    budget = PluginBudget("p", Limits(calls_in_flight=1))
    budget.end_call()
    budget.begin_call()
    with pytest.raises(BudgetRefused):
        budget.begin_call()


def test_tasks_and_tools_are_counted_by_who_keeps_them() -> None:
    budget = PluginBudget("p", Limits(running_tasks=2, tools=1))
    budget.check_running_tasks(1)
    budget.check_tools(0)
    with pytest.raises(BudgetRefused, match="running_tasks"):
        budget.check_running_tasks(2)
    with pytest.raises(BudgetRefused, match="tools"):
        budget.check_tools(1)


def test_a_size_is_refused_from_the_first_byte_too_many_and_waiting_does_not_help() -> None:
    budget = PluginBudget("p")
    budget.check_size("message_bytes", 65_536)
    with pytest.raises(BudgetRefused, match="65537 bytes where message_bytes allows 65536") as caught:
        budget.check_size("message_bytes", 65_537)
    assert caught.value.retry_after is None


def test_other_limits_hold_from_the_moment_they_are_set_and_calls_in_flight_go_on() -> None:
    budget = PluginBudget("p", Limits(messages_per_minute=0))
    budget.begin_call()
    budget.change_limits(Limits(messages_per_minute=1, calls_in_flight=1))
    budget.take_message(0.0)
    with pytest.raises(BudgetRefused):
        budget.begin_call()


@pytest.mark.parametrize("value", [-1, True, 1.5, "30", None])
def test_a_limit_that_is_no_whole_number_is_an_error_that_names_it(value: Any) -> None:
    with pytest.raises(ValueError, match="messages_per_minute is"):
        Limits(messages_per_minute=value)
