"""Claims of socket paths: one living host has a daemon listen at a path, and no other host's files are removed.

A claim is a locked file, which the kernel unlocks when the host ends, however it ends. Once the lock is ours, the
process that the file names is the orphan of a dead host.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import signal
import stat
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from ally_plugins.contract.values.codec import decode, encode
from ally_plugins.contract.values.errors import PluginError
from ally_plugins.journal.process_identity import has_variable, start_ticks
from ally_plugins.runtime.processes.unixsocket import who_listens

from .directories import private_directory, short_directory

__all__ = ["MARK_VARIABLE", "SocketClaim", "SocketTaken", "claim_in_thread", "claim_socket", "is_running_mark"]

MARK_VARIABLE: Final = "ALLY_DAEMON_MARK"
"""The variable by which a process is known to be a claim's daemon: its id may have passed to another program."""

GRACE: Final = 5.0  # seconds from SIGTERM to SIGKILL for an orphan, as for a daemon of this host

_LOCK_TRIES: Final = 10  # a sweep, or a host that is about to end, may hold the lock for a moment
_LOCK_WAIT: Final = 0.01  # seconds between them: a sweep holds a lock for less
_STALE: Final = 60.0  # seconds after which an unlocked claim is that of a dead host


class SocketTaken(PluginError):
    """Another program listens, or may listen, at the path of a daemon. The text says which, and what to do."""


def claim_socket(path: str, plugin: str, directory: Path | None = None) -> SocketClaim:
    """Claim a path for a plugin's daemon, which is started next, and remove what a dead host left there.

    `directory` keeps the claims of all hosts of this user. Blocks for as long as an orphan takes to end, twice `GRACE`
    at most. Raises SocketTaken, which leaves everything as it was.
    """
    where = private_directory(directory) if directory is not None else short_directory()
    _sweep(where)
    folder, base = os.path.split(path)
    name = hashlib.sha256(os.fsencode(f"{os.path.realpath(folder)}/{base}")).hexdigest()[:24]  # however it is spelt
    descriptor = _lock(where / f"{name}.claim", path, plugin)
    claim = SocketClaim(path, plugin, where / f"{name}.claim", descriptor)
    try:
        # First: while the orphan listens, the path counts as taken.
        _end_orphan(claim.read())
        _make_room(path, plugin)
    except BaseException:
        claim.abandon()
        raise
    return claim


async def claim_in_thread(path: str, plugin: str, directory: Path | None = None) -> SocketClaim:
    """Claim a path as `claim_socket` does, in a thread. After cancelling, a claim that is still made is abandoned."""
    # Either the thread sees that nobody wants the claim, or the loop sees the claim: none is left that nobody holds.
    handing = threading.Lock()
    made: list[SocketClaim] = []
    is_unwanted = False

    def claim() -> SocketClaim:
        found = claim_socket(path, plugin, directory)
        with handing:
            made.append(found)
            if is_unwanted:
                found.abandon()
        return found

    try:
        return await asyncio.to_thread(claim)
    except asyncio.CancelledError:
        with handing:
            is_unwanted = True
            for found in made:
                found.abandon()
        raise


@define(eq=False)
class SocketClaim:
    """One path, claimed until `release`. `mark` goes into the daemon's environment as `MARK_VARIABLE`."""

    path: str
    plugin: str
    file: Path
    descriptor: int
    mark: str = field(init=False, factory=lambda: secrets.token_hex(16))
    _inode: tuple[int, int] | None = field(init=False, default=None)

    def read(self) -> dict[str, Any]:
        """Return what the last holder wrote; nothing when that is unreadable."""
        try:
            # More than a claim holds: a path of some hundred bytes, a name and a mark.
            found = decode(os.pread(self.descriptor, 4096, 0))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, pid: int) -> None:
        """Write the daemon's process to the claim, so that another host can end it should this one be killed."""
        about = {"pid": pid, "started": start_ticks(pid), "mark": self.mark, "path": self.path, "plugin": self.plugin}
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, encode(about), 0)

    def note_socket(self) -> None:
        """Remember the socket that the daemon has made by now, so that `release` removes that one and no other."""
        with suppress(OSError):
            found = os.lstat(self.path)
            self._inode = (found.st_dev, found.st_ino)

    def release(self) -> None:
        """Remove the socket of the daemon, which has ended by now, and give up the path."""
        if self.descriptor < 0:
            return
        with suppress(OSError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._inode and _is_own_socket(found):
                Path(self.path).unlink()
        self.abandon()

    def abandon(self) -> None:
        """Give up the path and remove nothing but the claim."""
        if self.descriptor >= 0:
            with suppress(OSError):
                self.file.unlink()  # before the unlock: whoever locks it next sees that the file is gone
            os.close(self.descriptor)
            self.descriptor = -1


def _lock(file: Path, path: str, plugin: str) -> int:
    import fcntl  # POSIX only, as these sockets are

    for _ in range(_LOCK_TRIES):
        # Follows no link, by which another file would be locked and written to.
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(descriptor, file):
                return descriptor
        # Another host, or another claim of this one, holds it for the moment of a look or for as long as it lives.
        except BlockingIOError:
            os.close(descriptor)
            time.sleep(_LOCK_WAIT)
            continue
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the last holder removed it between our open and our lock
    raise SocketTaken(
        f"another running host has a daemon on {path!r}; end that host, or give one of them another socket "
        f"('{{session_id}}' in the path gives each host its own)",
        plugin=plugin,
    )


def _sweep(where: Path) -> None:
    """Remove what killed hosts have left at paths with `{session_id}`, which no other host claims again."""
    for file in where.glob("*.claim"):
        with suppress(OSError, ValueError, PluginError):  # a path with a zero byte is a ValueError
            if time.time() - file.stat().st_mtime > _STALE:
                _sweep_one(file)


def _sweep_one(file: Path) -> None:
    import fcntl  # POSIX only, as these sockets are

    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_same(descriptor, file):
            left = SocketClaim("", "", file, descriptor).read()
            # Before the claim goes, which alone tells the path.
            _make_room(str(left.get("path", "")), str(left.get("plugin", "")))
            file.unlink()
    finally:
        os.close(descriptor)


def _is_same(descriptor: int, file: Path) -> bool:
    try:
        found = file.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def _make_room(path: str, plugin: str) -> None:
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise SocketTaken(f"{path!r} is not a socket; remove it, or give {plugin!r} another path", plugin=plugin)
    if (who := who_listens(path)) is not None:
        text = f"{who} listens on {path!r} already; end it, or give {plugin!r} another path"
        raise SocketTaken(text, plugin=plugin)
    if not _is_own_socket(found):
        raise SocketTaken(f"{path!r} belongs to another user; give {plugin!r} another path", plugin=plugin)
    Path(path).unlink()


def _is_own_socket(found: os.stat_result) -> bool:
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid()


def is_running_mark(pid: int, started: int | None, mark: str) -> bool:
    """Say whether a process is provably the daemon that was given this mark, by its start time and its environment.

    Only Linux can prove it; elsewhere the answer is no.
    """
    if not sys.platform.startswith("linux") or not mark or started is None or start_ticks(pid) != started:
        return False
    return has_variable(pid, MARK_VARIABLE, mark)


def _end_orphan(about: dict[str, Any]) -> None:
    """End the daemon of a dead host, if it is provably that daemon; any other process is left alone."""
    pid, started, mark = about.get("pid"), about.get("started"), about.get("mark")
    # The file may hold anything: 1 is init, and True an int to `isinstance`.
    if type(pid) is not int or pid <= 1 or type(started) is not int or type(mark) is not str:
        return
    if not sys.platform.startswith("linux"):
        return
    try:
        descriptor = os.pidfd_open(pid)  # opened before it is looked at: the number cannot pass to a stranger then
    except OSError:
        return
    try:
        if is_running_mark(pid, started, mark):
            _terminate(descriptor, pid)
    finally:
        os.close(descriptor)


def _terminate(descriptor: int, pid: int) -> None:
    for number, wait in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        with suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(descriptor, number)
            # A stopped process takes SIGTERM only when it goes on.
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)
        if _has_ended(descriptor, pid, wait):
            return


def _has_ended(descriptor: int, pid: int, within: float) -> bool:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    end = time.monotonic() + within
    return bool(poll.poll(max(0.0, end - time.monotonic()) * 1000)) or start_ticks(pid) is None
