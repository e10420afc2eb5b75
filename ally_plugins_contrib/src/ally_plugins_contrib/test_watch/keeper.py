"""Runs one command and outlives nothing: a small process between the plugin and the tests.

    python keeper.py COMMAND [ARGUMENT ...]

Its standard input is a pipe that nobody writes to: when it closes, whoever started the keeper is gone, in whatever way,
and the command is ended with everything that it has started, also what has left its process group. It then ends with
the command's code. It needs the standard library only, and starts without site packages.

On Linux it is the subreaper of what the command leaves behind; elsewhere it ends the command's process group.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["CANNOT_EXECUTE", "NOT_FOUND", "main"]

CANNOT_EXECUTE: Final = 126
NOT_FOUND: Final = 127
"""As shells have it."""

GRACE: Final = 0.5
"""Seconds between SIGTERM and SIGKILL: a host that stops waits a second for its tasks."""

_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
_PROC: Final = Path("/proc")
_IS_LINUX: Final = sys.platform.startswith("linux")


def main(command: list[str]) -> int:
    """Run a command until it ends or standard input closes; return its code."""
    _adopt_orphans()
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    except OSError as error:
        print(f"{command[0]!r} cannot be run: {os.strerror(error.errno or 0)}", flush=True)  # noqa: T201
        return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_EXECUTE
    code = _wait(child.pid, woken)
    _end(child.pid)
    return code


def _wait(pid: int, woken: int) -> int:
    """Wait for the command's end, for that of standard input, or for a signal."""
    while True:
        ready, _, _ = select.select([sys.stdin.fileno(), woken], [], [])
        while (found := _reap()) is not None:
            if found[0] == pid:
                code = os.waitstatus_to_exitcode(found[1])
                return code if code >= 0 else 128 - code
        if sys.stdin.fileno() in ready:
            return 128 + signal.SIGTERM
        if any(number != signal.SIGCHLD for number in os.read(woken, 512)):
            return 128 + signal.SIGTERM


def _reap() -> tuple[int, int] | None:
    """Return one process that has ended, with its status."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def _end(group: int) -> None:
    """End all that is left, politely first."""
    deadline = time.monotonic() + GRACE
    _signal_all(group, signal.SIGTERM)
    while _is_any_left():
        if time.monotonic() > deadline:
            _signal_all(group, signal.SIGKILL)
        time.sleep(0.01)


def _is_any_left() -> bool:
    while _reap() is not None:
        pass
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _signal_all(group: int, number: int) -> None:
    if not _IS_LINUX:  # there the tree below is known, and the number of a group that is gone may be another's by now
        with suppress(OSError):
            os.killpg(group, number)
    for pid in _descendants():
        with suppress(OSError):
            os.kill(pid, number)


def _descendants() -> list[int]:
    """Return all processes below this one; an empty list where there is no /proc."""
    parents: dict[int, int] = {}
    with suppress(OSError):
        for entry in os.listdir(_PROC):  # noqa: PTH208 - names are enough
            with suppress(OSError, ValueError, IndexError):
                stat = (_PROC / entry / "stat").read_text("ascii", "replace")
                parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {os.getpid()})


def _adopt_orphans() -> None:
    """Become the parent of what the command leaves behind, where the system can do so."""
    if not _IS_LINUX:
        return
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
