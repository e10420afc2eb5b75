"""What killed hosts have left: sockets, and folders in the system's temporary one. Removed when that is proved.

Names have the id of the process that made them. It is gone when there is no such process, or another one: that is seen
by when it started, in ticks since boot where the name has them, else by the clock, which may have been set meanwhile.
Nobody may listen on a socket: a live host of another container has an id that is nobody's here.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ally_plugins.journal.process_identity import has_ended, start_ticks
from ally_plugins.runtime.processes.guardian.removal import remove_folder
from ally_plugins.runtime.processes.unixsocket import who_listens

__all__ = [
    "MAKER",
    "folder_prefix",
    "is_gone",
    "left_folders",
    "maker",
    "remove_left_folders",
    "remove_left_sockets",
    "temporary_folder",
]

_SOCKET: Final = re.compile(r"(?:host|talk)-([0-9]{1,10})-[0-9a-f]+\.sock\Z")
_SOCKETS: Final = re.compile(r"(?:host|(?:host|talk)-[0-9]{1,10}-[0-9a-f]+)\.sock\Z")
_UNFINISHED: Final = re.compile(r"\..+\.([0-9]{1,10})\.[0-9]+\.tmp\Z")
"""A file that was to replace another one, as `catalog.home` writes them."""

_LEEWAY: Final = 2.0  # seconds by which clocks, file systems and ticks may differ


MAKER: Final = r"([0-9]{1,10})-(?:t([0-9]{1,20})-)?"
"""How a name says who made it, as a pattern: two groups, of which the second need not be there."""


def maker(pid: int | None = None) -> str:
    """Return what a name says of the process that makes it: this one, or another."""
    number = os.getpid() if pid is None else pid
    started = start_ticks(number)
    return f"{number}-" if started is None else f"{number}-t{started}-"


def is_gone(pid: int, made: float, started: str | None = None) -> bool:
    """Say whether the process that made a file at a time (Unix seconds) has ended; its id may be another's by now.

    `started` is what the name says of when that process started. Never so on Windows, where asking for a process may
    end it.
    """
    if os.name != "posix":
        return False
    if has_ended(pid):
        return True
    ticks = start_ticks(pid)
    if ticks is None or not sys.platform.startswith("linux"):
        return False
    if started is not None:
        return ticks != int(started)
    # Start ticks count from the boot, and so does this clock, each with the time in suspend.
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age > made + _LEEWAY


def remove_left_sockets(directory: Path) -> None:
    """Remove the sockets, and the half-written files, of hosts that are gone. Raises nothing."""
    with suppress(OSError):
        for name in os.listdir(directory):  # noqa: PTH208 - at each start of a host; pathlib costs as much as the call
            match = _SOCKET.match(name) or _UNFINISHED.match(name)
            if match is not None:
                with suppress(OSError):
                    _remove(directory / name, int(match[1]))


def _remove(path: Path, pid: int) -> None:
    found = path.lstat()
    if is_gone(pid, found.st_mtime) and (stat.S_ISREG(found.st_mode) or who_listens(str(path)) is None):
        path.unlink()


def folder_prefix(kind: str = "", pid: int | None = None) -> str:
    """Return how the name of a temporary folder begins that `left_folders` finds once its process is gone."""
    return f"ally-{kind}{maker(pid)}"


def left_folders(kind: str = "", parent: Path | None = None) -> Iterator[Path]:
    """Yield the temporary folders of this user, made with a `folder_prefix`, whose process is gone. Raises nothing."""
    pattern = re.compile(rf"ally-{kind}{MAKER}[a-z0-9_]+\Z")
    base = parent if parent is not None else Path(tempfile.gettempdir())
    with suppress(OSError):
        for name in os.listdir(base):  # noqa: PTH208
            if (match := pattern.match(name)) is not None and _is_left(base / name, int(match[1]), match[2]):
                yield base / name


def _is_left(folder: Path, pid: int, started: str | None) -> bool:
    if os.name != "posix":
        return False
    try:
        found = folder.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.geteuid():
        return False
    return is_gone(pid, found.st_ctime, started)


@contextmanager
def temporary_folder(kind: str) -> Generator[Path]:
    """Give a temporary folder, removed at the end; what killed programs have left of the kind is removed first."""
    for left in left_folders(kind):
        remove_folder(str(left))
    folder = tempfile.mkdtemp(prefix=folder_prefix(kind))
    try:
        yield Path(folder)
    finally:
        # What cannot be removed stays: a process that is about to end may still write there.
        remove_folder(folder)


def remove_left_folders(parents: Iterable[Path]) -> None:
    """Remove the folders that hold a host's socket, with no other file than that, and not while somebody listens."""
    for folder in [each for parent in parents for each in left_folders("", parent)]:
        with suppress(OSError):
            for path in folder.iterdir():
                if _SOCKETS.match(path.name) and who_listens(str(path)) is None:
                    path.unlink()
            folder.rmdir()
