"""The process tree: who is below whom, and how processes are signalled, killed and reaped."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from typing import Final

__all__ = [
    "MARKER",
    "TICK",
    "children",
    "close",
    "descendants",
    "drain",
    "is_ours",
    "kill",
    "kill_all",
    "reap",
    "send_signal",
    "wake_on_child",
]

MARKER: Final = "ALLY_DAEMON_ID"
"""The variable in a daemon's environment that its orphans are known by when the guardian itself was killed."""

TICK: Final = 0.01  # seconds between two looks at a tree that is being killed; there are none while nothing ends
SLOWEST_TICK: Final = 0.1  # the same, when what is left can not be killed at once (it waits for a disk)

_HAS_LISTS: Final = os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # noqa: PTH110 - CONFIG_PROC_CHILDREN


def children(pid: int) -> list[int]:
    """Return the children of a process; none for one that is gone."""
    return _listed_children(pid) if _HAS_LISTS else _children_by_parent(pid)


def _listed_children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        # The kernel lists a child under the thread that forked it.
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                found += map(int, file.read().split())
    except OSError:
        pass
    return found


def _children_by_parent(pid: int) -> list[int]:
    """Do the same on a kernel without lists: ask every process for its parent."""
    found: list[int] = []
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
            # From the last bracket on: a program's name, which stands before it, may have brackets and blanks.
            if int(file.read().rpartition(b")")[2].split()[1]) == pid:
                found.append(int(name))
    return found


def descendants(root: int) -> list[int]:
    """Return everything below a process, parents before their children."""
    found: list[int] = []
    to_visit = [root]
    while to_visit:
        below = children(to_visit.pop())
        found += below
        to_visit += below
    return found


def send_signal(pids: Iterable[int], number: int) -> None:
    """Send a signal to processes; those that are gone or another user's are passed over."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def is_ours(pid: int) -> bool:
    """Return whether a process may be sent signals; it is another user's otherwise, or gone."""
    try:
        # Signal 0 does nothing but ask.
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def kill(pids: Iterable[int]) -> None:
    """Kill processes with their groups: a signal to a group is atomic, so what is being forked there dies too.

    A group never spans two daemons, since each daemon begins a session.
    """
    pids = list(pids)
    groups = set[int]()
    for pid in pids:
        with contextlib.suppress(OSError):
            groups.add(os.getpgid(pid))
    for group in groups - {os.getpgid(0)}:  # a child that is not yet at its `setsid` is in the guardian's own
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    send_signal(pids, signal.SIGKILL)


def kill_all() -> None:
    """Kill everything below this process, also what is forked meanwhile, and return when nothing is left."""
    me = os.getpid()
    # A millisecond, since most end at once; longer and longer, for what waits for a disk.
    pause = TICK / 10
    while reap():
        kill(descendants(me))
        time.sleep(pause)
        pause = min(pause * 1.1, SLOWEST_TICK)


def reap() -> bool:
    """Reap what has ended, and return whether anything is left: whatever is below is below a child."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def close(descriptors: Iterable[int]) -> None:
    """Close descriptors, as far as they are open."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def wake_on_child() -> int:
    """Return a descriptor that becomes readable when a child dies."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # It does nothing, but must be there: for a signal without a Python handler nothing is written to the descriptor.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def drain(descriptor: int) -> None:
    """Read what is there."""
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 512):
            pass
