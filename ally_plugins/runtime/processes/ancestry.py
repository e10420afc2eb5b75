"""What stands above a process: a guardian, whose every child is a plugin's, and whatever else has started it (Linux).

The kernel's word, since every orphan below a guardian stays below it. A plugin in no sandbox can leave its tree with
the help of another program of the user (a service manager, a terminal); one in a sandbox reaches none. Below other
processes an orphan does not stay.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from ally_plugins.journal.process_identity import parent_and_start

from .guardian.process_tree import MARKER

__all__ = [
    "Lineage",
    "chain_to_guardian",
    "chain_to_guardian_of_peer",
    "has_guardians",
    "is_plugins_own",
    "lineage_of",
    "lineage_of_peer",
    "nearest_above_peer",
]

_SCRIPT: Final = "/".join(("", *Path(__file__).with_name("guardian").parts[-3:], "__main__.py")).encode()
"""The end of the path of what a guardian runs, in whatever environment this package is installed."""
_OPTIONS: Final = [b"-I", b"-S"]
_TRIES: Final = 20
"""Walks up a tree that changes meanwhile. What is still not known then counts as below a guardian."""
_HIGHEST: Final = 4096
"""Processes above one another; a walk that finds more goes round in a circle of recycled numbers."""

_LACKING: Final = (errno.ENOSYS, errno.EPERM)
"""How a kernel, or a container's filter, says that it has no such call."""

_SO_PEERPIDFD: Final = 77  # asm-generic/socket.h, Linux 6.5; the socket module has no name for it


@frozen
class Lineage:
    """A process and those above it, as far as they are seen."""

    processes: tuple[tuple[int, int], ...] = ()
    """Each with when it started, in clock ticks since boot; from it up. None where there can be no guardian."""
    below: int | None = None
    """How many of them lie below a guardian, which is counted; None where there is none."""

    @property
    def chain(self) -> tuple[int, ...]:
        """Those up to the guardian, empty where it lies below none."""
        return tuple(pid for pid, _ in self.processes[: self.below or 0])


Chain = tuple[int, ...] | None
"""The processes from one of them up to the guardian that it lies below: empty where it lies below none, None where it
has ended or the system does not tell, which is to be taken for a plugin's."""

_UNSEEN: Final = Lineage()


def has_guardians() -> bool:
    """Return whether this kernel has what a guardian needs: Linux 5.3 with pidfds, and /proc."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        # Any other one passes: where no descriptor is free just now, there may be guardians all the same.
        if error.errno in _LACKING:
            return False
    return os.path.exists("/proc/self/stat")  # noqa: PTH110


def is_plugins_own() -> bool:
    """Return whether this process is a plugin's, or was started by one."""
    # The marker alone is enough, though not needed: what has killed its guardian may still carry it.
    return MARKER in os.environ or chain_to_guardian(os.getpid()) != ()


def chain_to_guardian(pid: int) -> Chain:
    """Return what lies between a process and its guardian; see `Chain`. Empty where there can be no guardian."""
    found = lineage_of(pid)
    return None if found is None else found.chain


def chain_to_guardian_of_peer(connection: Any) -> Chain:
    """Return the same of the process at the other end of a connected Unix socket."""
    found = lineage_of_peer(connection)
    return None if found is None else found.chain


def lineage_of(pid: int) -> Lineage | None:
    """Return a process and those above it; None where it has ended or the system does not tell."""
    if not has_guardians():
        return _UNSEEN
    for _ in range(_TRIES):
        found = _look_above(pid)
        if found is not None:
            return found
    return None


def lineage_of_peer(connection: Any) -> Lineage | None:
    """Return the same of the process at the other end of a connected Unix socket."""
    if not has_guardians():
        return _UNSEEN
    try:
        pid = _peer_pid(connection)
        pidfd = _peer_pidfd(connection, pid)
    except OSError:
        return None
    try:
        found = lineage_of(pid)
        # After the walk: while it has not ended, its number was nobody else's.
        return found if found is not None and (found.chain or not _has_ended(pidfd)) else None
    finally:
        os.close(pidfd)


def nearest_above_peer(connection: Any, is_wanted: Callable[[int], bool]) -> tuple[int, int] | None:
    """Return the nearest process above the one at the other end of a connected Unix socket that is wanted.

    With when it started, in clock ticks since boot. What stands further up is not looked at, so it costs less than
    `lineage_of_peer`. None where none is wanted, one on the way has ended, or the system does not tell.
    """
    try:
        pid = _peer_pid(connection)
        pidfd = _peer_pidfd(connection, pid)
    except OSError:
        return None
    try:
        found = next(filter(None, (_nearest_above(pid, is_wanted) for _ in range(_TRIES))), None)
        return None if _has_ended(pidfd) else found  # as above
    finally:
        os.close(pidfd)


def _nearest_above(pid: int, is_wanted: Callable[[int], bool]) -> tuple[int, int] | None:
    """Walk up to a process that is wanted; None as in `_look_above`, and where none is."""
    found = parent_and_start(pid)
    for _ in range(_HIGHEST):
        if found is None or found[0] == 0:
            return None
        pid, started = found
        found = parent_and_start(pid)
        if found is None or found[1] > started:  # as in `_look_above`
            return None
        if is_wanted(pid):
            # Once more: what was looked at may have ended, and the number be another's.
            return (pid, found[1]) if parent_and_start(pid) == found else None
    return None


def _look_above(pid: int) -> Lineage | None:
    """Walk up to the first process; None when one on the way has ended or got another parent meanwhile."""
    found: list[tuple[int, int]] = []
    below = None
    while len(found) < _HIGHEST:
        fields = parent_and_start(pid)
        if fields is None:
            # Where /proc hides the processes of others, those above are the system's, which no plugin has started.
            return Lineage(tuple(found), below) if found and (below or _is_hidden(pid)) else None
        # A parent is older than its child: a younger one got the number of one that has ended.
        if found and fields[1] > found[-1][1]:
            return Lineage(tuple(found), below) if below else None
        found.append((pid, fields[1]))
        if below is None and _is_guardian(pid):
            below = len(found)
        pid = fields[0]
        if pid == 0:  # above it is nothing, or what stands outside of this PID namespace
            return Lineage(tuple(found), below)
    return None


def _is_guardian(pid: int) -> bool:
    with suppress(OSError):
        _, *arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return arguments[:2] == _OPTIONS and len(arguments) > len(_OPTIONS) and arguments[2].endswith(_SCRIPT)
    return False


def _is_hidden(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _peer_pid(connection: Any) -> int:
    pid = int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
    if pid <= 0:
        raise ProcessLookupError("it stands outside of this PID namespace")
    return pid


def _peer_pidfd(connection: Any, pid: int) -> int:
    try:
        return int(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
    except OSError:  # an older kernel: who has ended already may have another one's number
        return os.pidfd_open(pid)


def _has_ended(pidfd: int) -> bool:
    try:
        # Signal 0 does nothing but ask.
        signal.pidfd_send_signal(pidfd, 0)
    except OSError:
        return True
    return False
