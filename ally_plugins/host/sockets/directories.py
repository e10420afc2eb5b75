"""Directories for sockets and claims: only their owner can enter, and their names are short enough for a socket."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from .leftovers import folder_prefix

__all__ = ["private_directory", "short_directory", "unlink"]

_PRIVATE: Final = 0o700


def private_directory(path: Path) -> Path:
    """Make a directory that only this user can enter, or see that it is one. Raises PermissionError when it is not."""
    path.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
    if os.name != "posix":
        return path
    # Not `stat`: in a folder that users share, another one may have put a link there.
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{str(path)!r} is not a directory of this user; remove it, or name another")
    if stat.S_IMODE(found.st_mode) != _PRIVATE:
        path.chmod(_PRIVATE)
    return path


def short_directory() -> Path:
    """Return a private directory of this user whose path is short, the same one every time where that is possible."""
    # Cron, sudo and services do not set the variable, and all hosts of a user have to look in one place.
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    if not os.access(base, os.W_OK):
        base = Path(tempfile.gettempdir())
    try:
        return private_directory(base / f"ally-{os.geteuid()}")
    except OSError:  # another user made it first, or we may not write there
        # With the process's id in its name, by which a later host finds and removes it.
        return Path(tempfile.mkdtemp(prefix=folder_prefix()))


def unlink(path: str) -> None:
    """Remove a file, if it is there."""
    with suppress(OSError):
        Path(path).unlink()
