"""Which way of starting processes this machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .process import Launcher

__all__ = ["make_launcher"]


def make_launcher(kind: Literal["auto", "guardian", "direct"] = "auto") -> Launcher:
    """Return a launcher: under a guardian where the machine can, else direct. Must be called on the loop it serves.

    What the chosen way cannot give stands in its `gaps`.
    """
    from .guarded import GuardedLauncher, is_guardian_possible

    if kind == "guardian" or (kind == "auto" and is_guardian_possible()):
        return GuardedLauncher()
    from .direct import DirectLauncher

    return DirectLauncher()
