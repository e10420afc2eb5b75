"""A check of an adapter: a coroutine that plays something and raises `Broken`, and the parts that it needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from attrs import frozen

from .stage import Stage

__all__ = ["AdapterCheck", "Played", "needing"]

Played: TypeAlias = Callable[[Stage], Awaitable[None]]


@frozen
class AdapterCheck:
    """One check; `needs` are the parts (`driver.PARTS`) without which it is left out."""

    play: Played
    needs: frozenset[str] = frozenset()

    @property
    def words(self) -> str:
        """What it checks, in a sentence."""
        return " ".join((self.play.__doc__ or "").split())


def needing(play: Played, *parts: str) -> AdapterCheck:
    """Return a check that needs these parts."""
    return AdapterCheck(play, frozenset(parts))
