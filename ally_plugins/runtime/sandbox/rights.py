"""Landlock's rights, and since which version of its interface the kernel knows each; data and pure functions."""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["CONTENT", "CREATE", "EXECUTE", "FILE_RIGHTS", "LISTING", "NO_RIGHTS", "SCOPES_SINCE", "known", "ruleset"]

EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_REMOVE: Final = 1 << 4 | 1 << 5  # folders, files
_MAKE_DEVICE: Final = 1 << 6 | 1 << 11  # of characters, of blocks
_MAKE: Final = 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 12  # folders, files, sockets, pipes, links
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
_IOCTL_DEVICE: Final = 1 << 15

_SINCE: Final = (
    (1, EXECUTE | _WRITE_FILE | _READ_FILE | _READ_DIR | _REMOVE | _MAKE_DEVICE | _MAKE),
    (2, _REFER),
    (3, _TRUNCATE),
    (5, _IOCTL_DEVICE),
)
"""Version of the interface, and the rights over files that came with it. What is not known is not guarded: before
version 3 any file can be cut to no length. Without `_REFER`, nothing is linked or moved from folder to folder."""

_NETWORK_SINCE: Final = 4
_NETWORK: Final = 1 << 0 | 1 << 1  # TCP: to listen at a port, to connect to one
SCOPES_SINCE: Final = 6
_SCOPES: Final = 1 << 0 | 1 << 1  # abstract Unix sockets, and signals, of processes outside

NO_RIGHTS: Final = 0
CONTENT: Final = _READ_FILE
LISTING: Final = _READ_DIR
CREATE: Final = _WRITE_FILE | _REMOVE | _MAKE | _REFER | _TRUNCATE
"""All that changes files and folders. Not devices, which no plugin makes."""

FILE_RIGHTS: Final = EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
"""What a rule for a file may hold: the kernel takes no others there."""


def known(version: int) -> int:
    """Return all rights over files that a version of the interface knows; they are refused where no rule gives them."""
    rights = NO_RIGHTS
    for since, new in _SINCE:
        rights |= new if version >= since else NO_RIGHTS
    return rights


def ruleset(version: int, *, network: bool) -> bytes:
    """Return `struct landlock_ruleset_attr`, as long as the version knows it.

    Files are guarded, TCP where the network is not granted, and abstract sockets and signals of processes outside.
    """
    parts = [known(version)]
    if version >= _NETWORK_SINCE:
        parts.append(NO_RIGHTS if network else _NETWORK)
    if version >= SCOPES_SINCE:
        parts.append(_SCOPES)
    return struct.pack(f"={len(parts)}Q", *parts)
