"""What the guardian knows of one daemon: its start, its keeper, and how it ended."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from .process_tree import close

__all__ = ["Tree"]


class Tree:
    """One daemon's processes, which are those below its keeper; it lives until nothing of them is left.

    Raises OSError where no descriptor is free.
    """

    __slots__ = (
        "deadline",
        "descriptors",
        "ends_well",
        "has_exited",
        "is_forking",
        "is_over",
        "keeper",
        "link",
        "main",
        "number",
        "pidfd",
        "pipe",
        "request",
        "status",
        "theirs",
        "tries",
        "watch",
        "writer",
    )

    def __init__(self, request: dict[str, Any], descriptors: tuple[int, ...]) -> None:
        if len(descriptors) != 1 + request["stdio"]:  # the kernel drops those for which no number is free
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.number: int = request["spawn"]
        self.request = request
        self.descriptors = descriptors
        """What the program gets; closed here once it has them."""
        self.is_forking = False
        """Whether a forker is to start it, and has not."""
        self.tries = 0
        """How many forkers were too old for it."""
        self.keeper: int | None = None
        """Its process id; None while there is none yet, and when it has ended."""
        self.watch = -1
        """The keeper's pidfd."""
        self.is_over = False
        """Whether the keeper has ended, and with it everything below."""
        self.ends_well = False
        """Whether the keeper has said that nothing is left."""
        self.main: int | None = None
        """The main process, once the keeper has named it."""
        self.pidfd = -1
        self.status: int | None = None
        """How the main process has ended, as `waitpid` gives it."""
        self.has_exited = False
        """Whether that was reported."""
        self.deadline: float | None = None
        """When what is left is killed; None while the tree is to live."""
        self.open()

    def open(self) -> None:
        """Make what its start is reported on. Raises OSError."""
        # `exec` closes the writer: an end without a byte is how success shows.
        self.pipe, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        """The first is -1 when it is known how the start went."""
        try:
            self.link, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            close((self.pipe, self.writer))
            raise
        self.link.setblocking(False)  # noqa: FBT003

    def close_theirs(self) -> None:
        """Close the keeper's ends here: only so is its own end seen."""
        close((self.writer,))
        self.theirs.close()
        self.writer = -1

    def release(self) -> None:
        """Close what its keeper has by now."""
        self.close_theirs()
        close(self.descriptors)
        self.descriptors = ()
