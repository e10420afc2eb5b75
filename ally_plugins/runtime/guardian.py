"""The guardian of one host: parent and subreaper of its daemons, so that nothing of them outlives the host.

A script of its own (`python -I -S guardian.py DESCRIPTOR HOST_PID`, Linux) that imports only the standard library,
since it must start fast and stay small. It talks to the host over one Unix socket, the life line: a message is a JSON
object, descriptors travel beside it. When the life line ends, or the host's process does, it kills everything below
itself and exits. What a plugin is, when it is restarted and how long it is waited for is left to the host.

    host to guardian   {"spawn": N, argv, env, cwd, limits, stdio} + descriptors      {"end": N, "grace": seconds}
    guardian to host   {"ready": true}   {"started": N, pid} + pidfd   {"refused": N, stage, errno}
                       {"exited": N, code, signal}   {"ended": N}: nothing of the tree is left

What belongs to a daemon's tree: its main process and all its descendants. What lost its parent (a double fork) becomes
the guardian's child, and is told by its session, by the marker variable in the environment that it was started with,
or by being left over when there is only one tree. A process that starts a session of its own, loses its parent and
wipes its environment hides from the end of its tree, not from the guardian's: whatever it does, it stays below. Only
what runs as another user (a setuid program) cannot be killed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn

MARKER: Final = "ALLY_DAEMON_ID"
"""The variable in a daemon's environment that its orphans are known by."""

MESSAGE_BYTES: Final = 1 << 20  # the kernel's default bound of one message is a fifth of it
TICK: Final = 0.01  # seconds between two looks at a tree that is being killed; there are none while nothing ends
SLOWEST_TICK: Final = 0.1  # the same, when what is left can not be killed at once (it waits for a disk)
OOM_RAISE: Final = 100  # of 1000: when memory runs out, a daemon goes before the host

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER: Final = 36
_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
_PYTHON_IGNORES: Final = (signal.SIGPIPE, signal.SIGXFSZ)  # the interpreter does, and a child would inherit it
_ME: Final = os.getpid()
_INT: Final = array("i").itemsize


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process (see prctl in the kernel's manual). Raises OSError."""
    import ctypes  # the guardian has loaded it before it forks; the host, which imports this module, never needs it

    if ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def receive(line: socket.socket) -> tuple[bytes, list[int]]:
    """Take one message and its descriptors; no bytes at the end of the line. Raises BlockingIOError.

    `socket.recv_fds` drops its flags, so that descriptors would be inherited by whatever is started next.
    """
    descriptors = array("i")
    try:
        data, extras, *_ = line.recvmsg(MESSAGE_BYTES, socket.CMSG_SPACE(8 * _INT), socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except OSError:
        return b"", []
    for level, kind, content in extras:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) // _INT * _INT])
    return data, list(descriptors)


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
            self._press()

    def finish(self) -> None:
        """Kill everything below, also what is forked meanwhile, and return when nothing is left."""
        pause = TICK / 10
        while _has_children():
            kill(descendants(_ME))
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
            _close(descriptors)
        self._poll.modify(self._line, select.POLLIN | (select.POLLOUT if self._outbox else 0))

    # --- beginning ---

    def _spawn(self, request: dict[str, Any], descriptors: tuple[int, ...]) -> None:
        try:
            tree = self._fork(request, descriptors)
        except OSError as error:
            self._send({"refused": request["spawn"], "stage": "fork", "errno": error.errno})
            return
        finally:
            _close(descriptors)
        self._trees[tree.number] = tree
        self._watch(tree.pipe, lambda: self._settle(tree))

    def _fork(self, request: dict[str, Any], descriptors: tuple[int, ...]) -> Tree:
        if len(descriptors) != 1 + request["stdio"]:  # the kernel drops those for which no number is free
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            child = os.fork()
            if child == 0:
                become(request, descriptors, writer, tuple(self._handlers))
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
        """Say whether the program was executed, as soon as it is known."""
        try:
            told = os.read(tree.pipe, 100)
        except BlockingIOError:
            return
        self._poll.unregister(tree.pipe)
        del self._handlers[tree.pipe]
        os.close(tree.pipe)
        tree.pipe = -1
        if not told:
            self._send({"started": tree.number, "pid": tree.main}, tree.pidfd)
            return
        stage, _, number = told.decode().partition(" ")
        self._send({"refused": tree.number, "stage": stage, "errno": int(number)})
        os.close(tree.pidfd)
        self._forget(tree)

    # --- ending ---

    def _reap(self) -> None:
        for pid, status in _reap_all():
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
            tell(members, signal.SIGTERM)
            tell(members, signal.SIGCONT)  # a stopped process is told only when it runs again
        tree.deadline = deadline if tree.deadline is None else min(tree.deadline, deadline)

    def _press(self) -> None:
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
        owners = {pid: self._owner(pid) for pid in children(_ME) if pid not in self._mains}
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


# --- the child, between fork and exec ---


def become(request: dict[str, Any], descriptors: tuple[int, ...], writer: int, foreign: Iterable[int]) -> NoReturn:
    """Turn the forked child into the program, or write `STAGE ERRNO` and exit. `foreign` are the guardian's own."""
    stage = "start"
    try:
        os.setsid()
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a setuid program loses it; the guardian's end still kills the rest
        if os.getppid() != _ME:
            os._exit(127)  # the guardian died before it could be noticed
        _close(foreign)
        _take(descriptors, has_stdio=request["stdio"])
        for number in (*_IGNORED, *_PYTHON_IGNORES):
            signal.signal(number, signal.SIG_DFL)
        stage = "folder"
        os.chdir(request["cwd"].encode("latin-1"))
        stage = "limits"
        _give_way()
        argv = [argument.encode("latin-1") for argument in request["argv"]]
        environment = {name.encode("latin-1"): text.encode("latin-1") for name, text in request["env"].items()}
        for name, soft, hard in request["limits"]:
            _limit(getattr(resource, name), soft, hard)
        stage = "exec"
        os.execvpe(argv[0], argv, environment)  # noqa: S606
    except OSError as error:
        os.write(writer, f"{stage} {error.errno or 0}".encode())
    except MemoryError:
        os.write(writer, b"%s %d" % (stage.encode(), errno.ENOMEM))
    except BaseException:  # noqa: BLE001 - nothing may return into the guardian's loop
        os.write(writer, b"%s %d" % (stage.encode(), errno.EINVAL))
    os._exit(127)


def _take(descriptors: tuple[int, ...], *, has_stdio: bool) -> None:
    stdio, stderr = descriptors if has_stdio else (None, descriptors[0])
    if stdio is not None:
        os.dup2(stdio, 0)
    os.dup2(stderr if stdio is None else stdio, 1)  # 0 is /dev/null from the guardian's own start
    os.dup2(stderr, 2)


def _give_way() -> None:
    """Let the host and the person's programs go first."""
    with contextlib.suppress(OSError):  # a batch of work is not woken at once: fan-out to 50 is a third faster
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:  # noqa: PTH123
        raised = min(1000, int(file.read()) + OOM_RAISE)
        file.seek(0)
        file.write(str(raised))


def _limit(which: int, soft: int, hard: int) -> None:
    most = resource.getrlimit(which)[1]
    if most != resource.RLIM_INFINITY:  # what the host itself is held to can only be lowered
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))


# --- processes ---


_HAS_LISTS: Final = os.path.exists(f"/proc/self/task/{_ME}/children")  # noqa: PTH110 - CONFIG_PROC_CHILDREN


def children(pid: int) -> list[int]:
    """Return the children of a process; none for one that is gone."""
    return _listed_children(pid) if _HAS_LISTS else _children_by_parent(pid)


def _listed_children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                found += map(int, file.read().split())
    except OSError:
        pass
    return found


def _children_by_parent(pid: int) -> list[int]:
    """Do the same on a kernel without lists: ask every process for its parent."""
    found: list[int] = []
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
            if int(file.read().rpartition(b")")[2].split()[1]) == pid:
                found.append(int(name))
    return found


def descendants(root: int) -> list[int]:
    """Return everything below a process, parents before their children."""
    found: list[int] = []
    to_visit = [root]
    while to_visit:
        below = children(to_visit.pop())
        found += below
        to_visit += below
    return found


def tell(pids: Iterable[int], number: int) -> None:
    """Send a signal to processes; those that are gone or another user's are passed over."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def kill(pids: Iterable[int]) -> None:
    """Kill processes with their groups: a signal to a group is atomic, so what is being forked there dies too.

    A group never spans two daemons, since each daemon begins a session.
    """
    pids = list(pids)
    groups = set[int]()
    for pid in pids:
        with contextlib.suppress(OSError):
            groups.add(os.getpgid(pid))
    for group in groups - {os.getpgid(0)}:  # a child that is not yet at its `setsid` is in the guardian's own
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    tell(pids, signal.SIGKILL)


def _reap_all() -> Iterable[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
            yield reaped


def _has_children() -> bool:
    """Reap what has ended, and say whether anything is left: whatever is below is below a child."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


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
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, *_PYTHON_IGNORES}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN if number in _IGNORED else signal.SIG_DFL)
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    host = os.pidfd_open(int(sys.argv[2]))  # a forked copy of the host may hold the life line open
    os.chdir("/")
    guardian = Guardian(line, host)
    guardian.run()
    guardian.finish()


if __name__ == "__main__":
    main()
