"""One message of the life line, with its descriptors; both ends read it so."""

from __future__ import annotations

import socket
from array import array
from typing import Final

__all__ = ["receive"]

MESSAGE_BYTES: Final = 1 << 20  # the kernel's default bound of one message is a fifth of it
DESCRIPTORS: Final = 8  # a spawn has two

_INT: Final = array("i").itemsize


def receive(line: socket.socket) -> tuple[bytes, list[int]]:
    """Take one message and its descriptors; no bytes at the end of the line. Raises BlockingIOError.

    `socket.recv_fds` drops its flags, so that descriptors would be inherited by whatever is started next.
    """
    descriptors = array("i")
    try:
        data, extras, *_ = line.recvmsg(MESSAGE_BYTES, socket.CMSG_SPACE(DESCRIPTORS * _INT), socket.MSG_CMSG_CLOEXEC)
    # An OSError too, and no end of the line.
    except BlockingIOError:
        raise
    except OSError:
        return b"", []
    for level, kind, content in extras:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            # What the kernel has cut may end amid a number.
            descriptors.frombytes(content[: len(content) // _INT * _INT])
    return data, list(descriptors)
