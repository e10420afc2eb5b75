"""A PID namespace for the tree of a sandboxed program, where the kernel lets this user have one.

Its first process is its init: every orphan there becomes a child of that, and when it ends, however it does, the kernel
kills all the others at once. What is inside sees no process of the machine, can signal none, and has a number of
processes that it cannot pass. A namespace of mounts comes with it, for a /proc of its own: programs find processes
there by the numbers that they have.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from .child_setup import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, name_process, prctl
from .process_tree import children

if TYPE_CHECKING:
    import socket

__all__ = ["begin_init", "can_separate", "outer_pid", "reap_all", "separate"]

CLONE_NEWUSER: Final = 0x10000000  # linux/sched.h
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNS: Final = 0x00020000
MS_REC: Final = 0x4000  # linux/mount.h
MS_SLAVE: Final = 0x80000
MS_NOSUID_NODEV_NOEXEC: Final = 0xE
MOST_PROCESSES: Final = 512  # with threads, at one time, as `sandbox.enter` has it; a build has some dozens
PID_MAX: Final = "/proc/sys/kernel/pid_max"
OWN_PID_MAX: Final = (6, 14)
"""The Linux since which the limit is a namespace's own. Before, it is the machine's, and must be left alone."""

# Found before anything is forked: each child would compile the expression again, for half a millisecond.
_RELEASE: Final = re.match(r"(\d+)\.(\d+)", os.uname().release) if hasattr(os, "uname") else None
_HAS_OWN_PID_MAX: Final = _RELEASE is not None and tuple(map(int, _RELEASE.groups())) >= OWN_PID_MAX

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def can_separate() -> bool:
    """Return whether all of this works here; tried in a child, since what fails half way cannot be undone."""
    child = os.fork()
    if child == 0:
        try:
            separate()
            inside = os.fork()
            if inside == 0:
                begin_init()
                os._exit(0)
            os._exit(int(os.waitpid(inside, 0)[1] != 0))
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def separate() -> None:
    """Have the next process that this one forks begin a PID namespace, in which all below it are. Raises OSError.

    Who may not have one alone may have one with a user namespace, in which this process is from then on, as the user
    that it was.
    """
    user, group = os.getuid(), os.getgid()
    with suppress(OSError):
        _unshare(CLONE_NEWPID | CLONE_NEWNS)
        return
    _unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS)
    prctl(PR_SET_DUMPABLE, 1)  # or its own files below /proc would be root's
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    prctl(PR_SET_DUMPABLE, 0)


def _unshare(flags: int) -> None:
    _check(_LIBC.unshare(flags))


def _mount(kind: bytes | None, target: bytes, flags: int) -> None:
    _check(_LIBC.mount(kind, target, kind, ctypes.c_ulong(flags), None))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def begin_init() -> None:
    """Make the first process of a namespace its init. Raises OSError."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    name_process("ally-init")
    # What is mounted outside later is to be seen inside, and nothing the other way round.
    _mount(None, b"/", MS_REC | MS_SLAVE)
    _mount(b"proc", b"/proc", MS_NOSUID_NODEV_NOEXEC)
    if _HAS_OWN_PID_MAX:
        with suppress(OSError), open(PID_MAX, "wb", 0) as file:  # noqa: PTH123 - a container may have it read-only
            file.write(b"%d" % MOST_PROCESSES)


def reap_all(program: int, link: socket.socket) -> NoReturn:
    """Be the init: report the program's end to the guardian, and end when nothing is left."""
    try:
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == program:
                link.send(b"exit %d" % status)
    except ChildProcessError:
        os._exit(0)
    finally:
        os._exit(1)


def outer_pid(pidfd: int, keeper: int) -> int | None:
    """Return the number here of a program in a namespace below a keeper; None when it has ended."""
    with suppress(OSError, ValueError), open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:  # noqa: PTH123
        found = re.search(rb"^Pid:\s*(\d+)", file.read(), re.MULTILINE)
        if found is not None:
            return int(found[1])
    # An older kernel, which closes that to a process that nobody may look into: the only child of the keeper's only.
    return next((pid for init in children(keeper) for pid in children(init)), None)
