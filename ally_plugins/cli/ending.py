"""How a command ends before its time: SIGTERM and a terminal that is closed are taken for Ctrl-C.

Daemons are told to stop, and temporary folders are removed, whichever of them it is.
"""

from __future__ import annotations

import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["end_in_order", "run"]

_NAMES: Final = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_NUMBERS: Final = tuple(number for name in _NAMES if (number := getattr(signal, name, None)) is not None)

T = TypeVar("T")


def end_in_order() -> None:
    """Take the signals for Ctrl-C from here on, but for those that are ignored, as under nohup."""
    for number in _NUMBERS:
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
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        taken = {number: handler for number in _NUMBERS if callable(handler := signal.getsignal(number))}
        if task is not None:
            for number in taken:
                with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or another thread
                    loop.add_signal_handler(number, task.cancel)
        try:
            return await main
        finally:
            for number, handler in taken.items():
                with suppress(NotImplementedError, RuntimeError, ValueError):
                    loop.remove_signal_handler(number)
                    signal.signal(number, handler)

    try:
        return asyncio.run(told())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
