"""When a plugin that keeps crashing is put into quarantine. Stopping it is left to the runtime."""

from __future__ import annotations

from collections import deque
from typing import Final

from attrs import define, field

__all__ = ["CRASH_LIMIT", "CRASH_WINDOW", "CrashCounter"]

CRASH_LIMIT: Final = 5  # design, section 3: five crashes
CRASH_WINDOW: Final = 60.0  # in sixty seconds


@define
class CrashCounter:
    """The latest crashes of one plugin. It lives as long as the plugin is installed; releasing the plugin resets it.

    `window` is in seconds. The counter remembers `limit` times and no more, however often the plugin crashes.
    """

    limit: int = CRASH_LIMIT
    window: float = CRASH_WINDOW
    _times: deque[float] = field(init=False, factory=deque)

    def crashed(self, now: float) -> bool:
        """Count a crash at `now`, in seconds, and say whether the plugin belongs in quarantine.

        A clock that was set back by less than the window counts as if it had not been; by more, as another clock.
        """
        self._times.append(now)
        if len(self._times) > self.limit:
            self._times.popleft()
        return len(self._times) == self.limit and abs(now - self._times[0]) <= self.window

    def reset(self) -> None:
        """Forget all crashes."""
        self._times.clear()
