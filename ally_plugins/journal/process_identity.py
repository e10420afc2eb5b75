"""Which process something belongs to, so that another one can say later whether it is dead: Linux can prove most.

A number alone proves nothing, since the system gives it to another process after a while.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from attrs import frozen

__all__ = ["ProcessIdentity", "start_ticks"]

_STATE: Final = 0  # field 3 of /proc/PID/stat, the first that follows the name
_START_TIME: Final = 19  # field 22 of it, counted in the same way
_DEAD: Final = ("Z", "X", "x")  # a zombie has ended, though nobody has asked for its exit code yet


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

    def is_dead(self) -> bool:
        """Say whether the process is provably not there any more. Where that cannot be proved, the answer is no."""
        boot, namespace = _boot(), _namespace()
        if self.boot is not None and boot is not None and self.boot != boot:
            return True
        if self.namespace != namespace or sys.platform == "win32":  # there `os.kill` would end it
            return False
        if (fields := _stat(self.pid)) is not None:
            return fields[_STATE] in _DEAD or (self.started is not None and int(fields[_START_TIME]) != self.started)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False


@cache
def _identity_of(pid: int) -> ProcessIdentity:
    return ProcessIdentity(pid, start_ticks(pid), _boot(), _namespace())


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when that cannot be known."""
    fields = _stat(pid)
    return None if fields is None else int(fields[_START_TIME])


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return None
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
