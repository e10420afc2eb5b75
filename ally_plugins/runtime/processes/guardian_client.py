"""Processes under a guardian (Linux): nothing of them outlives the host, not what double-forked, not after `kill -9`.

The host itself is never made a subreaper, and its SIGCHLD handler and child watchers are not touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from ally_plugins.contract.process_spec import running_python
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import CannotExecute

from .executing import cannot_execute
from .forking import fork_of
from .guardian.process_tree import MARKER
from .guardian_link import START_TIMEOUT, LifeLine, close_all, find_marked, kill_marked
from .launcher import Launcher
from .process import UNKILLABLE, Exit, Process, ProcessSpec, absolute_folder, kernel_limits

if TYPE_CHECKING:
    from .stdio import Ends

__all__ = ["GuardedLauncher"]

_log: Final = logging.getLogger(__name__)

REPORT_WAIT: Final = 1.0
"""Seconds from a death, which the pidfd reports, to the guardian's message how; without one it counts as unseen."""

SWEEP_PAUSE: Final = 0.02
SWEEPS: Final = 100
"""Looks for what a killed guardian left, two seconds in all. On a busy machine two hundred sleeping processes were gone
after one look, and a chain of which each forks the next after 2 to 13; what forks faster than it is killed wins."""

LEFT_TO_KEEPERS: Final = 50
"""Of these how many do nothing but look: each tree's keeper sees the guardian's end too, and finds more than we do."""


class GuardedProcess(Process):
    """A process whose parent is the guardian."""

    def __init__(self, line: LifeLine, number: int, pid: int, pidfd: int) -> None:
        super().__init__(pid)
        self.line = line
        self._number = number
        self._pidfd = pidfd
        self._loop = asyncio.get_running_loop()
        self._unseen: asyncio.TimerHandle | None = None
        if pidfd >= 0:  # the host may have no descriptor free: then only the guardian reports its death
            self._loop.add_reader(pidfd, self._died)

    def kill_main(self) -> None:
        """Kill the main process without the guardian."""
        if self._pidfd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    @override
    def _end(self, grace: float) -> None:
        self.line.send({"end": self._number, "grace": grace})

    def _died(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._unseen = self._loop.call_later(REPORT_WAIT, self.note_exit, Exit(None, None))

    @override
    def _finish(self) -> None:
        if self._unseen is not None:
            self._unseen.cancel()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        super()._finish()


class GuardedLauncher(Launcher):
    """Launches through one guardian, which is started with the first process, and again when it was killed."""

    can_enter = True

    def __init__(self, python: str = "") -> None:
        self._python = python or running_python()
        self._line: LifeLine | None = None
        self._ready: asyncio.Future[None] | None = None
        self._starting = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[ProcessSpec, asyncio.Future[GuardedProcess]]] = {}
        self._processes: dict[int, GuardedProcess] = {}
        self._sweeps: set[asyncio.Task[None]] = set()
        self._to_remove: list[str] = []

    @property
    def guardian_pid(self) -> int | None:
        """The guardian's process id, None while there is none."""
        return None if self._line is None else self._line.pid

    @override
    async def start(self) -> None:
        """Start the guardian, so that the first launch need not wait for it. Raises CannotExecute.

        Cancelling it only ends the waiting: a guardian that is starting stays for the next call.
        """
        await self._start()

    def begin(self, spec: ProcessSpec) -> None:
        """Start the guardian, and what forks processes such as this one, without waiting: they start beside the caller.

        Only for a launcher that has launched nothing. Raises CannotExecute, as the first launch would.
        """
        self._line, self._ready = self._open()
        forker = _forker_request(spec, self._python, self._line)
        if forker is not None:
            self._line.send({"warm": forker})

    @override
    def remove_at_end(self, folder: str) -> None:
        """Have the guardian remove it, which outlives the host; one that is started later is told too."""
        self._to_remove.append(folder)
        if self._line is not None:
            self._line.send({"remove": _as_bytes(folder)})

    @override
    async def close(self) -> None:
        """End the guardian, and with it everything that it started.

        Whoever was cancelled in here calls it again: it waits for a start under way before it ends anything.
        """
        async with self._starting:
            line, self._line = self._line, None
            if line is not None:
                await _close_line(line)
            while self._sweeps:
                await asyncio.wait(self._sweeps)

    # --- the guardian ---

    async def _start(self) -> LifeLine:
        async with self._starting:
            while self._sweeps:  # what a killed guardian left must not meet its successors
                await asyncio.wait(self._sweeps)
            if self._line is None or self._ready is None:
                self._line, self._ready = self._open()
            line, ready = self._line, self._ready
            if not ready.done():
                # Not `await ready`: whoever is cancelled here would cancel it for the others.
                await asyncio.wait([ready], timeout=START_TIMEOUT)
            if not ready.done():
                line.kill()
                raise _no_guardian(self._python, f"it did not answer for {START_TIMEOUT:g} s")
            ready.result()
            return line

    def _open(self) -> tuple[LifeLine, asyncio.Future[None]]:
        if not self._python:
            raise _no_guardian(sys.executable, "it is no Python")
        line = LifeLine(self._receive, self._lose, self._fail_unsent)
        try:
            line.open(self._python)
        except OSError as error:
            raise _no_guardian(self._python, (error.strerror or str(error)).lower()) from error
        for folder in self._to_remove:
            line.send({"remove": _as_bytes(folder)})
        return line, asyncio.get_running_loop().create_future()

    def _lose(self, line: LifeLine) -> None:
        """Take note that the guardian has ended, and with it its daemons; what is left of them is looked for."""
        if self._line is line:
            self._line = None
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(_no_guardian(self._python, "it ended at once"))
            self._ready.exception()  # nobody may be waiting any more
        waiting, self._waiting = self._waiting, {}
        for spec, future in waiting.values():
            if not future.done():
                future.set_exception(_lost_guardian(spec))
        task = asyncio.get_running_loop().create_task(self._sweep(line), name="ally-sweep")
        self._sweeps.add(task)
        task.add_done_callback(self._sweeps.discard)

    def _fail_unsent(self, message: Mapping[str, Any], error: OSError) -> None:
        """Answer what waited for its turn on the life line and could not be sent."""
        if "end" in message:
            if (process := self._processes.get(message["end"])) is not None:
                process.kill_main()  # what is left below it ends with the guardian
        elif (waiting := self._waiting.pop(message.get("spawn", 0), None)) is not None and not waiting[1].done():
            waiting[1].set_exception(_not_sent(waiting[0], error.errno or 0))

    async def _sweep(self, line: LifeLine) -> None:
        processes = [process for process in self._processes.values() if process.line is line]
        self._processes = {number: process for number, process in self._processes.items() if process.line is not line}
        for process in processes:
            process.kill_main()
        if not line.ended_well:
            for count in range(SWEEPS):
                look = find_marked if count < LEFT_TO_KEEPERS else kill_marked
                if not look(line.token):
                    break
                await asyncio.sleep(SWEEP_PAUSE)
        for process in processes:
            process.note_exit(Exit(None, None))
            process.note_gone()
        if processes:
            await asyncio.wait([process.gone for process in processes])

    # --- its messages ---

    def _receive(self, message: dict[str, Any], descriptors: list[int]) -> None:
        kind = next(iter(message))
        _HANDLERS[kind](self, message[kind], message, descriptors)

    def _receive_ready(self, _number: int, _message: dict[str, Any], _descriptors: list[int]) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def _receive_started(self, number: int, message: dict[str, Any], descriptors: list[int]) -> None:
        if self._line is None:
            return close_all(descriptors)  # it dies with the line
        pidfd = descriptors[0] if descriptors else -1
        process = self._processes[number] = GuardedProcess(self._line, number, message["pid"], pidfd)
        _, future = self._waiting.pop(number, (None, None))
        if future is None or future.done():
            process.kill()  # nobody waits for it any more
        else:
            future.set_result(process)
        return None

    def _receive_refused(self, number: int, message: dict[str, Any], _descriptors: list[int]) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None and not waiting[1].done():
            waiting[1].set_exception(cannot_execute(waiting[0], message["errno"], message["stage"]))

    def _receive_unforked(self, number: int, message: dict[str, Any], _descriptors: list[int]) -> None:
        if number in self._waiting:
            name = self._waiting[number][0].name
            _log.warning("the process of %r was started afresh: %s", name, message["reason"])

    def _receive_exited(self, number: int, message: dict[str, Any], _descriptors: list[int]) -> None:
        if number in self._processes:
            self._processes[number].note_exit(Exit(message["code"], message["signal"]))

    def _receive_ended(self, number: int, _message: dict[str, Any], _descriptors: list[int]) -> None:
        process = self._processes.pop(number, None)
        if process is not None:
            process.note_gone()

    @override
    async def _spawn(self, spec: ProcessSpec, ends: Ends) -> Process:
        """Start a process as a child of the guardian."""
        line = await self._start()
        number = next(self._numbers)
        future: asyncio.Future[GuardedProcess] = asyncio.get_running_loop().create_future()
        try:
            line.send(_request(number, spec, self._python, line), list(ends.child_descriptors))
        except OSError as error:
            raise _not_sent(spec, error.errno or 0) from error
        except UnicodeEncodeError as error:
            raise cannot_execute(spec, errno.EINVAL) from error
        # After `send`, since what was not sent has no answer; none comes in between, where nothing is awaited.
        self._waiting[number] = (spec, future)
        ends.close_child()
        try:
            async with asyncio.timeout(START_TIMEOUT):
                return await future
        except TimeoutError:
            # It answers in milliseconds: one that does not hangs itself, and would end no daemon either.
            line.kill()
            raise _lost_guardian(spec) from None
        except asyncio.CancelledError:
            _let_go(future)
            raise


_HANDLERS: Final = {
    "ready": GuardedLauncher._receive_ready,  # noqa: SLF001
    "started": GuardedLauncher._receive_started,  # noqa: SLF001
    "refused": GuardedLauncher._receive_refused,  # noqa: SLF001
    "unforked": GuardedLauncher._receive_unforked,  # noqa: SLF001
    "exited": GuardedLauncher._receive_exited,  # noqa: SLF001
    "ended": GuardedLauncher._receive_ended,  # noqa: SLF001
}


async def _close_line(line: LifeLine) -> None:
    line.close()
    try:
        async with asyncio.timeout(UNKILLABLE):
            await line.lost.wait()
    except TimeoutError:
        line.kill()  # stopped by somebody, or what is below it cannot be killed
        await line.lost.wait()


def _let_go(future: asyncio.Future[GuardedProcess]) -> None:
    """End what was started in the very moment of the cancellation."""
    if future.done() and not future.cancelled() and future.exception() is None:
        future.result().kill()


def _not_sent(spec: ProcessSpec, number: int) -> CannotExecute:
    if number in {errno.EMSGSIZE, errno.ENOBUFS}:
        return cannot_execute(spec, errno.E2BIG)
    return cannot_execute(spec, number, "fork")  # no descriptor was free


def _request(number: int, spec: ProcessSpec, python: str, line: LifeLine) -> dict[str, Any]:
    box = spec.box
    if box is not None:
        spec = evolve(spec, env={**spec.env, **box.env})
    request: dict[str, Any] = {
        "spawn": number,
        "argv": _all_as_bytes(spec.argv),
        "env": _as_variables({**spec.env, MARKER: line.marker(number)}),
        "cwd": _as_bytes(absolute_folder(spec)),
        "limits": kernel_limits(spec.limits),
        "stdio": spec.stdio,
        "box": None if box is None else box.to_json(),
    }
    forker = _forker_request(spec, python, line)
    return request if forker is None else {**request, "fork": forker}


def _forker_request(spec: ProcessSpec, python: str, line: LifeLine) -> dict[str, Any] | None:
    """Return what forks a process, as the guardian starts it; None for one that is started afresh."""
    fork = fork_of(spec, python, os.environ)
    if fork is None:
        return None
    # Whatever is forked has the environment that the forker began with in /proc, and so its marker.
    return {"argv": _all_as_bytes(fork.argv), "env": _as_variables({**fork.env, MARKER: line.marker(0)})}


def _as_variables(environment: Mapping[str, str]) -> dict[str, str]:
    return {_as_bytes(name): _as_bytes(value) for name, value in environment.items()}


def _all_as_bytes(texts: Iterable[str]) -> list[str]:
    return [_as_bytes(text) for text in texts]


def _as_bytes(text: str) -> str:
    """Return the bytes of a file system's text, one a character: the guardian may take the locale for another one."""
    return os.fsencode(text).decode("latin-1")


def _no_guardian(python: str, reason: str) -> CannotExecute:
    return CannotExecute(
        f"cannot execute {python!r} as the guardian of the daemons: {reason}; see that it runs by hand", program=python
    )


def _lost_guardian(spec: ProcessSpec) -> CannotExecute:
    program = spec.argv[0]
    return CannotExecute(
        f"cannot execute {program!r}: the guardian of the daemons was killed meanwhile; start it again",
        plugin=spec.name,
        program=program,
        is_final=False,
    )
