"""The guardian's side of its forkers: which are there, what waits for one, and what is done when one fails.

A forker is started with the first program that may be forked. It is handed one at a time; the next when the keeper of
the one before has named itself. What cannot be forked is started afresh.

    guardian to forker    fork    then for what it forks: a request, with the program's descriptors, the writer of its
                          start, and the keeper's link
    forker to guardian    ready    stale: a file of what it has loaded has changed, and it ends    failed REASON
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from .child_setup import IGNORED, PYTHON_IGNORES
from .process_tree import close

if TYPE_CHECKING:
    from .tree import Tree

__all__ = ["Forkers", "Owner", "last_message"]

PATIENCE: Final = 7.0
"""Seconds that a forker has to become ready, and to fork; 150 and 1 ms here."""
PAUSE: Final = 60.0
"""Seconds in which none is started again that could not become ready: what it loads is broken, and takes time to be."""
MOST: Final = 3
"""Forkers at once, each with some 17 MB; plugins of a host differ little in what an interpreter's start depends on."""
MOST_TRIES: Final = 1
"""Fresh forkers for one program, whose files changed in the very moment."""
FORK: Final = b"fork"
_LONGEST_WORD: Final = 4096  # bytes that a forker says at once
LINE: Final = 3
"""The number that a forker finds its line at."""


class Owner(Protocol):
    """The guardian, as its forkers see it."""

    def watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        """Call the handler whenever the descriptor is readable."""

    def unwatch(self, descriptor: int) -> None:
        """Stop that."""

    def reopen(self, tree: Tree) -> bool:
        """Make anew what a start is reported on; False where that cannot be, and the start was refused."""
        ...

    def start_afresh(self, tree: Tree, reason: str) -> None:
        """Start what could not be forked; the reason is for the operator."""


class _Forker:
    """One forker process, from its start until its line is closed."""

    __slots__ = ("is_ready", "key", "line", "pid", "pidfd", "since", "trees")

    def __init__(self, key: str, pid: int, line: socket.socket) -> None:
        self.key = key
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)  # it cannot be another's: nobody has reaped it
        self.line = line
        self.is_ready = False
        self.trees: deque[Tree] = deque()
        """What waits to be forked; the first was handed over once it is ready."""
        self.since = time.monotonic()
        """Since when it owes an answer."""


class Forkers:
    """All forkers of one guardian."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._forkers: dict[str, _Forker] = {}
        self._paused: dict[str, float] = {}

    @property
    def pids(self) -> set[int]:
        """Their process ids."""
        return {forker.pid for forker in self._forkers.values()}

    def take(self, tree: Tree) -> bool:
        """Have a tree's program forked; False where it is none that can be, or no forker can be had."""
        fork = tree.request.get("fork")
        if fork is None:
            return False
        key = json.dumps(fork, sort_keys=True)
        forker = self._forkers.get(key) or self._open(key, fork)
        if forker is None:
            return False
        if not forker.trees:
            forker.since = time.monotonic()
        tree.is_forking = True
        forker.trees.append(tree)
        if forker.is_ready and len(forker.trees) == 1:
            self._hand_over(forker)
        return True

    def warm(self, fork: dict[str, Any]) -> None:
        """Start a forker before anything waits for it."""
        key = json.dumps(fork, sort_keys=True)
        if key not in self._forkers:
            self._open(key, fork)

    def note_keeper(self, tree: Tree) -> None:
        """Take note that a tree has its keeper, or needs none any more."""
        for forker in self._forkers.values():
            if forker.trees and forker.trees[0] is tree:
                self._next(forker)
                return

    def note_failure(self, tree: Tree) -> None:
        """Take note that a tree got no keeper; it is started otherwise."""
        for forker in list(self._forkers.values()):
            if forker.trees and forker.trees[0] is tree:
                self._listen(forker)  # it may have said why
                if forker.trees and forker.trees[0] is tree:
                    self._next(forker)
                    self._owner.start_afresh(tree, "the forker could not fork it")
                return

    def _next(self, forker: _Forker) -> None:
        forker.trees.popleft()
        forker.since = time.monotonic()
        if forker.trees:
            self._hand_over(forker)

    def check(self) -> None:
        """Give up what takes too long."""
        for forker in list(self._slow(time.monotonic())):
            self._lose(forker, f"the forker did not answer within {PATIENCE:g} s")

    def pause(self) -> float | None:
        """Return the seconds until the next `check`, None while nothing is owed."""
        times = [forker.since for forker in self._forkers.values() if forker.trees]
        return max(0.0, min(times) + PATIENCE - time.monotonic()) if times else None

    def _slow(self, now: float) -> Iterator[_Forker]:
        return (forker for forker in self._forkers.values() if forker.trees and now >= forker.since + PATIENCE)

    def _open(self, key: str, fork: dict[str, Any]) -> _Forker | None:
        if len(self._forkers) >= MOST or time.monotonic() < self._paused.get(key, 0.0):
            return None
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:  # no descriptor is free
            return None
        try:
            with theirs:
                pid = os.fork()
                if pid == 0:
                    _exec_forker(fork, theirs.fileno())
        except OSError:
            ours.close()
            return None
        ours.setblocking(False)  # noqa: FBT003
        forker = self._forkers[key] = _Forker(key, pid, ours)
        self._owner.watch(ours.fileno(), lambda: self._listen(forker))
        return forker

    def _hand_over(self, forker: _Forker) -> None:
        tree = forker.trees[0]
        ends = [*tree.descriptors, tree.writer, tree.theirs.fileno()]
        try:
            forker.line.send(FORK)
            socket.send_fds(forker.line, [json.dumps(tree.request).encode()], ends)
        except OSError as error:
            self._listen(forker)  # it may have ended, and said why
            if self._forkers.get(forker.key) is forker:
                self._lose(forker, f"the forker cannot be reached: {os.strerror(error.errno or 0).lower()}")
        else:
            tree.close_theirs()

    def _listen(self, forker: _Forker) -> None:
        try:
            message = forker.line.recv(_LONGEST_WORD)
        except BlockingIOError:
            return
        except OSError:
            message = last_message(forker.line)
        word, _, reason = message.decode("utf-8", "replace").partition(" ")
        if word == "ready":
            forker.is_ready = True
            if forker.trees:
                self._hand_over(forker)
        elif word == "stale":
            self._renew(forker)
        else:
            text = f"the forker failed: {reason}" if word == "failed" else "the forker ended"
            self._lose(forker, text)

    def _renew(self, forker: _Forker) -> None:
        """Start another in the place of one whose files have changed, and give that what waits."""
        trees = self._close(forker)
        # Only the first was handed over, and looked at: one that is stale as soon as it is ready is not followed.
        first = trees[0]
        first.tries += 1
        for tree in trees:
            if tree is first and not self._owner.reopen(tree):
                continue
            if tree.tries > MOST_TRIES or not self.take(tree):
                self._owner.start_afresh(tree, "what the forker has loaded changes again and again")

    def _lose(self, forker: _Forker, reason: str) -> None:
        with suppress(OSError):
            signal.pidfd_send_signal(forker.pidfd, signal.SIGKILL)  # it may hang
        trees = self._close(forker)
        if not forker.is_ready:
            self._paused[forker.key] = time.monotonic() + PAUSE
        for tree in trees:
            self._owner.start_afresh(tree, reason)

    def _close(self, forker: _Forker) -> list[Tree]:
        """Forget a forker, and return what waited for it."""
        del self._forkers[forker.key]
        self._owner.unwatch(forker.line.fileno())
        close([forker.line.detach(), forker.pidfd])
        trees = list(forker.trees)
        forker.trees.clear()
        return trees


def last_message(line: socket.socket) -> bytes:
    """Return what was said before a connection broke: the kernel tells first that the other end left some unread."""
    try:
        return line.recv(_LONGEST_WORD)
    except OSError:
        return b""


def _exec_forker(fork: dict[str, Any], line: int) -> NoReturn:
    """Execute a forker in the forked child. Never returns: where it cannot be, the line ends."""
    try:
        # As for any program: what is ignored would stay so.
        for number in (*IGNORED, *PYTHON_IGNORES):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(line, LINE)
        os.set_inheritable(LINE, True)  # noqa: FBT003 - it may have had that number already
        argv = [argument.encode("latin-1") for argument in (*fork["argv"], str(os.getppid()))]
        environment = {name.encode("latin-1"): text.encode("latin-1") for name, text in fork["env"].items()}
        os.execve(argv[0], argv, environment)  # noqa: S606
    finally:
        os._exit(127)
