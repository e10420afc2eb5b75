"""The descriptors that a daemon is started with: made its own, so that nothing else can write into the protocol.

Descriptor 0 and 1 may be two pipes or the two ends of one socket. They are copied to private ones; what `print`, C code
and child processes write to descriptor 1 goes to stderr from then on, and descriptor 0 is empty.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

__all__ = ["Descriptors", "is_terminal", "take_stdio"]


class Descriptors(NamedTuple):
    """Where the protocol is read and written; both belong to the receiver, and no child inherits them."""

    reading: int
    writing: int


def is_terminal() -> bool:
    """Return whether a person has started this by hand: then nobody speaks the protocol at the other end."""
    return os.isatty(0)


def take_stdio() -> Descriptors:
    """Take the protocol's descriptors from 0 and 1, and put /dev/null and stderr in their places.

    To be called first of all: what was printed before, and is still in a buffer, goes to stderr with the rest.
    """
    taken = Descriptors(os.dup(0), os.dup(1))  # as any descriptor of Python's, not inherited
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    if sys.stdout is not None:  # pythonw has none
        # It still writes to descriptor 1. By lines, since stderr is read while the daemon runs.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    return taken
