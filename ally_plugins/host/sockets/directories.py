"""Directories for sockets and claims: only their owner can enter, and their names are short enough for a socket.

Removes the sockets of dead hosts, too.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from ally_plugins.runtime.processes.unixsocket import who_listens

__all__ = ["private_directory", "remove_stale", "short_directory", "unlink"]

_PRIVATE: Final = 0o700
_STALE: Final = 60.0  # seconds after which a socket that nobody listens on is that of a dead host


def private_directory(path: Path) -> Path:
    """Make a directory that only this user can enter, or see that it is one. Raises PermissionError when it is not."""
    path.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
    if os.name != "posix":
        return path
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{str(path)!r} is not a directory of this user; remove it, or name another")
    if stat.S_IMODE(found.st_mode) != _PRIVATE:
        path.chmod(_PRIVATE)
    return path


def short_directory() -> Path:
    """Return a private directory of this user whose path is short, the same one every time where that is possible."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    if not os.access(base, os.W_OK):
        base = Path(tempfile.gettempdir())
    try:
        return private_directory(base / f"ally-{os.geteuid()}")
    except OSError:  # another user made it first, or we may not write there
        return Path(tempfile.mkdtemp(prefix="ally-"))


def unlink(path: str) -> None:
    """Remove a file, if it is there."""
    with suppress(OSError):
        Path(path).unlink()


def remove_stale(directory: Path, pattern: str) -> None:
    """Remove the sockets that killed hosts have left, of the names that match a glob pattern."""
    for path in directory.glob(pattern):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > _STALE and who_listens(str(path)) is None:
                path.unlink()
