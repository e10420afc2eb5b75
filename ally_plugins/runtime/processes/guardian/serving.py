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
from typing import Any

from .child_setup import (
    IGNORED,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PYTHON_IGNORES,
    exec_program,
    name_process,
    prctl,
)
from .forkers import Forkers
from .keeper import keep
from .line import receive
from .namespace import can_separate, outer_pid
from .process_tree import (
    TICK,
    children,
    close,
    descendants,
    drain,
    is_ours,
    kill,
    kill_all,
    reap,
    send_signal,
    wake_on_child,
)
from .removal import remove_folder
from .tree import Tree

__all__ = ["Guardian", "main"]


class Guardian:
    """The loop that serves one host, from its start to its end."""

    def __init__(self, line: socket.socket, host: int | None) -> None:
        self._line = line
        self._is_over = host is None
        self._trees: dict[int, Tree] = {}
        self._forkers = Forkers(self)
        self._has_strays = False
        """Whether a keeper was killed: what was below it may be the guardian's own children now."""
        self._has_namespaces: bool | None = None
        """Whether trees can have PID namespaces; None until it was tried."""
        self._outbox: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self.to_remove: list[str] = []
        """Folders of the plugins' own that end with the host."""
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self.watch(line.fileno(), self._serve)
        if host is not None:
            self.watch(host, self._end)
        reader = wake_on_child()
        self.watch(reader, lambda: drain(reader))

    def run(self) -> None:
        """Serve until the host is gone."""
        self._send({"ready": True})
        while not self._is_over:
            ready = [(each, self._handlers.get(each)) for each, _ in self._poll.poll(self._pause())]
            for descriptor, handler in ready:
                # One before it in this turn may have ended the watch, and the number may be another's.
                if handler is not None and self._handlers.get(descriptor) is handler:
                    handler()
            reap()
            self._forkers.check()
            self._check_ending()
            self._kill_strays()

    def watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        """Call the handler whenever the descriptor is readable."""
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, select.POLLIN)

    def unwatch(self, descriptor: int) -> None:
        """Stop that; to be called before the descriptor is closed."""
        if self._handlers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    # --- the life line ---

    def _end(self) -> None:
        self._is_over = True

    def read_last_words(self) -> None:
        """Take from the life line what is to be removed: a host that was killed may have said it a moment before."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, descriptors = receive(self._line)
                close(descriptors)
                if not data:
                    return
                message = json.loads(data)
                if "remove" in message:
                    self.to_remove.append(message["remove"])

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
        elif "warm" in message:
            self._forkers.warm(message["warm"])
        elif "remove" in message:
            self.to_remove.append(message["remove"])
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
        request["is_separate"] = request["box"] is not None and self._can_separate()
        try:
            tree = Tree(request, descriptors)
        except OSError as error:
            close(descriptors)
            self._send({"refused": request["spawn"], "stage": "fork", "errno": error.errno})
            return
        self._trees[tree.number] = tree
        self._watch_start(tree)
        if not self._forkers.take(tree):
            self._start(tree)

    def _can_separate(self) -> bool:
        if self._has_namespaces is None:
            try:
                self._has_namespaces = can_separate()
            except OSError:  # no process can be forked now: another time
                return False
        return self._has_namespaces

    def _watch_start(self, tree: Tree) -> None:
        self.watch(tree.pipe, lambda: self._settle(tree))
        self.watch(tree.link.fileno(), lambda: self._listen(tree))

    def start_afresh(self, tree: Tree, reason: str) -> None:
        """Start what could not be forked, and tell the host why."""
        tree.is_forking = False
        if self.reopen(tree):
            self._send({"unforked": tree.number, "reason": reason})
            self._start(tree)

    def reopen(self, tree: Tree) -> bool:
        """Make anew what a start is reported on; False where that cannot be, and the start was refused.

        Who has the old ends cannot begin any more: a keeper waits for a byte that does not come.
        """
        self._close_start(tree)
        try:
            tree.open()
        except OSError as error:
            self._refuse(tree, "fork", error.errno or 0)
            return False
        self._watch_start(tree)
        return True

    def _start(self, tree: Tree) -> None:
        try:
            keeper = os.fork()
        except OSError as error:
            self._close_start(tree)
            self._refuse(tree, "fork", error.errno or 0)
            return
        if keeper == 0:
            descriptors, writer = tree.descriptors, tree.writer
            is_separate = tree.request["is_separate"]
            parent = keep(descriptors, writer, tree.theirs, is_separate=is_separate)
            exec_program(tree.request, descriptors, writer, parent)
        tree.keeper = keeper
        tree.release()

    def _close_start(self, tree: Tree) -> None:
        """Close both ends of what a start is reported on."""
        for descriptor in (tree.pipe, tree.link.fileno()):
            self.unwatch(descriptor)
        close((tree.pipe, tree.writer))
        tree.pipe = tree.writer = -1
        tree.link.close()
        tree.theirs.close()

    def _refuse(self, tree: Tree, stage: str, number: int) -> None:
        self._send({"refused": tree.number, "stage": stage, "errno": number})
        self._forkers.note_keeper(tree)
        tree.release()
        del self._trees[tree.number]

    def _listen(self, tree: Tree) -> None:
        """Take what a keeper says: who it is, which process is the main one, how that ended, and the end."""
        while tree.link.fileno() >= 0:
            try:
                data, descriptors = receive(tree.link)
            except BlockingIOError:
                return
            word, _, number = data.decode("ascii", "replace").partition(" ")
            if word == "keeper":
                self._begin(tree, int(number), descriptors)
            elif word == "program":
                self._note_program(tree, int(number), descriptors)
            elif word == "exit":
                tree.status = int(number) if tree.status is None else tree.status
                self._settle(tree)
            elif word == "end":
                tree.ends_well = True
            else:  # it has said all, or was killed
                self.unwatch(tree.link.fileno())
                tree.link.close()
                self._note_silence(tree)

    def _note_program(self, tree: Tree, number: int, descriptors: list[int]) -> None:
        if tree.number in self._trees:
            tree.pidfd = (descriptors or [-1])[0]
        else:
            close(descriptors)
        tree.main = number or outer_pid(tree.pidfd, tree.keeper or 0) or 0
        self._settle(tree)

    def _note_silence(self, tree: Tree) -> None:
        """Take note that a keeper says no more; most have said all."""
        if tree.is_forking:
            self._forkers.note_failure(tree)
            return
        if tree.watch < 0:  # it has not even begun
            tree.is_over = True
        self._settle(tree)

    def _begin(self, tree: Tree, keeper: int, descriptors: list[int]) -> None:
        """Let a keeper begin that has named itself."""
        if not descriptors:  # no number is free for its pidfd: without a byte it ends, and that is seen
            tree.link.shutdown(socket.SHUT_WR)
            return
        tree.keeper, (tree.watch,), tree.is_forking = keeper, descriptors, False
        self.watch(tree.watch, lambda: self._note_end(tree))
        with contextlib.suppress(OSError):  # it was killed in this moment, which its pidfd tells
            tree.link.send(b"\n")
        tree.release()
        self._forkers.note_keeper(tree)

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
        if tree.is_forking and report:
            self.unwatch(tree.pipe)
            self._forkers.note_failure(tree)
            return False
        if not report and tree.main is None and tree.link.fileno() >= 0:
            self.unwatch(tree.pipe)  # which would be readable for ever; the keeper is about to name it
            return False
        self.unwatch(tree.pipe)
        os.close(tree.pipe)
        tree.pipe = -1
        if not report and tree.main is not None:
            self._send({"started": tree.number, "pid": tree.main}, *((tree.pidfd,) if tree.pidfd >= 0 else ()))
            return True
        stage, _, number = report.decode().partition(" ")
        close((tree.pidfd,))
        self._refuse(tree, stage or "fork", int(number or errno.EAGAIN))
        return True

    # --- ending ---

    def _note_end(self, tree: Tree) -> None:
        """Take note that a keeper has ended, and by itself only when nothing is left."""
        self._listen(tree)
        self.unwatch(tree.watch)
        close((tree.watch,))
        tree.keeper, tree.is_over = None, True
        if not tree.ends_well:  # it was killed: the kernel kills the main process, and gives the guardian the rest
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
            if tree.is_over and not self._has_strays:
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
            known = {tree.keeper for tree in self._trees.values()} | self._forkers.pids
            strays = [pid for pid in children(os.getpid()) if pid not in known and is_ours(pid)]
            self._has_strays = bool(strays)
            kill([*strays, *(pid for stray in strays for pid in descendants(stray))])

    def _pause(self) -> float | None:
        if self._has_strays:
            return TICK * 1000
        now = time.monotonic()
        waits = [max(TICK, tree.deadline - now) for tree in self._trees.values() if tree.deadline is not None]
        if (wait := self._forkers.pause()) is not None:
            waits.append(wait)
        return min(waits) * 1000 if waits else None


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
    name_process("ally-guardian")
    host: int | None = None
    with contextlib.suppress(ProcessLookupError):  # it was killed while this one started
        host = os.pidfd_open(int(sys.argv[2]))  # a forked copy of the host may hold the life line open
    # So that it keeps no folder of the host's in use.
    os.chdir("/")
    guardian = Guardian(line, host)
    guardian.run()
    kill_all()
    guardian.read_last_words()
    for folder in guardian.to_remove:  # last: nobody writes there any more
        remove_folder(os.fsdecode(folder.encode("latin-1")))


if __name__ == "__main__":
    main()
