"""SIGTERM and SIGHUP end hosts in order where they would end the program at once: where nobody else handles them.

A program that handles or ignores them, from before its host has started or from later on, goes on doing so. Otherwise
what runs the host is interrupted, as Ctrl-C does it, and the signal ends the program when the host has stopped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["SIGNALS", "ProcessSignals", "cancel_task", "exit_thread"]

_ENDS: Final = tuple(each for each in signal.Signals if each.name in {"SIGTERM", "SIGHUP"})  # Windows has no SIGHUP
_EXIT: Final = 128
"""Shells add it to the number of the signal that has ended a program."""

Interrupt = Callable[[int], object]


class ProcessSignals:
    """What signals do to the hosts of a process: one interrupts all of them, and the last to stop ends the program."""

    def __init__(self) -> None:
        self._interrupts: dict[int, Interrupt] = {}
        self._received: int | None = None
        self._pid = os.getpid()  # not `OwnProcess`: a signal may come before its hook has run in a fork

    def begin(self, owner: object, interrupt: Interrupt) -> None:
        """Have a signal call `interrupt` with its number, in the main thread.

        Does nothing in another thread, where no handler can be set, and for signals that somebody else handles.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        if self._pid != os.getpid():  # the hosts of the process that this is a fork of are not its own
            self._interrupts, self._received, self._pid = {}, None, os.getpid()
        self._interrupts[id(owner)] = interrupt
        for number in _ENDS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._handle)

    def end(self, owner: object) -> None:
        """Let go of the signals with the last host. One that has come ends the program now."""
        if self._pid != os.getpid() or self._interrupts.pop(id(owner), None) is None or self._interrupts:
            return
        with suppress(ValueError):  # not the main thread, in which it began
            for number in _ENDS:
                if signal.getsignal(number) == self._handle:
                    signal.signal(number, signal.SIG_DFL)
        received, self._received = self._received, None
        if received is not None:
            signal.raise_signal(received)

    def _handle(self, number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the program at once
        if self._pid != os.getpid():  # a fork: the host is not its to stop
            signal.raise_signal(number)
        self._received = number
        for interrupt in list(self._interrupts.values()):
            interrupt(number)


SIGNALS: Final = ProcessSignals()
"""The one of this process."""


def cancel_task() -> Interrupt:
    """Return what cancels the current task, from a signal's handler."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def cancel(_: int) -> None:
        if task is not None:
            with suppress(RuntimeError):  # the loop has ended
                # Safe in a handler, which may run between any two instructions of the loop itself.
                loop.call_soon_threadsafe(task.cancel)

    return cancel


def exit_thread(number: int) -> NoReturn:
    """Raise SystemExit in the main thread, wherever it is."""
    raise SystemExit(_EXIT + number)
