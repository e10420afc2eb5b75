"""The journal's files, looked at before they are opened: what is no file is never waited for.

What counts as trusted is decided in `policy.owned_files`; the other files of the home are the catalog's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from ally_plugins.policy.owned_files import fault_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_file", "read_small"]

_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOFOLLOW", 0)
)


def check_file(path: Path, *, follow: bool = False, is_own: bool = True) -> None:
    """Raise OSError, with the way out, for what SQLite will open and cannot be trusted; nothing there is fine.

    It is not opened: closing it would let go of the locks that SQLite has on it in this process.
    """
    try:
        found = path.stat() if follow else path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    _refuse(path, found, is_own=is_own)


def read_small(path: Path, limit: int, *, is_own: bool) -> bytes | None:
    """Return the first `limit` bytes of a file, None when there is none. Raises OSError as `check_file` does."""
    check_file(path, is_own=is_own)
    try:
        descriptor = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        _refuse(path, os.fstat(descriptor), is_own=is_own)  # another one, if it was replaced meanwhile
        return file.read(limit)


def _refuse(path: Path, found: os.stat_result, *, is_own: bool) -> None:
    me = (os.geteuid(), os.getegid()) if is_own and os.name == "posix" else None
    if fault := fault_of(str(path), found, me):
        raise OSError(None, fault)
