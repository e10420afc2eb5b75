"""A plugin whose one tool tries all of `attacks`."""

from __future__ import annotations

from typing import Any

import attacks  # type: ignore[import-not-found] # lies beside it where it runs

from ally_plugins import Ally, tool


class Evil:
    """Means harm."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @tool
    def attack(self, target: dict[str, Any]) -> dict[str, str]:
        """Try everything."""
        came: dict[str, str] = attacks.attack_all({**target, "data": str(self.ally.data_dir)})
        return came
