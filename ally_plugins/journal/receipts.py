"""Which events a plugin was given, and how long its hooks took for them: in memory, until its host records it.

What is noted is a run of events, since a lane looks at the clock once for each; at an agent's pace a run is one event.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field, frozen

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event

__all__ = ["Receipts", "Received", "numbers_of", "received_in"]

MOST: Final = 50_000
"""Events that are noted of one plugin until they are recorded: some 2 MB."""

_Run = tuple[str | None, float | None, Sequence[int]]
"""The hook that got all of the events, where that is known; the seconds that they took together; their numbers."""


@frozen
class Received:
    """How a plugin received an event, together with some others (`together` counts them all).

    `hook` is None where it had several, or where only its process knows. `seconds` is what all of them took together,
    None for what was sent to a process that has not said so.
    """

    hook: str | None
    seconds: float | None
    together: int


@define(eq=False)
class Receipts:
    """The receipts of one plugin; they belong to its host's loop."""

    noted: int = 0
    """Events that are not recorded yet."""
    missed: int = 0
    """Events of which nothing was noted, since too many were not recorded yet."""
    _untold: int = 0
    """Events that were sent to a process which may still say how long they took."""
    _runs: dict[str, list[_Run]] = field(factory=dict)

    def add(self, session_id: str, hook: str | None, seconds: float | None, numbers: Sequence[int]) -> None:
        """Note a run of events of one session, by their numbers in rising order; without `seconds`, as sent."""
        if seconds is None:
            self._untold += len(numbers)
        if self.noted >= MOST:
            self.missed += len(numbers)
        elif numbers:
            self.noted += len(numbers)
            self._runs.setdefault(session_id, []).append((hook, seconds, numbers))

    def tell(self, session_id: str, hook: str | None, seconds: float, number: int) -> None:
        """Note what a process says of an event that it was sent; no more of them than it was sent."""
        if self._untold > 0:
            self._untold -= 1
            self.add(session_id, hook, max(seconds, 0.0), (number,))

    def take(self, session_id: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each session with the data of a record, and forget what stands in that; with `session_id`, of one."""
        for each in list(self._runs) if session_id is None else [session_id]:
            runs = self._runs.pop(each, [])
            self.noted -= sum(len(numbers) for _, _, numbers in runs)
            missed, self.missed = self.missed, 0
            if runs or missed:
                yield each, {"runs": [_to_data(run) for run in runs], **({"missed": missed} if missed else {})}


def numbers_of(events: Sequence[Event]) -> Sequence[int]:
    """Return the numbers of some events of one session, in their order."""
    if not events:
        return ()
    first, last = events[0].seq, events[-1].seq
    # Of a burst that a plugin gets whole, in no time.
    return range(first, last + 1) if last - first + 1 == len(events) else [event.seq for event in events]


def _to_data(run: _Run) -> list[Any]:
    hook, seconds, numbers = run
    stretches: list[list[int]] = []
    for number in numbers:
        if stretches and stretches[-1][1] == number - 1:
            stretches[-1][1] = number
        else:
            stretches.append([number, number])
    return [hook, None if seconds is None else round(seconds * 1e6), stretches]


def received_in(data: Mapping[str, Any] | None, number: int) -> Iterator[Received]:
    """Yield how an event was received by what a record says; what cannot be read is passed over: others wrote it."""
    runs = (data or {}).get("runs")
    for run in runs if isinstance(runs, list) else ():
        try:
            hook, took, stretches = run
            if any(first <= number <= last for first, last in stretches):
                seconds = None if took is None else took / 1e6
                yield Received(hook, seconds, sum(last - first + 1 for first, last in stretches))
        except (TypeError, ValueError):
            continue
