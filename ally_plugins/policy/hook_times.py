"""How long hooks have taken: counted by length, so that a million calls cost as much memory as a hundred.

A length falls into one of four steps between a power of two and the next, in nanoseconds: what is read back is at most
an eighth off. HDR histograms count so too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

__all__ = ["HookTime", "HookTimes", "merge_times", "times_from_data"]

_STEP_BITS: Final = 2  # four steps between two powers of two
_HIGHEST: Final = 64 << _STEP_BITS  # nanoseconds of five centuries: beyond what was counted here


class HookTime:
    """The calls of one hook. `seconds` is all of them together."""

    __slots__ = ("_steps", "calls", "longest", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.longest = 0.0
        self._steps: dict[int, int] = {}

    def add(self, seconds: float, calls: int = 1) -> None:
        """Count `calls` that took `seconds` each."""
        self.calls += calls
        self.seconds += seconds * calls
        self.longest = max(self.longest, seconds)
        nanoseconds = int(seconds * 1e9)
        # Three bits of the number, the first of which is one, and how far they were shifted.
        shift = max(nanoseconds.bit_length() - _STEP_BITS - 1, 0)
        step = (shift << _STEP_BITS) + (nanoseconds >> shift)
        self._steps[step] = self._steps.get(step, 0) + calls

    def quantile(self, part: float) -> float:
        """Return how many seconds that part of the calls took at most, such as 0.95 of them; 0 without calls."""
        left = part * self.calls
        for step, calls in sorted(self._steps.items()):
            left -= calls
            if left <= 0:
                # The middle of the step, and never more than any call has taken.
                return min((_lowest(step) + _lowest(step + 1)) / 2e9, self.longest)
        return self.longest

    def merge(self, other: HookTime) -> None:
        """Count what another one has counted."""
        self.calls += other.calls
        self.seconds += other.seconds
        self.longest = max(self.longest, other.longest)
        for step, calls in other._steps.copy().items():  # of one that may count on in another thread
            self._steps[step] = self._steps.get(step, 0) + calls

    def to_data(self) -> dict[str, Any]:
        """Return it as a record holds it."""
        return {"calls": self.calls, "seconds": round(self.seconds, 9), "longest": round(self.longest, 9),
                "steps": sorted(self._steps.items())}  # fmt: skip

    @classmethod
    def from_data(cls, data: Any) -> HookTime:
        """Read what `to_data` has made. Raises ValueError for anything else."""
        time = cls()
        try:
            pairs = [(_whole(step, _HIGHEST), _whole(calls)) for step, calls in data["steps"]]
            time._steps = dict(pairs)
            time.calls = _whole(data["calls"])
            time.seconds, time.longest = float(data["seconds"]), float(data["longest"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{error!r} in what should be the times of a hook") from error
        return time


class HookTimes:
    """The hooks of one plugin: since its start, and of that what was not yet taken away to be recorded."""

    __slots__ = ("_recent", "_taken")

    def __init__(self) -> None:
        self._taken: dict[str, HookTime] = {}
        self._recent: dict[str, HookTime] = {}

    def add(self, hook: str, seconds: float, calls: int = 1) -> None:
        """Count `calls` of a hook that took `seconds` each; costs some tenths of a microsecond."""
        time = self._recent.get(hook)
        if time is None:
            time = self._recent[hook] = HookTime()
        time.add(seconds, calls)

    def take(self) -> dict[str, HookTime]:
        """Return what was counted since the last time."""
        recent, self._recent = self._recent, {}
        merge_times(self._taken, recent)
        return recent

    def all(self) -> dict[str, HookTime]:
        """Return all that was counted."""
        found: dict[str, HookTime] = {}
        merge_times(found, self._taken)
        merge_times(found, self._recent)
        return found


def merge_times(into: dict[str, HookTime], times: Mapping[str, HookTime]) -> None:
    """Count by hook what `times` has counted."""
    for hook, time in dict(times).items():  # as above
        into.setdefault(hook, HookTime()).merge(time)


def times_from_data(data: Any) -> Iterator[tuple[str, HookTime]]:
    """Yield the hooks of a record with their times; what cannot be read is passed over: another version wrote it."""
    hooks: Iterable[Any] = data.items() if isinstance(data, dict) else ()
    for hook, time in hooks:
        try:
            yield str(hook), HookTime.from_data(time)
        except ValueError:
            continue


def _lowest(step: int) -> int:
    """Return the least of the nanoseconds that fall into a step."""
    if step < 2 << _STEP_BITS:  # these numbers have three bits or fewer, so that each has a step of its own
        return step
    shift = (step >> _STEP_BITS) - 1
    return (step - (shift << _STEP_BITS)) << shift


def _whole(value: Any, limit: int = 1 << 62) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError(f"{value!r} is no count")
    return value
