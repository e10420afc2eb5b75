"""Files of the home, checked before they are used: opens any of them, and checks what SQLite will open by itself.

A pipe, a device or another user's file in a file's place is an error that says the way out, and never blocks. What
counts as trusted is decided in `policy.owned_files`. It lives in `journal`, the lowest package that opens files.
"""

from __future__ import annotations

# Strings and `os`, no pathlib: a start opens a dozen files, and building the paths would cost as much as the calls.
# ruff: noqa: PTH116
import os
from typing import TYPE_CHECKING, Final

from ally_plugins.policy.owned_files import fault_of, way_out_of

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.policy.owned_files import Me

__all__ = ["acting_as", "check_file", "check_folder", "open_file", "read_file"]

_FLAGS: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NEVER_WAIT: Final = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
"""A pipe without a writer, or a terminal, would keep the open itself waiting."""
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)


def acting_as() -> Me | None:
    """Return as whom this process opens files, None where the platform has no owners."""
    return (os.geteuid(), os.getegid()) if os.name == "posix" else None


def check_file(path: str | Path, *, follow: bool = False, is_own: bool = True) -> None:
    """Raise OSError, with the way out, for what is no file, or not to be trusted; nothing there is fine.

    A link is refused unless `follow`; then what it leads to counts. Without `is_own` it may be anybody's. It is not
    opened: closing what SQLite has open in this process would let go of its locks.
    """
    _check(path, follow=follow, me=acting_as() if is_own else None)


def check_folder(path: str | Path) -> None:
    """Raise OSError for a folder that is none, or that somebody else may have written; nothing there is fine.

    A link is followed: what it leads to counts.
    """
    _check(path, follow=True, me=acting_as(), is_folder=True)


def _check(path: str | Path, *, follow: bool, me: Me | None, is_folder: bool = False) -> None:
    try:
        found = os.stat(path, follow_symlinks=follow)
    except (FileNotFoundError, NotADirectoryError):
        return
    _refuse(fault_of(os.fspath(path), found, me, is_folder=is_folder))


def open_file(path: str | Path, flags: int, *, follow: bool = False, is_own: bool = True) -> int:
    """Open a file and return its descriptor. Raises OSError as `check_file` does; never waits.

    A file that is made is its owner's only. What was opened is what was looked at, whatever happens to the name
    meanwhile.
    """
    name, me = os.fspath(path), acting_as() if is_own else None
    _check(
        name, follow=follow, me=None
    )  # first, since `open` reports a link as ELOOP and cannot say what to do; a missing file may be created
    descriptor = os.open(name, flags | _FLAGS | _NEVER_WAIT | (0 if follow else _NO_LINK), 0o600)
    try:
        _refuse(fault_of(name, os.fstat(descriptor), me))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_file(path: str | Path, limit: int, *, follow: bool = False, is_own: bool = True) -> bytes | None:
    """Read a file, None when there is none. Raises OSError as `open_file` does, and past `limit` bytes."""
    try:
        descriptor = open_file(path, os.O_RDONLY, follow=follow, is_own=is_own)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(None, f"it has more than {limit} bytes; {way_out_of(os.fspath(path))}")
    return content


def _refuse(fault: str) -> None:
    if fault:
        raise OSError(None, fault)
