"""The guardian's loop: it spawns and ends trees for one host, and everything when the host is gone."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from .child_setup import IGNORED, PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, PYTHON_IGNORES, prctl
from .keeper import keep
from .line import receive
from .process_tree import ME, children, close, descendants, has_children, is_ours, kill, reap, send_signal

__all__ = ["Guardian", "Tree", "main"]

TICK: Final = 0.01  # seconds between two looks at a tree that is being killed; there are none while nothing ends
SLOWEST_TICK: Final = 0.1  # the same, when what is left can not be killed at once (it waits for a disk)


class Tree:
    """One daemon's processes, which are those below its keeper; it lives until nothing of them is left."""

    __slots__ = ("deadline", "has_exited", "keeper", "link", "main", "number", "pidfd", "pipe", "status")

    def __init__(self, number: int, keeper: int, link: socket.socket, pipe: int) -> None:
        self.number = number
        self.keeper: int | None = keeper
        """None when it has ended, and with it everything below."""
        self.link = link
        self.pipe = pipe
        """Ends without a byte when the program was executed; -1 when that is known."""
        self.main: int | None = None
        """The main process, once the keeper has named it."""
        self.pidfd = -1
        self.status: int | None = None
        """How the main process has ended, as `waitpid` gives it."""
        self.has_exited = False
        """Whether that was reported."""
        self.deadline: float | None = None
        """When what is left is killed; None while the tree is to live."""


class Guardian:
    """The loop that serves one host, from its start to its end."""

    def __init__(self, line: socket.socket, host: int) -> None:
        self._line = line
        self._is_over = False
        self._trees: dict[int, Tree] = {}
        self._keepers: dict[int, Tree] = {}
        self._has_strays = False
        """Whether a keeper was killed: what was below it may be the guardian's own children now."""
        self._outbox: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._watch(line.fileno(), self._serve)
        self._watch(host, self._end)
        reader = _wake_on_child()
        self._watch(reader, lambda: _drain(reader))

    def run(self) -> None:
        """Serve until the host is gone."""
        self._send({"ready": True})
        while not self._is_over:
            for descriptor, _ in self._poll.poll(self._pause()):
                # A handler before it in this turn may have ended the watch.
                handler = self._handlers.get(descriptor)
                if handler is not None:
                    handler()
            self._reap()
            self._check_ending()
            self._kill_strays()

    def finish(self) -> None:
        """Kill everything below, also what is forked meanwhile, and return when nothing is left."""
        # A millisecond, since most end at once; longer and longer, for what waits for a disk.
        pause = TICK / 10
        while has_children():
            kill(descendants(ME))
            time.sleep(pause)
            pause = min(pause * 1.1, SLOWEST_TICK)

    # --- the life line ---

    def _watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, select.POLLIN)

    def _end(self) -> None:
        self._is_over = True

    def _serve(self) -> None:
        self._flush()
        try:
            data, descriptors = receive(self._line)
        except BlockingIOError:
            return
        if not data:
            self._end()
            return
        message = json.loads(data)
        if "spawn" in message:
            self._spawn(message, tuple(descriptors))
        else:
            self._end_tree(message["end"], message["grace"])

    def _send(self, message: dict[str, Any], *descriptors: int) -> None:
        self._outbox.append((json.dumps(message).encode(), descriptors))
        self._flush()

    def _flush(self) -> None:
        while self._outbox:
            data, descriptors = self._outbox[0]
            try:
                socket.send_fds(self._line, [data], descriptors)
            except BlockingIOError:
                break
            except OSError:
                self._end()
                return
            self._outbox.popleft()
            close(descriptors)
        self._poll.modify(self._line, select.POLLIN | (select.POLLOUT if self._outbox else 0))

    # --- beginning ---

    def _spawn(self, request: dict[str, Any], descriptors: tuple[int, ...]) -> None:
        try:
            tree = self._fork(request, descriptors)
        except OSError as error:
            self._send({"refused": request["spawn"], "stage": "fork", "errno": error.errno})
            return
        finally:
            close(descriptors)
        self._trees[tree.number] = self._keepers[tree.keeper or 0] = tree
        self._watch(tree.pipe, lambda: self._settle(tree))
        self._watch(tree.link.fileno(), lambda: self._listen(tree))

    def _fork(self, request: dict[str, Any], descriptors: tuple[int, ...]) -> Tree:
        if len(descriptors) != 1 + request["stdio"]:  # the kernel drops those for which no number is free
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        # `exec` closes the writer: an end without a byte is how success shows.
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                link.setblocking(False)  # noqa: FBT003
                keeper = os.fork()
                if keeper == 0:
                    keep(request, descriptors, writer, theirs)
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        return Tree(request["spawn"], keeper, link, reader)

    def _listen(self, tree: Tree) -> None:
        """Take what a keeper says: which process is the main one, and how it ended."""
        while tree.link.fileno() >= 0:
            try:
                data, descriptors = receive(tree.link)
            except BlockingIOError:
                return
            word, _, number = data.decode("ascii", "replace").partition(" ")
            if word == "pid":
                tree.main = int(number)
                if descriptors and tree.number in self._trees:
                    tree.pidfd = descriptors[0]
                else:
                    close(descriptors)
                self._settle(tree)
            elif word == "exit":
                tree.status = int(number)
                self._settle(tree)
            else:  # it has said all, or was killed
                self._unwatch(tree.link.fileno())
                tree.link.close()

    def _settle(self, tree: Tree) -> None:
        """Report to the host that the program was executed or why not, and then how it ended, once these are known."""
        if tree.pipe >= 0 and not self._settle_start(tree):
            return
        if tree.status is not None and not tree.has_exited and tree.number in self._trees:
            code, tree.has_exited = os.waitstatus_to_exitcode(tree.status), True
            how = {"code": code, "signal": None} if code >= 0 else {"code": None, "signal": -code}
            self._send({"exited": tree.number, **how})

    def _settle_start(self, tree: Tree) -> bool:
        """Return whether it is known, and reported, how the start went: the pipe is at its end, the process named."""
        try:
            report = os.read(tree.pipe, 100)
        except BlockingIOError:
            return False
        if not report and tree.main is None and tree.keeper is not None:
            self._unwatch(tree.pipe)  # which would be readable for ever; the keeper is about to name it
            return False
        self._unwatch(tree.pipe)
        os.close(tree.pipe)
        tree.pipe = -1
        if not report and tree.main is not None:
            self._send({"started": tree.number, "pid": tree.main}, *((tree.pidfd,) if tree.pidfd >= 0 else ()))
            return True
        stage, _, number = report.decode().partition(" ")
        self._send({"refused": tree.number, "stage": stage or "fork", "errno": int(number or errno.EAGAIN)})
        close((tree.pidfd,))
        del self._trees[tree.number]
        return True

    def _unwatch(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    # --- ending ---

    def _reap(self) -> None:
        for pid, status in reap():
            tree = self._keepers.pop(pid, None)
            if tree is None:
                continue
            self._listen(tree)
            tree.keeper = None
            if status != 0:  # it was killed: the kernel kills the main process, and gives the guardian the rest
                self._has_strays = True
                if tree.main is not None and tree.status is None:
                    tree.status = int(signal.SIGKILL)
            self._settle(tree)

    def _end_tree(self, number: int, grace: float) -> None:
        tree = self._trees.get(number)
        if tree is None:
            # It is gone, or never began: whoever ends it waits for this.
            self._send({"ended": number})
            return
        deadline = time.monotonic() + grace
        if tree.deadline is None and grace > 0:
            members = self._members(tree)
            send_signal(members, signal.SIGTERM)
            send_signal(members, signal.SIGCONT)  # a stopped process gets SIGTERM only once it runs again
        tree.deadline = deadline if tree.deadline is None else min(tree.deadline, deadline)

    def _check_ending(self) -> None:
        """Look at the trees that end: they are gone, or it is time to kill what is left."""
        for tree in [tree for tree in self._trees.values() if tree.deadline is not None]:
            # A stray may be of any tree whose keeper was killed, so none of them is gone before it.
            if tree.keeper is None and not self._has_strays:
                del self._trees[tree.number]
                self._send({"ended": tree.number})
            elif time.monotonic() >= (tree.deadline or 0):
                kill(self._members(tree))
                send_signal([tree.keeper] if tree.keeper is not None else [], signal.SIGCONT)  # the daemon stopped it

    def _members(self, tree: Tree) -> list[int]:
        return [] if tree.keeper is None else descendants(tree.keeper)

    def _kill_strays(self) -> None:
        """Kill what became the guardian's own child, since its keeper was killed: nobody could end it any more."""
        if self._has_strays:
            strays = [pid for pid in children(ME) if pid not in self._keepers and is_ours(pid)]
            self._has_strays = bool(strays)
            kill([*strays, *(pid for stray in strays for pid in descendants(stray))])

    def _pause(self) -> float | None:
        if self._has_strays:
            return TICK * 1000
        deadlines = [tree.deadline for tree in self._trees.values() if tree.deadline is not None]
        if not deadlines:
            return None
        return max(TICK, min(deadlines) - time.monotonic()) * 1000


def _wake_on_child() -> int:
    """Return a descriptor that becomes readable when a child dies."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # It does nothing, but must be there: for a signal without a Python handler nothing is written to the descriptor.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 512):
            pass


def main() -> None:
    """Take the life line's descriptor and the host's process id from the command line, and serve."""
    # First: a plugin of an earlier guardian may be there already, and must not take the life line out of this one.
    prctl(PR_SET_DUMPABLE, 0)
    line = socket.socket(fileno=int(sys.argv[1]))
    # It was handed over by inheriting it, and no program below may have it.
    line.set_inheritable(False)
    line.setblocking(False)  # noqa: FBT003
    # The mask of the host's thread was inherited, and each daemon would inherit it in its turn.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # It ends with its host: signals to everything of a terminal, or of a user, must leave it to end the daemons.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, *PYTHON_IGNORES}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN if number in IGNORED else signal.SIG_DFL)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    host = os.pidfd_open(int(sys.argv[2]))  # a forked copy of the host may hold the life line open
    # So that it keeps no folder of the host's in use.
    os.chdir("/")
    guardian = Guardian(line, host)
    guardian.run()
    guardian.finish()


if __name__ == "__main__":
    main()
