"""A check of an adapter: a coroutine that plays something and raises `Broken`, and the parts that it needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

from attrs import frozen

from .stage import Stage

__all__ = ["AdapterCheck", "Checks", "Played"]

Played: TypeAlias = Callable[[Stage], Awaitable[None]]
F = TypeVar("F", bound=Callable[..., Awaitable[None]])


@frozen
class AdapterCheck:
    """One check; `needs` are the parts (`driver.PARTS`) without which it is left out, `description` what it checks."""

    play: Played
    needs: frozenset[str]
    description: str


class Checks(dict[str, AdapterCheck]):
    """The checks of one module by their names."""

    def add(self, name: str, *needs: str, **how: Any) -> Callable[[F], F]:
        """Make a check of a coroutine function that is given the stage and `how`; one may be several checks.

        `needs` are the parts without which it is left out.
        """

        def register(function: F) -> F:
            description = " ".join((function.__doc__ or "").split())
            self[name] = AdapterCheck(partial(function, **how), frozenset(needs), description)
            return function

        return register
