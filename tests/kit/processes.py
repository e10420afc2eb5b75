"""Looks at the processes of this machine, as Linux shows them in /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kit.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def state_of(pid: int) -> str:
    """Return a process's state as `ps` has it, as R, S or T; X where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def is_alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    return state_of(pid) not in "ZX"


def stop_between_writes(pid: int, journal: Path) -> None:
    """Stop a host while it holds no lock of its journal: one that is stopped amid a write lets nobody else write."""

    def stop() -> bool:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: state_of(pid) in "TX", lambda: "the host to stop")
        with contextlib.closing(sqlite3.connect(journal, timeout=0, isolation_level=None)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                os.kill(pid, signal.SIGCONT)
                return False
        return True

    wait_until(stop, lambda: "a moment without a write")


def below(pid: int) -> Iterator[int]:
    """Yield the processes that a process has started, and those that they have."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from below(child)


def wait_for_ends(pids: Iterable[int]) -> None:
    """Wait until none of these processes is left; a zombie is none."""
    all_of_them = list(pids)
    wait_until(lambda: not any(map(is_alive, all_of_them)), lambda: f"the end of {[*filter(is_alive, all_of_them)]}")


def free_port() -> int:
    """Return a port of this machine on which nothing listens; another program may take it meanwhile."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
