"""How long hooks took is counted in little room, and read back nearly as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.policy.hook_times import HookTime, HookTimes, times_from_data

lengths = st.lists(st.floats(min_value=0, max_value=1e5), min_size=1, max_size=200)


def counted(seconds: list[float]) -> HookTime:
    time = HookTime()
    for each in seconds:
        time.add(each)
    return time


@given(lengths, st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_is_an_eighth_off_at_most(seconds: list[float], part: float) -> None:
    exact = sorted(seconds)[-int(-len(seconds) * part // 1) - 1]
    assert counted(seconds).quantile(part) == pytest.approx(exact, rel=1 / 8, abs=2e-9)


@given(lengths, lengths)
def test_what_two_have_counted_is_what_one_would_have_counted_and_survives_a_record(
    first: list[float], second: list[float]
) -> None:
    times = HookTimes()
    for each in first:
        times.add("hook", each)
    recorded = json.loads(json.dumps({hook: each.to_data() for hook, each in times.take().items()}))
    for each in second:
        times.add("hook", each)
    (read,) = dict(times_from_data(recorded)).values()
    read.merge(times.take()["hook"])
    whole = counted([*first, *second])
    for found in (read, times.all()["hook"]):
        assert found.calls == whole.calls
        assert found.longest == pytest.approx(whole.longest, abs=1e-9)
        assert found.seconds == pytest.approx(whole.seconds, abs=1e-8)
        assert found.quantile(0.5) == pytest.approx(whole.quantile(0.5), abs=2e-9)
    assert times.take() == {}


@pytest.mark.parametrize(
    "data",
    [None, [], {"hook": None}, {"hook": {}}, {"hook": {"calls": -1, "seconds": 0, "longest": 0, "steps": []}},
     {"hook": {"calls": 1, "seconds": "x", "longest": 0, "steps": []}},
     {"hook": {"calls": 1, "seconds": 0, "longest": 0, "steps": [[1 << 80, 1]]}}],
)  # fmt: skip
def test_what_another_version_has_recorded_is_passed_over(data: Any) -> None:
    assert dict(times_from_data(data)) == {}


def test_without_calls_there_is_no_time() -> None:
    assert HookTime().quantile(0.95) == 0
