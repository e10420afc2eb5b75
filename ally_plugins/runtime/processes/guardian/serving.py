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

from .child_setup import IGNORED, PR_SET_CHILD_SUBREAPER, PYTHON_IGNORES, exec_program, prctl
from .line import receive
from .process_tree import MARKER, ME, children, close, descendants, has_children, kill, reap, send_signal

__all__ = ["Guardian", "Tree", "main"]

TICK: Final = 0.01  # seconds between two looks at a tree that is being killed; there are none while nothing ends
SLOWEST_TICK: Final = 0.1  # the same, when what is left can not be killed at once (it waits for a disk)


class Tree:
    """One daemon's processes; it lives until nothing of them is left."""

    __slots__ = ("deadline", "main", "marker", "number", "pidfd", "pipe")

    def __init__(self, number: int, main: int, pidfd: int, pipe: int, marker: bytes) -> None:
        self.number = number
        self.main: int | None = main
        self.pidfd = pidfd
        self.pipe = pipe
        """Ends without a byte when the program was executed; -1 when that is known."""
        self.marker = marker
        self.deadline: float | None = None
        """When what is left is killed; None while the tree is to live."""


class Guardian:
    """The loop that serves one host, from its start to its end."""

    def __init__(self, line: socket.socket, host: int) -> None:
        self._line = line
        self._is_over = False
        self._trees: dict[int, Tree] = {}
        self._mains: dict[int, Tree] = {}
        self._sessions: dict[int, Tree] = {}
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
                handler = self._handlers.get(descriptor)
                if handler is not None:
                    handler()
            self._reap()
            self._check_ending()

    def finish(self) -> None:
        """Kill everything below, also what is forked meanwhile, and return when nothing is left."""
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
        self._trees[tree.number] = tree
        self._watch(tree.pipe, lambda: self._settle(tree))

    def _fork(self, request: dict[str, Any], descriptors: tuple[int, ...]) -> Tree:
        if len(descriptors) != 1 + request["stdio"]:  # the kernel drops those for which no number is free
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            child = os.fork()
            if child == 0:
                exec_program(request, descriptors, writer, tuple(self._handlers))
            pidfd = self._open(child)
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        marker = f"\0{MARKER}={request['env'].get(MARKER, '')}\0".encode("latin-1")
        tree = self._mains[child] = self._sessions[child] = Tree(request["spawn"], child, pidfd, reader, marker)
        return tree

    def _open(self, child: int) -> int:
        try:
            return os.pidfd_open(child)
        except OSError:
            os.kill(child, signal.SIGKILL)
            raise

    def _settle(self, tree: Tree) -> None:
        """Report to the host whether the program was executed, once the pipe to the child is at its end."""
        try:
            report = os.read(tree.pipe, 100)
        except BlockingIOError:
            return
        self._poll.unregister(tree.pipe)
        del self._handlers[tree.pipe]
        os.close(tree.pipe)
        tree.pipe = -1
        if not report:
            self._send({"started": tree.number, "pid": tree.main}, tree.pidfd)
            return
        stage, _, number = report.decode().partition(" ")
        self._send({"refused": tree.number, "stage": stage, "errno": int(number)})
        os.close(tree.pidfd)
        self._forget(tree)

    # --- ending ---

    def _reap(self) -> None:
        for pid, status in reap():
            tree = self._mains.pop(pid, None)
            if tree is None:
                continue
            if tree.pipe >= 0:
                self._settle(tree)
            tree.main = None
            if tree.number in self._trees:
                code = os.waitstatus_to_exitcode(status)
                how = {"code": code, "signal": None} if code >= 0 else {"code": None, "signal": -code}
                self._send({"exited": tree.number, **how})

    def _end_tree(self, number: int, grace: float) -> None:
        tree = self._trees.get(number)
        if tree is None:
            self._send({"ended": number})
            return
        deadline = time.monotonic() + grace
        if tree.deadline is None and grace > 0:
            members = self._members(tree, self._orphans())
            send_signal(members, signal.SIGTERM)
            send_signal(members, signal.SIGCONT)  # a stopped process gets SIGTERM only once it runs again
        tree.deadline = deadline if tree.deadline is None else min(tree.deadline, deadline)

    def _check_ending(self) -> None:
        """Look at the trees that end: they are gone, or it is time to kill what is left."""
        ending = [tree for tree in self._trees.values() if tree.deadline is not None]
        if not ending:
            return
        orphans = self._orphans()
        for tree in ending:
            members = self._members(tree, orphans)
            if not members:
                self._forget(tree)
                self._send({"ended": tree.number})
            elif time.monotonic() >= (tree.deadline or 0):
                kill(members)

    def _pause(self) -> float | None:
        deadlines = [tree.deadline for tree in self._trees.values() if tree.deadline is not None]
        if not deadlines:
            return None
        return max(TICK, min(deadlines) - time.monotonic()) * 1000

    def _forget(self, tree: Tree) -> None:
        self._trees.pop(tree.number, None)
        self._sessions = {session: owner for session, owner in self._sessions.items() if owner is not tree}

    # --- whose a process is ---

    def _members(self, tree: Tree, orphans: dict[int, Tree]) -> list[int]:
        roots = [pid for pid, owner in orphans.items() if owner is tree]
        if tree.main is not None:
            roots.append(tree.main)
        return [*roots, *(pid for root in roots for pid in descendants(root))]

    def _orphans(self) -> dict[int, Tree]:
        owners = {pid: self._owner(pid) for pid in children(ME) if pid not in self._mains}
        return {pid: owner for pid, owner in owners.items() if owner is not None}

    def _owner(self, pid: int) -> Tree | None:
        try:
            session = os.getsid(pid)
        except OSError:
            return None
        owner = self._sessions.get(session) or self._marked(pid)
        if owner is None and len(self._trees) == 1:
            owner = next(iter(self._trees.values()))
        if owner is not None:
            self._sessions[session] = owner  # whatever else is in that session came from the same daemon
        return owner

    def _marked(self, pid: int) -> Tree | None:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 - pathlib would double the guardian's start
                environment = b"\0" + file.read()
        except OSError:
            return None
        return next((tree for tree in self._trees.values() if tree.marker in environment), None)


def _wake_on_child() -> int:
    """Return a descriptor that becomes readable when a child dies."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 512):
            pass


def main() -> None:
    """Take the life line's descriptor and the host's process id from the command line, and serve."""
    line = socket.socket(fileno=int(sys.argv[1]))
    line.setblocking(False)  # noqa: FBT003
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, *PYTHON_IGNORES}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN if number in IGNORED else signal.SIG_DFL)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    host = os.pidfd_open(int(sys.argv[2]))  # a forked copy of the host may hold the life line open
    os.chdir("/")
    guardian = Guardian(line, host)
    guardian.run()
    guardian.finish()


if __name__ == "__main__":
    main()
