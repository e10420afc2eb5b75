"""Runs coroutines and waits for what nobody tells of, for as long as a busy machine may take."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that a busy machine may take for anything; what takes longer hangs, and has failed."""

_LOOK_AGAIN = 0.002  # seconds; short beside the start of a process, long beside what a look costs


def go(main: Awaitable[T], seconds: float = 2 * PATIENCE) -> T:
    """Wait for a coroutine on a new loop and return its result; what hangs is a failure."""

    async def limited() -> T:
        async with asyncio.timeout(seconds):
            return await main

    return asyncio.run(limited())


async def until(is_so: Callable[[], Any], what: str | Callable[[], str] = "") -> float:
    """Wait until something is so that tells nobody, and return the seconds that it took.

    `what` is said when it does not come about: a text, or what makes one then.
    """
    begin = time.monotonic()
    while not is_so():
        _check(begin, what)
        await asyncio.sleep(_LOOK_AGAIN)
    return time.monotonic() - begin


def wait_until(is_so: Callable[[], Any], what: str | Callable[[], str] = "") -> float:
    """Do the same in a thread that runs no loop."""
    begin = time.monotonic()
    while not is_so():
        _check(begin, what)
        time.sleep(_LOOK_AGAIN)
    return time.monotonic() - begin


def _check(begin: float, what: str | Callable[[], str]) -> None:
    if time.monotonic() - begin > PATIENCE:
        raise AssertionError(f"it has not come about: {(what() if callable(what) else what) or 'what is waited for'}")
