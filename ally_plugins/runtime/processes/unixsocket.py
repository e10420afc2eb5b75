"""Unix sockets: one that is private from its first moment on, who listens on one, and who is at the other end.

Who is there is the kernel's word, not the peer's. Where a socket lies, and when one that a dead host left may go, is
decided by whoever made it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["LONGEST_PATH", "OtherEnd", "is_own", "listening_socket", "other_end", "who_listens"]

LONGEST_PATH: Final = 103
"""Bytes of a socket's path: macOS has 104 with the NUL at the end, Linux 108."""

_UCRED: Final = struct.Struct("3i")  # pid, uid, gid: `struct ucred` of Linux


class OtherEnd(NamedTuple):
    """The process at the other end of a connection; `pid` is 0 where the system gives the user only."""

    pid: int
    uid: int


def other_end(connection: Any) -> OtherEnd | None:
    """Return who is at the other end of a connected socket, None where the system hides it. Raises OSError."""
    if sys.platform == "linux":
        pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return OtherEnd(pid, uid)
    uid = _getpeereid(connection.fileno())
    return OtherEnd(0, uid) if uid is not None else None


def is_own(connection: Any) -> bool:
    """Return whether a connected socket leads to a process of this one's user. Raises OSError when it is gone already.

    Where the system does not report it, the private directory that the socket lies in has kept others out.
    """
    found = other_end(connection)
    return found is None or found.uid == os.geteuid()


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


def listening_socket(path: Path | str) -> socket.socket:
    """Return a listening socket that only this user can connect to from its first moment on. Raises OSError.

    It lies in a directory that nobody else can enter; the caller closes the socket and removes the file.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(OSError):
            os.fchmod(sock.fileno(), 0o600)  # Linux makes the file with these bits, less the umask
        sock.bind(os.fspath(path))
        Path(path).chmod(0o600)  # elsewhere the file had other bits until here, and the directory kept others out
        sock.listen()
        sock.setblocking(False)  # noqa: FBT003 - takes no name
    except BaseException:
        sock.close()
        raise
    return sock


def who_listens(path: str) -> str | None:
    """Return a description of who listens; None only when the kernel reports that nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        # A listener whose queue is full would keep a blocking `connect` waiting.
        sock.setblocking(False)  # noqa: FBT003 - takes no name
        try:
            sock.connect(path)
            found = other_end(sock)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except OSError as error:  # a full queue, or not ours to connect to: either way somebody's
            return "a busy program" if error.errno == errno.EAGAIN else "a program of another user"
        return f"the process {found.pid}" if found is not None and found.pid else "another program"
