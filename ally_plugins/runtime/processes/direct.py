"""Processes as children of the host itself: for machines that have no guardian. What is weaker stands in `gaps`.

A thread for each process waits for its end, so that no child watcher of the loop and no SIGCHLD handler is needed.
Windows has neither sessions nor socket pairs that a program could use: see `piped`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Final, Protocol

from ally_plugins.contract.values.compat import override

from .executing import cannot_execute
from .launcher import Launcher
from .process import UNKILLABLE, Exit, Process, ProcessSpec, absolute_folder, kernel_limits

if TYPE_CHECKING:
    from .stdio import Ends

__all__ = ["GAPS", "Child", "DirectLauncher", "DirectProcess"]

_log: Final = logging.getLogger(__name__)

POLL: Final = 0.02
"""Seconds between two looks whether an ending process group is empty: the kernel does not report that."""

GAPS: Final = (
    "a daemon that ignores the end of its input outlives a host that is killed",
    "what a daemon starts in a session of its own is not stopped with it",
    "each plugin's process starts an interpreter of its own: there is no forker",
)
GAP_LIMITS: Final = "memory, processor time, file size and descriptors of a daemon are not limited"
GAP_LATE_LIMITS: Final = "a daemon's limits hold from a moment after its start"


class Child(Protocol):
    """A child process, whoever started it and waits for it."""

    def get_pid(self) -> int | None:
        """Return its process id."""

    def get_returncode(self) -> int | None:
        """Return its exit code, a signal as a negative number, None while it lives."""

    def kill(self) -> None:
        """Kill it alone."""

    def close(self) -> None:
        """Let go of it, once it is dead."""


class DirectProcess(Process):
    """A child of the host in a session of its own."""

    def __init__(self, child: Child, on_gone: Callable[[DirectProcess], None]) -> None:
        super().__init__(child.get_pid() or 0)
        self._child = child
        self._on_gone = on_gone
        self._deadline = float("inf")
        self._ending: asyncio.Task[None] | None = None

    def note_death(self) -> None:
        """Look whether the main process is dead and reaped."""
        code = self._child.get_returncode()
        if code is not None:
            self.note_exit(Exit(code, None) if code >= 0 else Exit(None, -code))
            if not self._is_there():  # at once: later the group's number may be another's
                self.note_gone()

    @override
    def _end(self, grace: float) -> None:
        loop = asyncio.get_running_loop()
        self._deadline = min(self._deadline, loop.time() + grace)
        if self._ending is None:
            self._ending = loop.create_task(self._end_tree(), name=f"ally-end-{self.pid}")
        elif grace <= 0:
            # At once: the task that ends it looks at the deadline only every `POLL` seconds.
            self._signal("SIGKILL")

    async def _end_tree(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._deadline:
            self._signal("SIGTERM")
            # A process that is stopped gets SIGTERM only once it runs again.
            self._signal("SIGCONT")
        while not self.gone.done() and self._is_there():
            if loop.time() >= self._deadline:
                self._signal("SIGKILL")
            await asyncio.sleep(POLL)
        self.note_death()  # the callback of the thread may still be on its way
        self.note_gone()

    def _is_there(self) -> bool:
        is_alive = self._child.get_returncode() is None
        if sys.platform == "win32":
            return is_alive
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return is_alive
        except PermissionError:  # macOS says so of a group of zombies
            return is_alive
        return True

    def _signal(self, name: str) -> None:
        if self._is_ending:
            return
        if sys.platform != "win32":
            # Gone between the look and the signal, or on macOS all of the group are zombies.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.Signals[name])
        elif name == "SIGKILL":  # Windows has no other signal; until then the end of its input must do
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()

    @override
    def _finish(self) -> None:
        super()._finish()
        if self._ending is not None:
            self._ending.cancel()
        self._child.close()
        self._on_gone(self)


class _WaitedChild:
    """A child and the thread that waits for it."""

    def __init__(self, child: subprocess.Popen[bytes], on_death: Callable[[], None]) -> None:
        self._child = child
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._wait, name=f"ally-wait-{child.pid}", daemon=True)
        self._thread.start()

    def get_pid(self) -> int | None:
        return self._child.pid

    def get_returncode(self) -> int | None:
        return self._child.returncode

    def kill(self) -> None:
        self._child.kill()

    def close(self) -> None:
        self._thread.join()  # it has nothing left to do

    def _wait(self) -> None:
        self._child.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._on_death)


class DirectLauncher(Launcher):
    """Launches children of the host, each with a thread that waits for its end."""

    def __init__(self) -> None:
        self.gaps = (*GAPS, GAP_LATE_LIMITS if sys.platform == "linux" else GAP_LIMITS)
        self._processes: set[DirectProcess] = set()

    @override
    async def start(self) -> None:
        """Do nothing: there is nothing to make ready."""

    @override
    async def _spawn(self, spec: ProcessSpec, ends: Ends) -> Process:
        """Start a child; its limits are set right after."""
        stdio = subprocess.DEVNULL if ends.child_stdio is None else ends.child_stdio.fileno()
        output = ends.child_stderr if ends.child_stdio is None else stdio
        folder = absolute_folder(spec)
        with explained(spec, folder):
            child = subprocess.Popen(  # noqa: S603, ASYNC220 - what the operator consented to; a fork is short
                spec.argv, stdin=stdio, stdout=output, stderr=ends.child_stderr, cwd=folder, env=dict(spec.env),
                # A group to be signalled as a whole, and no Ctrl-C from the host's terminal.
                start_new_session=True,
            )  # fmt: skip
        return self._adopt(_WaitedChild(child, lambda: self._note_death(child.pid)), spec)

    @override
    async def close(self) -> None:
        """Kill every child with its group, and wait until nothing is left, for `UNKILLABLE` seconds at most.

        Cancelling it only ends the waiting.
        """
        processes = list(self._processes)
        for process in processes:
            process.kill()
        if processes:
            _, left = await asyncio.wait([process.gone for process in processes], timeout=UNKILLABLE)
            if left:
                _log.warning("%d processes of plugins do not end, though they were killed", len(left))

    def _adopt(self, child: Child, spec: ProcessSpec) -> DirectProcess:
        process = DirectProcess(child, self._processes.discard)
        self._processes.add(process)
        _limit(process.pid, spec)
        return process

    def _note_death(self, pid: int) -> None:
        for process in [process for process in self._processes if process.pid == pid]:
            process.note_death()


@contextlib.contextmanager
def explained(spec: ProcessSpec, folder: str) -> Generator[None]:
    """Turn what Python raises for a program that cannot be started into CannotExecute."""
    try:
        yield
    except OSError as error:
        raise cannot_execute(spec, error.errno or 0, "folder" if error.filename == folder else "exec") from error
    except ValueError as error:  # a null byte
        raise cannot_execute(spec, errno.EINVAL) from error


def _limit(pid: int, spec: ProcessSpec) -> None:
    if sys.platform != "linux":
        return
    # Here: Windows has no such module.
    import resource

    for name, soft, hard in kernel_limits(spec.limits):
        with contextlib.suppress(OSError, ValueError):  # it is dead, or the host itself is held to less
            resource.prlimit(pid, getattr(resource, name), (soft, hard))
