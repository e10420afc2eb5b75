"""Whose process is at the other end of a local socket: the kernel's word, not the peer's."""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Any, Final

__all__ = ["is_own", "peer_uid"]

_UCRED: Final = struct.Struct("3i")  # pid, uid, gid: `struct ucred` of Linux


def is_own(connection: Any) -> bool:
    """Say whether a connected local socket leads to a process of this one's user.

    Where the system does not tell, the private directory that the socket lies in has kept others out.
    """
    uid = peer_uid(connection)
    return uid is None or uid == os.geteuid()


def peer_uid(connection: Any) -> int | None:
    """Return the user id of the process at the other end, None where the system does not tell. Raises OSError."""
    if sys.platform == "linux":
        _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return int(uid)
    return _getpeereid(connection.fileno())


def _getpeereid(descriptor: int) -> int | None:
    """Ask the C library of macOS and the BSDs, which the standard library has no call for."""
    import ctypes

    try:
        function = ctypes.CDLL(None, use_errno=True).getpeereid
    except (AttributeError, OSError, TypeError):
        return None
    uid, gid = ctypes.c_uint32(), ctypes.c_uint32()
    if function(ctypes.c_int(descriptor), ctypes.byref(uid), ctypes.byref(gid)) != 0:
        raise OSError(ctypes.get_errno(), "getpeereid failed")
    return uid.value
