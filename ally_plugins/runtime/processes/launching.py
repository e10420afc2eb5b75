"""Which way of starting processes this machine has."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from ally_plugins.contract.process_spec import running_python

from .ancestry import has_guardians

if TYPE_CHECKING:
    from .launcher import Launcher

__all__ = ["is_guardian_possible", "make_launcher"]


def is_guardian_possible() -> bool:
    """Return whether there is what a guardian needs: Linux 5.3 with pidfds, /proc, and a Python that can be started."""
    return bool(running_python()) and has_guardians()


def make_launcher(kind: Literal["auto", "guardian", "direct"] = "auto") -> Launcher:
    """Return a launcher: under a guardian where the machine can, else direct. Must be called on the loop it serves.

    What the chosen way cannot give stands in its `gaps`.
    """
    if kind == "guardian" or (kind == "auto" and is_guardian_possible()):
        from .guardian_client import GuardedLauncher

        return GuardedLauncher()
    if sys.platform == "win32":
        from .piped import PipedLauncher

        return PipedLauncher()
    from .direct import DirectLauncher

    return DirectLauncher()
