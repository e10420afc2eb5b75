"""When context usage has passed a threshold: once on the way up, and again only after it has fallen well below."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define, field

__all__ = ["HYSTERESIS", "LEVELS", "SessionThresholds", "Thresholds"]

LEVELS: Final = (50.0, 75.0, 90.0)
"""Percent of the context window (design.md, section 4)."""

HYSTERESIS: Final = 5.0
"""How far, in percentage points, usage must fall below a level before passing it counts again: a third of the least
distance of two levels. In the recorded sessions usage falls by compaction alone; what wavers is a count that is
estimated for one request and reported for the next."""


@define
class Thresholds:
    """Which of some levels, in rising order, one session's usage has passed; it lives as long as the session."""

    levels: tuple[float, ...] = LEVELS
    _passed: set[float] = field(init=False, factory=set)

    def update(self, usage: float) -> list[float]:
        """Take a new usage in percent; return the levels that it passes, lowest first."""
        if not self._passed and usage < self.levels[0]:  # so at most steps
            return []
        self._passed = {level for level in self._passed if usage > level - HYSTERESIS}
        new = [level for level in self.levels if usage >= level and level not in self._passed]
        self._passed.update(new)
        return new

    def compacted(self, usage: float | None) -> None:
        """Forget the levels that a compaction has brought usage below, however little; all when it is not known."""
        # Without `HYSTERESIS`: a compaction is no wavering, and the way up begins anew.
        self._passed = {level for level in self._passed if usage is not None and usage >= level}


@define
class SessionThresholds:
    """What one session's usage has passed of the levels that are everybody's, and of those that plugins ask for."""

    _common: Thresholds = field(init=False, factory=Thresholds)
    _own: dict[str, Thresholds] = field(init=False, factory=dict)
    """By the plugin's name."""

    def update(self, usage: float, own: Iterable[tuple[str, tuple[float, ...]]] = ()) -> list[tuple[float, str | None]]:
        """Take a new usage in percent, and what each plugin asks for; return the levels passed, with whose they are."""
        passed: list[tuple[float, str | None]] = [(level, None) for level in self._common.update(usage)]
        for plugin, levels in own:
            thresholds = self._own.get(plugin)
            if thresholds is None or thresholds.levels != levels:  # a new version may have others
                thresholds = self._own[plugin] = Thresholds(levels)
            passed += [(level, plugin) for level in thresholds.update(usage)]
        return passed

    def compacted(self, usage: float | None) -> None:
        """As `Thresholds.compacted`, for all of them."""
        for thresholds in (self._common, *self._own.values()):
            thresholds.compacted(usage)
