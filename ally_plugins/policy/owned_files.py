"""What a file of the home must be to be trusted, judged by its `os.stat_result`; and the error text when it is not.

A regular file or a folder, of this user or root, that nobody else can write. Who looks and opens is in
`journal.owned_files`.
"""

from __future__ import annotations

import shlex
import stat
from typing import Final, Protocol

__all__ = ["FileStatus", "Me", "fault_of", "is_foreign", "shared_with", "way_out_of"]

Me = tuple[int, int]
"""The user and the group that a process acts as; None in its place where whose a file is does not count."""

_KINDS: Final = (
    (stat.S_ISREG, "a regular file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)
_NO_FILE: Final = "and not a regular file"
_NO_FOLDER: Final = "and not a folder"
_SHARED: Final = "can be written by everybody"


class FileStatus(Protocol):
    """The part of an `os.stat_result` that is looked at."""

    @property
    def st_mode(self) -> int:
        """Its kind and who may do what."""
        ...

    @property
    def st_uid(self) -> int:
        """Its owner."""
        ...

    @property
    def st_gid(self) -> int:
        """Its group."""
        ...


def fault_of(path: str, found: FileStatus, me: Me | None, *, is_folder: bool = False) -> str:
    """Return why what was found at a path cannot be trusted, what was expected, and the way out; empty when it can.

    Without `me` only its kind counts: where the platform has no owners, and for evidence from elsewhere.
    """
    is_right = stat.S_ISDIR if is_folder else stat.S_ISREG
    if not is_right(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "something else")
        return f"it is {kind} {_NO_FOLDER if is_folder else _NO_FILE}; {way_out_of(path)}"
    if me is not None and is_foreign(found, me):
        whose = f"it belongs to the user {found.st_uid}, expected the user {me[0]} or root"
        return f"{whose}; if what it holds is to be trusted: chown {me[0]} {shlex.quote(path)}"
    shared = shared_with(path, found, me)
    return f"expected what only its owner can write, and it {shared}" if shared else ""


def is_foreign(found: FileStatus, me: Me | None) -> bool:
    """Return whether something belongs to neither this user nor root."""
    # Root may change every file anyway.
    return me is not None and found.st_uid not in {me[0], 0}


def shared_with(path: str, found: FileStatus, me: Me | None) -> str:
    """Return who can write something besides its owner, and the way out; empty when nobody can.

    A group may where it is the user's own: on systems where each user has one, that is how editors leave files.
    """
    # The bits of a link mean nothing: what it leads to is looked at by itself.
    if me is None or stat.S_ISLNK(found.st_mode):
        return ""
    if found.st_mode & stat.S_IWOTH:
        return f"{_SHARED}; mend it: chmod o-w {shlex.quote(path)}"
    if found.st_mode & stat.S_IWGRP and found.st_gid != me[1]:
        return f"can be written by the group {found.st_gid}; mend it: chmod g-w {shlex.quote(path)}"
    return ""


def way_out_of(path: str) -> str:
    """Return the command that takes what lies at a path away and keeps it."""
    return f"move it away: mv {shlex.quote(path)} {shlex.quote(f'{path}.away')}"
