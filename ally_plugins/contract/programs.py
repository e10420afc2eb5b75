"""A program that is run once, and how that ended: plain facts. Running it is left to `runtime.processes`."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from .values.frozen import FrozenDict

__all__ = ["Program", "Ran"]


@frozen(kw_only=True)
class Program:
    """A program to be run once. `name` is what errors call it; `timeout` is in seconds."""

    name: str
    command: tuple[str, ...]
    cwd: str
    given: bytes = field(default=b"", repr=False)
    """What it reads on its standard input."""
    timeout: float
    variables: Mapping[str, str] = field(default=FrozenDict(), repr=False)
    """What is set for it beside the variables of every plugin's process. Values may be secret: never show them."""


@frozen(kw_only=True)
class Ran:
    """How one run of a program ended. `is_cut` says that it wrote more than is kept in `stdout`."""

    stdout: bytes = b""
    stderr: bytes = b""
    is_cut: bool = False
    ended: str = ""
    """How it ended, in words, where that was not with code 0."""
