"""The keeper of one tree: parent of its main process, and subreaper of whatever loses its parent below that.

A fork of the guardian that does nothing but wait. The kernel gives it every orphan of its tree, whatever session that
has begun and whatever environment it has: what is below the keeper is the tree, and nothing else is. It ends when
nothing is left there.

    keeper to guardian    pid N + pidfd    exit STATUS (as `waitpid` gives it)
"""

from __future__ import annotations

import os
import signal
import socket
from typing import Any, Final, NoReturn

from .child_setup import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, exec_program, prctl
from .process_tree import ME, close

__all__ = ["keep"]

FAILED: Final = 1


def keep(request: dict[str, Any], descriptors: tuple[int, ...], writer: int, link: socket.socket) -> NoReturn:
    """Turn the forked child into a keeper, start the program below it, and wait for everything there to end.

    `writer` is the pipe on which the program's start is reported, `link` the socket to the guardian; all other
    descriptors are the guardian's own, and closed. Never returns.
    """
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != ME:
            os._exit(FAILED)  # the guardian died before it could be noticed
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        # The guardian's, both: its pipe must not be woken for the keeper's children.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        needed = {0, 1, 2, *descriptors, writer, link.fileno()}
        close(set(map(int, os.listdir("/proc/self/fd"))) - needed)  # noqa: PTH208
        keeper = os.getpid()
        program = os.fork()
        if program == 0:
            link.close()
            exec_program(request, descriptors, writer, keeper)
        pidfd = os.pidfd_open(program)  # it cannot be another's: nobody has reaped it
        socket.send_fds(link, [b"pid %d" % program], [pidfd])
        close((pidfd, writer, *descriptors))  # or the end of what the program writes would never be seen
        _wait(program, link)
    except OSError as error:
        os.write(writer, f"fork {error.errno or 0}".encode())
    finally:
        os._exit(FAILED)  # what is below gets SIGKILL, or becomes the guardian's


def _wait(program: int, link: socket.socket) -> NoReturn:
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            os._exit(0)  # nothing is left
        if pid == program:
            link.send(b"exit %d" % status)
            link.close()
