"""The listening socket of the one host that takes a home's hooks: its lock, and what it leaves for `connect --status`.

Made before anything else of a host, which hooks wait for from then on; so it imports little.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ally_plugins.adapters.coding.client.hook_client import SOCKET
from ally_plugins.catalog.home.agent_processes import HOOK_LOCK
from ally_plugins.catalog.home.folder import try_lock, unlock, write_atomically
from ally_plugins.contract.values.errors import HostError
from ally_plugins.runtime.processes.unixsocket import listening_socket, who_listens

if TYPE_CHECKING:
    import socket

    from ally_plugins.catalog.home.folder import Home

__all__ = ["HookSocket", "is_served", "last_hook", "newer_fields"]

LOCK_SECONDS: Final = 20.0
"""How long a host waits for one that is ending: it answers what it was asked, and stops its plugins."""

_MAX_SEEN: Final = 64 * 1024
_POLL: Final = 0.05  # seconds between two looks at a lock


def is_served(home: Home) -> bool:
    """Say whether a host takes the hooks of agents on this home now."""
    with _inside(home.run_dir):
        return who_listens(SOCKET) is not None


def last_hook(home: Home, agent: str) -> int | None:
    """Return when an agent's hook was last answered, in Unix ms; None where none ever was."""
    try:
        return int(_seen_file(home, agent).stat().st_mtime * 1000)
    except OSError:
        return None


def newer_fields(home: Home, agent: str) -> tuple[str, ...]:
    """Return the fields that an agent sent to the last host and that no version has which was seen."""
    try:
        found = home.read(_seen_file(home, agent), _MAX_SEEN) or b""
    except OSError:
        return ()
    return tuple(found.decode("utf-8", "replace").splitlines())


def _seen_file(home: Home, agent: str) -> Path:
    return home.run_dir / f"coding-{agent}.seen"


class HookSocket:
    """The listening socket of the one host that takes hooks; made before the host starts, so that hooks wait for it."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock: int | None = None
        self._noted: dict[str, tuple[str, ...]] = {}
        self.listening: socket.socket | None = None

    def open(self) -> bool:
        """Take the lock and listen; say whether it did: False where another host takes the hooks. Blocks.

        Raises ConfigError for a home that cannot be used, OSError, HostError where another one neither answers nor
        ends.
        """
        self._home.prepare()
        descriptor, end = self._home.open_lock(HOOK_LOCK), time.monotonic() + LOCK_SECONDS
        while not try_lock(descriptor):
            if is_served(self._home):
                os.close(descriptor)
                return False
            if time.monotonic() > end:
                os.close(descriptor)
                raise HostError(f"another host of {str(self._home.path)!r} neither takes hooks nor ends; end it")
            time.sleep(_POLL)
        self._lock = descriptor
        with _inside(self._home.run_dir):
            # Of a host that was killed: whoever listens holds the lock.
            Path(SOCKET).unlink(missing_ok=True)
            self.listening = listening_socket(SOCKET)
        return True

    def note_hook(self, agent: str, newer: tuple[str, ...] = ()) -> None:
        """Leave the time of an agent's last hook in the home, and what it sends that is not known, for the status."""
        file = _seen_file(self._home, agent)
        with suppress(OSError):
            if self._noted.get(agent) != newer:
                write_atomically(file, "\n".join(newer).encode(), durable=False, follow=False)
                self._noted[agent] = newer
            else:
                file.touch()

    def unlink(self) -> None:
        """Let no new hook connect; the next one starts another host."""
        with suppress(OSError):
            (self._home.run_dir / SOCKET).unlink()

    def close(self) -> None:
        """Let go of the lock. Another host takes the hooks from here on."""
        if self.listening is not None:
            self.listening.close()
        if self._lock is not None:
            unlock(self._lock)
            self._lock = None


class _inside:  # noqa: N801 - reads as the context that it is
    """Work in a folder, since a socket's address has no room for a long path; the one thread of a start does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = "/"

    def __enter__(self) -> None:
        with suppress(OSError):
            self._before = str(Path.cwd())
        os.chdir(self._folder)

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)
