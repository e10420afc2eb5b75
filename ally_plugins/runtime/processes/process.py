"""A daemon's process as the supervisor sees it: what is started, how it is watched and stopped, how it ended.

Who starts one is left to `launcher`. When a daemon is started again, and what its bytes mean, is left to
`host.daemons` (`supervisor` and `stream_link`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from attrs import field, frozen

from ally_plugins.contract.process_spec import ProcessLimits
from ally_plugins.runtime.sandbox.box import Box

__all__ = ["NO_PID", "UNKILLABLE", "Exit", "Process", "ProcessSpec"]

NO_PID: Final = 2**31 - 1
"""Not 0 and not -1, which to `kill` are this process's group, and everybody. Linux has numbers up to 2**22."""

UNKILLABLE: Final = 5.0
"""Seconds that `stop` waits for the kernel after SIGKILL: only what waits for a dead disk, or runs as another user,
takes longer."""

_TURNS: Final = 3
"""Turns of the loop in which what a dead process has written is read: one to look, one to call, one to spare."""

LIMITS: Final = (
    ("memory_mb", "RLIMIT_DATA", 1 << 20, 0),  # since Linux 4.7 all private memory that may be written, mmap's too
    ("cpu_seconds", "RLIMIT_CPU", 1, 2),  # SIGXCPU first, whose name gives the reason; SIGKILL two seconds later
    ("file_mb", "RLIMIT_FSIZE", 1 << 20, 0),
    ("descriptors", "RLIMIT_NOFILE", 1, 0),
)
"""Field of ProcessLimits, the kernel's name, its unit, and how much higher the hard limit is."""


@frozen(kw_only=True)
class ProcessSpec:
    """What is to be executed.

    With `stdio` false, standard input is empty and standard output goes where stderr goes. With a `box` it enters that
    sandbox before the program is executed, with the variables of the box over `env`; what cannot is not started.
    """

    name: str
    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str] = field(repr=False)
    limits: ProcessLimits = field(factory=ProcessLimits)
    stdio: bool = True
    box: Box | None = None
    fork: bool = True
    """Whether it may be forked from a process that has loaded what it needs, where the machine and the program can."""


@frozen
class Exit:
    """How a process ended: with a code, by a signal, or (both None) unseen, since its guardian was killed."""

    code: int | None
    signal: int | None

    @property
    def description(self) -> str:
        """How it ended, as a text for the operator."""
        if self.code is not None:
            return f"exited with code {self.code}"
        if self.signal is None:
            return "ended with its guardian process"
        return f"was killed by {signal_name(self.signal)}"


def signal_name(number: int) -> str:
    """Return a signal's name, such as SIGKILL; a real-time signal has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def kernel_limits(limits: ProcessLimits) -> list[tuple[str, int, int]]:
    """Return the limits as the kernel's names with soft and hard values; core files are never written."""
    chosen = [("RLIMIT_CORE", 0, 0)]
    for name, kernel_name, unit, above in LIMITS:
        value = getattr(limits, name)
        if value is not None:
            chosen.append((kernel_name, value * unit, value * unit + above))
    return chosen


class StderrEnd(Protocol):
    """The host's end of a process's stderr."""

    def drain(self) -> None:
        """Read what is there."""

    def close(self) -> None:
        """Read what is there and close."""


class Process(ABC):
    """One process and its tree, from its start until nothing of it is left.

    Whoever launched it must call `stop` in the end, also after it exited by itself: children of it may live on, and
    only then its descriptors are closed.
    """

    is_away = False
    """Whether it is out of reach, and may run on: one on another machine whose connection broke."""

    def __init__(self, pid: int) -> None:
        loop = asyncio.get_running_loop()
        self.pid = pid
        """Its number; for one on another machine `NO_PID`, which no process here has."""
        self.transport: asyncio.Transport | None = None
        """Its standard input and output; None when it has none."""
        self.protocol: asyncio.Protocol | None = None
        self.exited: asyncio.Future[Exit] = loop.create_future()
        """Done when the main process is dead, whoever else still holds its pipes; what it wrote was read before."""
        self._stderr: StderrEnd | None = None
        self.gone: asyncio.Future[None] = loop.create_future()
        """Done when nothing of its tree is left and everything is closed."""
        self._exit: Exit | None = None
        self._is_attached = False
        self._is_ending = False

    async def stop(self, grace: float) -> bool:
        """End the whole tree: close its input, SIGTERM and SIGCONT, after `grace` seconds SIGKILL.

        Returns when nothing of it is left, or with False when `UNKILLABLE` seconds were not enough. May be called
        again, with a shorter grace too. Cancelling gives up the waiting only; the tree ends all the same.
        """
        if not self.gone.done():
            self._close_input()
            self._end(grace)
            # `wait` leaves the future as it is when its time is up or it is cancelled; others wait for it, too.
            await asyncio.wait([self.gone], timeout=grace + UNKILLABLE)
        return self.gone.done()

    def kill(self) -> None:
        """Kill the whole tree at once; `exited` is done when it is dead. May be called at any time."""
        if not self.gone.done():
            self._end(0.0)

    @abstractmethod
    def _end(self, grace: float) -> None:
        """Begin to end the tree."""

    def attach(
        self, protocol: asyncio.Protocol | None, transport: asyncio.Transport | None, stderr: StderrEnd | None
    ) -> None:
        """Take what the process talks through; `exited` is not done before that."""
        self.protocol, self.transport, self._stderr = protocol, transport, stderr
        self._is_attached = True
        if self._exit is not None:
            _after_turns(self._settle)

    def note_exit(self, how: Exit) -> None:
        """Record how the main process ended; only the first report counts."""
        if self._exit is None:
            self._exit = how
            if self._is_attached:
                _after_turns(self._settle)

    def note_gone(self) -> None:
        """Record that nothing of the tree is left: what it wrote is read, then everything is closed."""
        if not self._is_ending:
            self._is_ending = True
            _after_turns(self._finish)

    def _settle(self) -> None:
        if self._stderr is not None:
            self._stderr.drain()
        if not self.exited.done():
            self.exited.set_result(self._exit or Exit(None, None))

    def _finish(self) -> None:
        self._settle()
        try:
            if self.transport is not None:
                self.transport.abort()
            if self._stderr is not None:
                self._stderr.close()
        finally:
            if not self.gone.done():
                self.gone.set_result(None)

    def _close_input(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            with contextlib.suppress(OSError, RuntimeError, NotImplementedError):  # it is dead already
                self.transport.write_eof()


def _after_turns(function: Callable[[], None], turns: int = _TURNS) -> None:
    loop = asyncio.get_running_loop()
    if turns:
        loop.call_soon(_after_turns, function, turns - 1)
    else:
        function()


def absolute_folder(spec: ProcessSpec) -> str:
    """Return the folder that the process begins in; an empty or relative one is the host's."""
    return os.path.abspath(spec.cwd)  # noqa: PTH100 - a link stays a link
