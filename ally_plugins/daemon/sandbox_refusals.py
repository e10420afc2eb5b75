"""Which grant would have allowed what a sandbox refused: looked up when an error came of it, and told with it.

Only what Python raises as PermissionError is known here. What other programs say of a refusal stands in the log.
"""

from __future__ import annotations

import errno
import os
import socket
import traceback
from collections.abc import Iterator
from typing import Final

from ally_plugins.runtime.sandbox.box import SANDBOXED

__all__ = ["SHARED", "hint", "is_shared", "refused_grant"]

SHARED: Final = "shared_memory"
"""What the host is told that a sandbox has none of, whatever is granted."""

_SHARING: Final = ("/multiprocessing/synchronize.py", "/multiprocessing/shared_memory.py")
"""Modules whose locks and memory lie in /dev/shm. Nothing there can be opened to a plugin without what other programs
of its user keep there: a name of such a lock is no path below a folder, and Landlock has rights over folders."""

_LONGEST_CHAIN: Final = 5  # errors that were raised of one another


def refused_grant(error: BaseException) -> str | None:
    """Return the grant that would allow what an error, or one that it came from, was refused; None where none did.

    Looks at the file: one that can be read was to be written.
    """
    if SANDBOXED not in os.environ:
        return None
    for each in _chain(error):
        if isinstance(each, PermissionError) and not _shares(each) and (grant := _grant_of(each)) is not None:
            return grant
    return None


def is_shared(error: BaseException) -> bool:
    """Say whether an error, or one that it came from, is that locks or memory of several processes were refused."""
    return SANDBOXED in os.environ and any(
        isinstance(each, PermissionError) and _shares(each) for each in _chain(error)
    )


def _shares(error: PermissionError) -> bool:
    return any(frame.filename.endswith(_SHARING) for frame in traceback.extract_tb(error.__traceback__))


def hint(error: BaseException) -> str:
    """Return a line that names the grant, or what to do where no grant helps; empty where neither is known."""
    if is_shared(error):
        return (
            "\nrefused by its sandbox: locks and memory that processes share by name (multiprocessing, "
            "ProcessPoolExecutor), which no grant allows; use threads, asyncio or subprocess"
        )
    grant = refused_grant(error)
    return f"\nrefused by its sandbox: the grant {grant!r} would allow it" if grant is not None else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if found is None:
            return
        yield found
        found = found.__cause__ or found.__context__


def _grant_of(error: PermissionError) -> str | None:
    name = error.filename
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if isinstance(name, str) and name:
        return _file_grant(os.path.abspath(name)) if "/" in name or os.path.lexists(name) else f"run:{name}"  # noqa: PTH100
    frames = traceback.extract_tb(error.__traceback__)
    is_socket = any(frame.filename == socket.__file__ for frame in frames)
    return "network" if error.errno == errno.EPERM and is_socket else None


def _file_grant(path: str) -> str:
    if not os.path.lexists(path):  # it was to be made
        return f"files:write:{os.path.dirname(path)}"  # noqa: PTH120
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        is_program = os.path.isfile(path) and os.access(path, os.X_OK)  # noqa: PTH113
        return f"run:{path}" if is_program else f"files:read:{path}"
    return f"files:write:{path}"
