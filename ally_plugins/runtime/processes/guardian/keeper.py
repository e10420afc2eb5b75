"""The keeper of one tree: parent of its main process, and subreaper of whatever loses its parent below that.

A fork, of the guardian or of a forker, that does nothing but wait. The kernel gives it every orphan of its tree,
whatever session that has begun and whatever environment it has: what is below the keeper is the tree, and nothing else
is. It ends when nothing is left there; and when the guardian ends, however that ended, it kills what is left.

    keeper to guardian    keeper PID + pidfd, of itself    program PID + pidfd; PID is 0 in a namespace of its own
                          exit STATUS (as `waitpid` gives it)    end: nothing is left
    guardian to keeper    a byte: the program may begin
"""

from __future__ import annotations

import os
import select
import signal
import socket
from contextlib import suppress
from typing import Final, NoReturn

from .child_setup import PR_SET_CHILD_SUBREAPER, name_process, prctl
from .namespace import begin_init, reap_all, separate
from .process_tree import close, drain, kill_all, wake_on_child

__all__ = ["keep"]

FAILED: Final = 1
INIT: Final = 1
UNKNOWN: Final = 0
"""The number of a process in a namespace, which it does not know itself as it is outside."""


def keep(descriptors: tuple[int, ...], writer: int, link: socket.socket, *, is_separate: bool) -> int:
    """Turn the forked child into a keeper, fork the program below it, and wait for everything there to end.

    Returns in the program only, with its parent's process id. `writer` is the pipe on which the program's start is
    reported, `link` the socket to the guardian; all other descriptors are the parent's own, and closed. With
    `is_separate` there is a PID namespace below the keeper, and between it and the program the init of that.
    """
    parent = _begin(descriptors, writer, link, is_separate=is_separate)
    if parent is None:
        _end_all()
    return parent


def _begin(descriptors: tuple[int, ...], writer: int, link: socket.socket, *, is_separate: bool) -> int | None:
    """Return its parent in the program at its beginning, and None in the keeper when it is to end everything."""
    keeper = os.getpid()
    try:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        name_process("ally-keeper")
        # The parent's, both: its pipe must not be woken for the keeper's children.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        needed = {0, 1, 2, *descriptors, writer, link.fileno()}
        close(set(map(int, os.listdir("/proc/self/fd"))) - needed)  # noqa: PTH208
        _introduce(link, b"keeper", keeper, keeper)
        # Before the program is: a guardian that gave up this start, or has ended, must not find two of it.
        if not link.recv(1):
            os._exit(FAILED)
        if is_separate:
            separate()
        child = os.fork()
        if child == 0:
            return _begin_inside(descriptors, writer, link) if is_separate else _begin_program(link, keeper)
        if not is_separate:
            _introduce(link, b"program", child, child)
        close((writer, *descriptors))  # or the end of what the program writes would never be seen
        _wait(child, link, is_init=is_separate)
    except OSError as error:  # the line to the guardian, or this process could not be forked
        with suppress(OSError):
            os.write(writer, f"fork {error.errno or 0}".encode())
    return None


def _begin_program(link: socket.socket, parent: int) -> int:
    link.close()
    return parent


def _begin_inside(descriptors: tuple[int, ...], writer: int, link: socket.socket) -> int:
    """Be the init of the namespace, and fork the program; returns in that only."""
    try:
        begin_init()
        program = os.fork()
        if program == 0:
            return _begin_program(link, INIT)
        _introduce(link, b"program", program, UNKNOWN)
        close((writer, *descriptors))
        reap_all(program, link)
    except OSError as error:
        with suppress(OSError):
            os.write(writer, f"fork {error.errno or 0}".encode())
    os._exit(FAILED)


def _introduce(link: socket.socket, word: bytes, pid: int, number: int) -> None:
    """Send the guardian the pidfd of a process, and what its number is for the guardian."""
    pidfd = os.pidfd_open(pid)  # it cannot be another's: nobody has reaped it
    socket.send_fds(link, [b"%s %d" % (word, number)], [pidfd])
    os.close(pidfd)


def _wait(child: int, link: socket.socket, *, is_init: bool) -> None:
    """Return when the guardian has ended."""
    wake = wake_on_child()
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    poll.register(link, select.POLLIN)
    is_watched = True
    while is_watched:
        try:
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                # An init that was killed has reported nothing, and the kernel has killed the program.
                if reaped[0] == child and (reaped[1] or not is_init):
                    link.send(b"exit %d" % reaped[1])
        except ChildProcessError:
            link.send(b"end")
            os._exit(0)  # nothing is left
        is_watched = link.fileno() not in dict(poll.poll())
        drain(wake)


def _end_all() -> NoReturn:
    try:
        kill_all()
    finally:
        os._exit(FAILED)
