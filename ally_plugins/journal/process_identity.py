"""Which process something belongs to, so that another one can say later whether it is dead; and what /proc tells of it.

A number alone proves nothing, since the system gives it to another process after a while. Linux can prove most, and
where nothing can be proved each answer is no.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from attrs import frozen

__all__ = [
    "ProcessIdentity",
    "has_ended",
    "has_variable",
    "is_stopped",
    "parent_and_start",
    "start_ticks",
    "stat_fields",
]

_STATE: Final = 0  # field 3 of /proc/PID/stat, the first that follows the name
_PARENT: Final = 1  # field 4
_START_TIME: Final = 19  # field 22 of it, counted in the same way
_DEAD: Final = ("Z", "X", "x")  # a zombie has ended, though nobody has asked for its exit code yet
_STOPPED: Final = ("T", "t")  # by a signal, or a debugger


@frozen
class ProcessIdentity:
    """One process of one machine since it was last started; what the platform does not tell is None."""

    pid: int
    started: int | None
    """When it started, in clock ticks since boot."""
    boot: str | None
    """The id of the boot that it runs in."""
    namespace: str | None
    """The PID namespace (the container) in which its number is its number."""

    @classmethod
    def own(cls) -> ProcessIdentity:
        """Return that of this process."""
        return _identity_of(os.getpid())

    @classmethod
    def of(cls, pid: int, started: int) -> ProcessIdentity:
        """Return that of a process of this namespace, whose number and start were seen."""
        return cls(pid, started, _boot(), _namespace())

    def is_dead(self) -> bool:
        """Say whether the process is provably not there any more."""
        boot, namespace = _boot(), _namespace()
        # All processes of an earlier boot have ended, in whatever namespace. No other machine is meant: hosts of two
        # machines cannot share a journal, since SQLite's log needs their shared memory.
        if self.boot is not None and boot is not None and self.boot != boot:
            return True
        # In another container the number is another process.
        if self.namespace != namespace:
            return False
        return has_ended(self.pid) or (self.started is not None and start_ticks(self.pid) not in {None, self.started})


@cache
def _identity_of(pid: int) -> ProcessIdentity:
    # Kept by pid, so that a fork does not take its parent's.
    return ProcessIdentity(pid, start_ticks(pid), _boot(), _namespace())


def has_ended(pid: int) -> bool:
    """Say whether there is no process of this number."""
    # Before signal 0, which reaches a zombie as well.
    if (fields := stat_fields(pid)) is not None:
        return fields[_STATE] in _DEAD
    if sys.platform == "win32":  # there `os.kill` would end it
        return False
    try:
        os.kill(pid, 0)
    # OverflowError for a number that no pid can be: what was read from a file may be anything.
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # somebody else's
        return False
    return False


def is_stopped(pid: int) -> bool:
    """Say whether a process is stopped."""
    fields = stat_fields(pid)
    return fields is not None and fields[_STATE] in _STOPPED


def has_variable(pid: int, name: str, value: str) -> bool:
    """Say whether a process was started with an environment variable of this value."""
    try:
        return f"{name}={value}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when that cannot be known."""
    fields = stat_fields(pid)
    return None if fields is None else int(fields[_START_TIME])


def parent_and_start(pid: int) -> tuple[int, int] | None:
    """Return a process's parent and when it started, as one look saw them; None when that cannot be known."""
    fields = stat_fields(pid)
    return None if fields is None else (int(fields[_PARENT]), int(fields[_START_TIME]))


def stat_fields(pid: int) -> list[str] | None:
    """Return what stands behind the program's name in a process's /proc/PID/stat; None when it cannot be read."""
    try:
        # `replace`: a program's name may be any bytes, and is not looked at.
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    # From the last bracket on: a program's name, which stands first, may have brackets and blanks in it.
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) > _START_TIME else None


@cache
def _boot() -> str | None:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii", "replace").strip() or None
    return None


@cache
def _namespace() -> str | None:
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return None
