"""The pluggy markers of this project: `hookimpl` for plugins and hosts, `hookspec` for `hookspecs.py` alone."""

from __future__ import annotations

from typing import Final

import pluggy

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT: Final = "ally"
"""pluggy's project name; the markers and the two managers share it."""

hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)
"""Marks a method as the implementation of the hook of its name (or of `specname=`); `tryfirst`, `trylast` place it."""
