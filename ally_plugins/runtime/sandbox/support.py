"""What this machine can keep of a sandbox, and what not, in sentences for the operator."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from typing import Final, NamedTuple

from .rights import EXECUTE, SCOPES_SINCE, known

__all__ = ["Support", "gaps", "support", "unguarded"]

_MACHINES: Final = ("x86_64", "aarch64")
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_CUTS: Final = 1 << 14  # LANDLOCK_ACCESS_FS_TRUNCATE


class Support(NamedTuple):
    """What the kernel offers to a process of this one's kind."""

    has_filter: bool
    """Whether system calls can be filtered; without that there is no sandbox at all."""
    landlock: int
    """The version of Landlock's interface, 0 for none."""
    system: str
    """The system and architecture."""


def support() -> Support:
    """Look up what this kernel offers; some microseconds. Changes nothing and raises nothing."""
    system = f"{sys.platform} {os.uname().machine}" if hasattr(os, "uname") else sys.platform
    if sys.platform != "linux" or os.uname().machine not in _MACHINES or sys.maxsize < 1 << 32:
        return Support(has_filter=False, landlock=0, system=system)
    from .kernel import landlock_version

    libc = ctypes.CDLL(None, use_errno=True)
    # A filter at no address: refused as such where there are filters, and as an unknown word where there are none.
    libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), None, 0, 0)
    return Support(has_filter=ctypes.get_errno() == errno.EFAULT, landlock=landlock_version(), system=system)


def gaps(found: Support, has_namespaces: Callable[[], bool] = lambda: False) -> tuple[str, ...]:
    """Return what a sandbox does not keep on such a machine, the gravest first; empty where it keeps all.

    `has_namespaces` says whether its processes can have a PID namespace, where that makes a difference: what is in one
    can signal nothing outside, whatever Landlock knows.

    How many processes a plugin starts is limited for an ordinary user where namespaces can be made, and how much of the
    processor and the disk it takes nowhere: both are on the page of what is trusted, and not named here.
    """
    if not found.has_filter:
        return (f"there is no sandbox on {found.system}: a plugin that is placed in one runs as in a process",)
    missing = []
    if not known(found.landlock) & EXECUTE:
        missing.append("files are not guarded (no Landlock): it may read and change what you may")
    elif not known(found.landlock) & _CUTS:
        missing.append("files that it may not read can be emptied all the same (Landlock before version 3, Linux 6.2)")
    if found.landlock < SCOPES_SINCE and not has_namespaces():
        text = (
            "it may end your other programs (Landlock before version 6, Linux 6.12, and no PID namespace can be made)"
        )
        missing.append(text)
    return tuple(missing)


def unguarded(found: Support) -> tuple[str, ...]:
    """Return the kinds of grants to which nothing holds a sandboxed plugin on such a machine."""
    if not found.has_filter:
        return ("files", "network", "run")
    # The network is closed by the filter; what is executed and read, by Landlock.
    return () if known(found.landlock) & EXECUTE else ("files", "run")
