"""Files of the home, looked at before they are used: the one place that opens any of them.

A regular file, owned by this user or root, that nobody else can write; what else lies in its place is told with the way
out, and never waited for. It stands in the lowest room that touches the disk, since `audit.head` is such a file.
"""

from __future__ import annotations

# Strings and `os` all the way: a start opens a dozen of them, and pathlib costs as much as the calls.
# ruff: noqa: PTH116
import os
import shlex
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "check_file",
    "check_folder",
    "fault_of",
    "is_foreign",
    "open_file",
    "read_file",
    "shared_with",
    "way_out_of",
]

_FLAGS: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NEVER_WAIT: Final = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
"""A pipe without a writer, or a terminal, would keep the open itself waiting."""
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)

_KINDS: Final = (
    (stat.S_ISREG, "a regular file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


def fault_of(path: str | Path, found: os.stat_result, *, is_folder: bool = False, is_own: bool = True) -> str:
    """Return why what was found at a path cannot be trusted, what was expected, and the way out; empty when it can.

    Without `is_own`, and where the platform has no owners, only its kind counts.
    """
    is_right = stat.S_ISDIR if is_folder else stat.S_ISREG
    if not is_right(found.st_mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(found.st_mode)), "something else")
        return f"it is {kind} and not {'a folder' if is_folder else 'a regular file'}; {way_out_of(path)}"
    if os.name != "posix" or not is_own:
        return ""
    if is_foreign(found):
        user = os.geteuid()
        whose = f"it belongs to the user {found.st_uid}, expected the user {user} or root"
        return f"{whose}; if what it holds is to be trusted: chown {user} {shlex.quote(os.fspath(path))}"
    shared = shared_with(path, found)
    return f"expected what only its owner can write, and it {shared}" if shared else ""


def is_foreign(found: os.stat_result) -> bool:
    """Say whether something belongs to neither this user nor root, where the platform has owners."""
    return os.name == "posix" and found.st_uid not in {os.geteuid(), 0}


def shared_with(path: str | Path, found: os.stat_result) -> str:
    """Say who can write something besides its owner, and the way out; empty when nobody, or where there are no modes.

    A group may where it is the user's own: on systems where each user has one, that is how editors leave files.
    """
    if os.name != "posix" or stat.S_ISLNK(found.st_mode):
        return ""
    if found.st_mode & stat.S_IWOTH:
        who, whom = "everybody", "o"
    elif found.st_mode & stat.S_IWGRP and found.st_gid != os.getegid():
        who, whom = f"the group {found.st_gid}", "g"
    else:
        return ""
    return f"can be written by {who}; mend it: chmod {whom}-w {shlex.quote(os.fspath(path))}"


def way_out_of(path: str | Path) -> str:
    """Return the command that takes what lies at a path away and keeps it."""
    name = os.fspath(path)
    return f"move it away: mv {shlex.quote(name)} {shlex.quote(f'{name}.away')}"


def check_file(path: str | Path, *, follow: bool = False, is_own: bool = True) -> None:
    """Raise OSError for what another program will open and cannot be trusted; nothing there is fine.

    For SQLite's files, which must not be opened and closed beside it: that would let go of its locks.
    """
    _check(path, is_folder=False, follow=follow, is_own=is_own)


def check_folder(path: str | Path, *, follow: bool = False) -> None:
    """Raise OSError for a folder that is none, or that somebody else may have written; nothing there is fine."""
    _check(path, is_folder=True, follow=follow, is_own=True)


def _check(path: str | Path, *, is_folder: bool, follow: bool, is_own: bool) -> None:
    try:
        found = os.stat(path, follow_symlinks=follow)
    except (FileNotFoundError, NotADirectoryError):
        return
    _refuse(fault_of(path, found, is_folder=is_folder, is_own=is_own))


def _refuse(fault: str) -> None:
    if fault:
        raise OSError(None, fault)


def open_file(path: str | Path, flags: int, *, follow: bool = False, is_own: bool = True) -> int:
    """Open a file and return its descriptor. Raises OSError, for what is no such file with the way out; never waits.

    A link is refused unless `follow`; then what it leads to counts. A file that is made is its owner's only. What was
    opened is what was looked at, whatever happens to the name meanwhile.
    """
    _check(path, is_folder=False, follow=follow, is_own=False)  # for its words: an open fails in others on a link
    descriptor = os.open(path, flags | _FLAGS | _NEVER_WAIT | (0 if follow else _NO_LINK), 0o600)
    try:
        _refuse(fault_of(path, os.fstat(descriptor), is_own=is_own))
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
        raise OSError(None, f"it has more than {limit} bytes; {way_out_of(path)}")
    return content
