"""How a command ends before its time: SIGTERM and a terminal that is closed are taken for Ctrl-C.

Daemons are told to stop, and temporary folders are removed, whichever of them it is.
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
"""What ends a program from outside."""

T = TypeVar("T")


def end_in_order() -> None:
    """Take the signals for Ctrl-C from here on, but for those that are ignored, as under nohup."""
    for number in ENDS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(_: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)  # the loop's own while one runs; none in a script's background job
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own; the signals cancel it, and then raise KeyboardInterrupt.

    In a script's background job, where Ctrl-C is ignored, they would otherwise strike wherever the loop is at that
    moment, amid a plugin's task too.
    """
    import asyncio  # a command without a loop does not pay for it

    async def told() -> T:
        task = asyncio.current_task()
        with signals_handled(lambda _: task is not None and task.cancel(), *ENDS):
            return await main

    try:
        return asyncio.run(told())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextmanager
def signals_handled(handle: Callable[[signal.Signals], object], *numbers: signal.Signals) -> Generator[None]:
    """Have the running loop call `handle` with each of these signals that comes; afterwards all is as it was before.

    Whoever is within another's comes first. What is ignored stays ignored, as under nohup and in a script's background
    job, and in a thread other than the main one nothing is handled.
    """
    import asyncio

    loop, context = asyncio.get_running_loop(), copy_context()  # not that of the task which a signal finds at work

    def come(number: int, _: FrameType | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(handle, signal.Signals(number), context=context)

    # Not the loop's own `add_signal_handler`: it forgets who was there before, and Windows has none.
    before: dict[signal.Signals, Any] = {}
    try:
        with suppress(ValueError):  # not the main thread
            for number in numbers:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None is a handler that is not Python's
                    before[number] = signal.signal(number, come)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
