"""Recorded time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.replay.clock import TimestampClock, parse_timestamp

MOMENT = 1_773_133_352_000


def test_timestamps_are_read_in_the_forms_that_occur() -> None:
    assert parse_timestamp("2026-03-10T09:02:32Z") == MOMENT
    assert parse_timestamp("2026-03-10T10:02:32.000+01:00") == MOMENT
    assert parse_timestamp("2026-03-10T09:02:32.250") == MOMENT + 250
    assert parse_timestamp(MOMENT) == MOMENT
    assert parse_timestamp(float(MOMENT)) == MOMENT


def test_what_is_no_time_is_none() -> None:
    dates = ("", "yesterday", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:00")
    others: tuple[object, ...] = (None, True, [], {}, -1, 10**30)
    for value in (*dates, *others):
        assert parse_timestamp(value) is None
    assert parse_timestamp(float("nan")) is None
    assert parse_timestamp(float("inf")) is None


def test_an_earlier_or_missing_time_leaves_the_clock_as_it_is() -> None:
    clock = TimestampClock()
    assert clock.read("2026-03-10T09:02:32Z") == MOMENT
    assert clock.read("2026-03-10T09:02:31Z") == MOMENT
    assert clock.read(None) == MOMENT
    assert clock.read("9999-01-01T00:00:00Z") == MOMENT
    assert clock.tick(5) == MOMENT + 5


@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.datetimes().map(str))))
def test_the_clock_never_runs_backward(values: list[object]) -> None:
    clock = TimestampClock()
    times = [clock.read(value) for value in values]
    assert times == sorted(times)
