"""Signals that end a command early: SIGTERM, and SIGHUP of a closed terminal, are handled as Ctrl-C is.

So daemons are stopped and temporary folders removed, whichever of them it is.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["ENDS", "end_in_order", "run", "signals_handled"]

ENDS: Final = tuple(each for each in signal.Signals if each.name in {"SIGTERM", "SIGHUP"})  # Windows has no SIGHUP
"""The signals by which others end a program."""

T = TypeVar("T")


def end_in_order() -> None:
    """Handle SIGTERM and SIGHUP as Ctrl-C from here on; one that is ignored, as under nohup, stays ignored."""
    for number in ENDS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(_: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)  # the loop's own while one runs; none in a script's background job
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own; the signals cancel it, and then raise KeyboardInterrupt.

    In a script's background job, where Ctrl-C is ignored, `_interrupt` would otherwise raise KeyboardInterrupt wherever
    the loop is at that moment, inside a plugin's task too.
    """
    import asyncio  # a command without a loop does not pay for it

    async def run_until_signal() -> T:
        task = asyncio.current_task()
        with signals_handled(lambda _: task is not None and task.cancel(), *ENDS):
            return await main

    try:
        return asyncio.run(run_until_signal())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextmanager
def signals_handled(handle: Callable[[signal.Signals], object], *numbers: signal.Signals) -> Generator[None]:
    """Have the running loop call `handle` with each of these signals; afterwards the former handlers are back.

    Nested uses are allowed: the inner one handles the signal. A signal that is ignored stays ignored, as under nohup
    and in a script's background job. In a thread other than the main one nothing is handled.
    """
    import asyncio

    # A context of its own, since a signal handler runs in the context of whichever task it interrupts.
    loop, context = asyncio.get_running_loop(), copy_context()

    def handle_signal(number: int, _: FrameType | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(handle, signal.Signals(number), context=context)

    # Not the loop's own `add_signal_handler`: it does not restore the former handler, and Windows has none.
    before: dict[signal.Signals, Any] = {}
    try:
        with suppress(ValueError):  # not the main thread
            for number in numbers:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None is a handler that is not Python's
                    before[number] = signal.signal(number, handle_signal)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
