"""When a plugin that keeps crashing is put into quarantine, and how long one waits before it is started again.

Stopping and starting is left to the runtime.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from attrs import define, field

__all__ = ["CRASH_LIMIT", "CRASH_WINDOW", "Backoff", "CrashCounter", "LinearBackoff"]

CRASH_LIMIT: Final = 5  # design, section 3: five crashes
CRASH_WINDOW: Final = 60.0  # in sixty seconds

FIRST_DELAY: Final = 0.01
"""Seconds: most that run fail once, by an accident, and its gates deny meanwhile. Who cannot start would fail again."""
SECOND_DELAY: Final = 0.25
LONGEST_DELAY: Final = 30.0
HEALTHY_AFTER: Final = 60.0  # design, section 7: reset after 60 s healthy


@define
class CrashCounter:
    """The latest crashes of one plugin. It lives as long as the plugin is installed; releasing the plugin resets it.

    `window` is in seconds. The counter remembers `limit` times and no more, however often the plugin crashes.
    """

    limit: int = CRASH_LIMIT
    window: float = CRASH_WINDOW
    _times: deque[float] = field(init=False, factory=deque)

    def crashed(self, now: float) -> bool:
        """Count a crash at `now`, in seconds, and return whether the plugin belongs in quarantine.

        A clock that was set back by less than the window counts as if it had not been; by more, as another clock.
        """
        self._times.append(now)
        if len(self._times) > self.limit:
            self._times.popleft()
        return len(self._times) == self.limit and abs(now - self._times[0]) <= self.window

    def recent(self, now: float) -> int:
        """Return how many crashes count at `now`, in seconds; at most `limit`."""
        return sum(abs(now - time) <= self.window for time in self._times)

    def reset(self) -> None:
        """Forget all crashes."""
        self._times.clear()


@define
class Backoff:
    """How long to wait before each restart: doubled every time, up to `longest`, with up to a quarter taken off.

    The first wait of one that ran is `soon`. All times are in seconds. `random` gives numbers from 0 to 1:
    without it, plugins that fell together would come back together. Lives as long as one plugin is supervised.
    """

    random: Callable[[], float]
    soon: float = FIRST_DELAY
    first: float = SECOND_DELAY
    longest: float = LONGEST_DELAY
    healthy_after: float = HEALTHY_AFTER
    _failures: int = field(init=False, default=0)
    _has_failed: bool = field(init=False, default=False)

    def failed(self, ran_for: float) -> float | None:
        """Count a failure after `ran_for` seconds, and return the wait before the next start; None would be to give up.

        0 seconds are a start that failed. Who ran long enough to count as healthy starts anew.
        """
        if ran_for >= self.healthy_after:
            self.reset()
        is_first, self._has_failed = not self._has_failed, True
        if is_first and ran_for:
            delay = self.soon
        else:
            # 32: `longest` is reached far before, and beyond 1,023 a float overflows.
            delay = min(self.longest, self.first * 2.0 ** min(self._failures, 32))
            self._failures += 1
        return delay * (1 - self.random() / 4)

    def reset(self) -> None:
        """Forget all failures."""
        self._failures, self._has_failed = 0, False


@define
class LinearBackoff:
    """Code-Ally's way for its own daemons: a delay of `step` seconds times the attempt, and at most `attempts`.

    A daemon that ran for `healthy_after` seconds starts anew.
    """

    step: float
    attempts: int
    healthy_after: float = HEALTHY_AFTER
    _failures: int = field(init=False, default=0)

    def failed(self, ran_for: float) -> float | None:
        """Count a failure; as `Backoff.failed`, with None once the attempts are used up."""
        if ran_for >= self.healthy_after:
            self._failures = 0
        self._failures += 1
        return None if self._failures > self.attempts else self.step * self._failures

    def reset(self) -> None:
        """Forget all failures."""
        self._failures = 0
