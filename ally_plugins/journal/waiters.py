"""Futures that wait for the disk, and their results: one wake-up for each event loop and batch."""

from __future__ import annotations

from asyncio import Future as LoopFuture
from collections.abc import Iterable, Sequence
from concurrent.futures import Future as ThreadFuture
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from .values import DuplicateKeyError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from .store import Store, Written

__all__ = ["BlockingWaiter", "Waiter", "pair_outcomes", "resolve"]


class BlockingWaiter(ThreadFuture[Any]):
    """A future for a thread that has no loop."""

    def get_loop(self) -> None:
        """Return None: there is no loop to wake."""


Waiter: TypeAlias = LoopFuture[Any] | BlockingWaiter


def pair_outcomes(
    store: Store, written: Written, waiters: Sequence[Waiter | None], others: Iterable[Waiter | None]
) -> list[tuple[Waiter | None, Any]]:
    """Pair each waiter with its result: the number of its record or a DuplicateKeyError; None for the `others`."""
    outcomes: list[tuple[Waiter | None, Any]]
    if written.duplicates:
        outcomes = [(waiter, _outcome(store, written, i)) for i, waiter in enumerate(waiters)]
    else:
        outcomes = list(zip(waiters, range(written.first, written.first + len(waiters)), strict=True))
    outcomes += [(waiter, None) for waiter in others]
    return outcomes


def _outcome(store: Store, written: Written, position: int) -> int | DuplicateKeyError:
    earlier = written.duplicates.get(position)
    if earlier is None:
        return written.number(position)
    if isinstance(earlier, int):
        earlier = store.message(written.number(earlier))
    return DuplicateKeyError(earlier)


def resolve(outcomes: Iterable[tuple[Waiter | None, Any]]) -> None:
    """Set the result or error of each waiter, with one `call_soon_threadsafe` for each event loop."""
    loops: dict[AbstractEventLoop | None, list[tuple[Waiter, Any]]] = {}
    for waiter, outcome in outcomes:
        if waiter is not None:
            loops.setdefault(waiter.get_loop(), []).append((waiter, outcome))
    for loop, pairs in loops.items():
        if loop is None:
            _set_results(pairs)
            continue
        with suppress(RuntimeError):  # a loop that was closed meanwhile waits for nothing
            loop.call_soon_threadsafe(_set_results, pairs)


def _set_results(pairs: Iterable[tuple[Waiter, Any]]) -> None:
    for waiter, outcome in pairs:
        if waiter.done():  # cancelled: who waited gave up, and what was written stays written
            continue
        if isinstance(outcome, Exception):
            waiter.set_exception(outcome)
        else:
            waiter.set_result(outcome)
