"""The control sockets of running hosts: how one is made, found, and removed when its host is dead.

A socket's path may have some hundred bytes only. In a home with a longer path, the socket is in a short private
directory of its own, and `run/` has a small file with its path.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import frozen

from ally_plugins.catalog.home.folder import read_capped, write_atomically
from ally_plugins.host.sockets.leftovers import folder_prefix, is_gone
from ally_plugins.runtime.processes.unixsocket import LONGEST_PATH, listening_socket, who_listens

__all__ = ["Address", "addresses", "bind", "is_supported", "temporary_folders"]

_ENTRY: Final = re.compile(r"host-([0-9]{1,10})-[0-9a-f]{8}\.(sock|path)\Z")
_SHORT_NAME: Final = "host.sock"
_SHORT_PREFIX: Final = "ally-"
_MAX_POINTER: Final = 4096  # bytes that are read of a pointer: Linux takes no longer path


def is_supported() -> bool:
    """Say whether this machine has sockets in the file system; without them hosts have no control socket."""
    return hasattr(socket, "AF_UNIX") and os.name == "posix"


@frozen
class Address:
    """One host's socket: `entry` is its file in `run/`, `path` where the socket lies; often they are the same."""

    pid: int
    entry: Path
    path: Path

    def remove(self) -> None:
        """Remove the socket, the pointer to it and its short directory; what is gone already is no error."""
        for file in {self.path, self.entry}:
            with suppress(OSError):
                file.unlink()
        if self.path != self.entry:
            with suppress(OSError):
                self.path.parent.rmdir()

    def remove_if_dead(self) -> bool:
        """Remove what a dead host has left; say whether it did. Call it when nobody listens there.

        The socket of a live process stays: it may be about to listen.
        """
        if not self.is_dead():
            return False
        self.remove()
        return True

    def is_dead(self) -> bool:
        """Say whether the process that made it has ended."""
        return _is_dead(self.entry, self.pid)


def bind(run_dir: Path, pid: int) -> tuple[socket.socket, Address]:
    """Return a listening socket that only its owner may connect to, and its address. Raises OSError.

    `run_dir` is there and private. The caller closes the socket and removes the address. What hosts of this home left
    that were killed goes first: where no command ever looks, nobody else would remove it.
    """
    run_dir = run_dir.absolute()
    for left in addresses(run_dir):
        # Both: in a home that several machines or containers share, the pid of a live host may be nobody's here.
        if left.is_dead() and who_listens(str(left.path)) is None:
            left.remove()
    # Random too: a process may have several hosts, and its id passes to others.
    name = f"host-{pid}-{os.urandom(4).hex()}"
    path = run_dir / f"{name}.sock"
    if _fits(path):
        return listening_socket(path), Address(pid, path, path)
    address = Address(pid, run_dir / f"{name}.path", _short_directory(pid) / _SHORT_NAME)
    try:
        listening = listening_socket(address.path)
        try:
            # After the socket listens, so that who finds the pointer can connect. Not durable: no host outlives a power
            # cut.
            write_atomically(address.entry, os.fsencode(address.path), durable=False, private=True)
        except BaseException:
            listening.close()
            raise
    except BaseException:
        address.remove()
        raise
    return listening, address


def addresses(run_dir: Path) -> list[Address]:
    """Return the sockets that are there, of live hosts and of dead ones; a home without any is no error."""
    try:
        names = sorted(os.listdir(run_dir))  # noqa: PTH208  # for every command; pathlib costs as much as the call
    except OSError:
        return []
    found = []
    for name in names:
        if (match := _ENTRY.match(name)) is not None:
            address = _address(run_dir / name, int(match[1]), is_pointer=match[2] == "path")
            if address is not None:
                found.append(address)
    return found


def _address(entry: Path, pid: int, *, is_pointer: bool) -> Address | None:
    if not is_pointer:
        return Address(pid, entry, entry)
    try:
        path = Path(os.fsdecode(read_capped(entry, _MAX_POINTER) or b""))
        if _is_ours(path):
            return Address(pid, entry, path)
    # Gone, no file of ours, or bytes that are no path: as a pointer to nowhere.
    except (OSError, ValueError):
        pass
    if _is_dead(entry, pid):  # whatever it named is gone, or never was a host's
        with suppress(OSError):
            entry.unlink()
    return None


def _is_ours(path: Path) -> bool:
    """Say whether a pointer leads to where a host would have put its socket: nowhere else is connected or removed."""
    if not (path.is_absolute() and path.name == _SHORT_NAME and path.parent.name.startswith(_SHORT_PREFIX)):
        return False
    found = path.parent.lstat()
    is_private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
    return is_private and found.st_uid == os.geteuid() and _fits(path)


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= LONGEST_PATH


def temporary_folders() -> list[Path]:
    """Return the folders in which a socket may lie that a home has no room for, those that are there."""
    import tempfile  # hardly any home needs it

    names = dict.fromkeys((os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"))  # noqa: S108 - a private directory in there
    return [path for path in map(Path, names) if path.is_absolute()]


def _short_directory(pid: int) -> Path:
    """Make a directory that only its owner may enter, whose name leaves room for a socket. Raises OSError."""
    import tempfile

    prefix = folder_prefix(pid=pid)
    for base in temporary_folders():
        if _fits(base / f"{prefix}xxxxxxxx" / _SHORT_NAME):
            with suppress(OSError):
                return Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    raise OSError(None, f"no directory for temporary files has a path short enough for a socket ({LONGEST_PATH} bytes)")


def _is_dead(entry: Path, pid: int) -> bool:
    try:
        return is_gone(pid, entry.lstat().st_mtime)
    except OSError:
        return False  # it is being removed
