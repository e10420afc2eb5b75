"""Keeping a process of ours from being looked into by others of the same user (Linux)."""

from __future__ import annotations

import sys

__all__ = ["forbid_inspection"]


def forbid_inspection() -> bool:
    """Let no process without root's rights trace this one, read its memory, environment or descriptors, or dump it.

    It holds until the process ends, and for what it forks until that executes a program. It ends core dumps, and
    debuggers and profilers that attach from outside. Return whether the system can do that.
    """
    if sys.platform != "linux":
        return False
    from .guardian.child_setup import PR_SET_DUMPABLE, prctl

    try:
        prctl(PR_SET_DUMPABLE, 0)
    except OSError:  # a seccomp filter of a container
        return False
    return True
