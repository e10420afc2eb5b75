"""The host's end of the life line to one guardian: starts it, carries messages and descriptors, notices its end.

What the messages mean is left to `guardian_client`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from .guardian.line import receive
from .guardian.process_tree import MARKER

__all__ = ["START_TIMEOUT", "LifeLine", "close_all", "find_marked", "kill_marked"]

START_TIMEOUT: Final = 10.0
"""Seconds that a guardian has to start and a launch to be answered; 40 and 3 ms here."""

SCRIPT: Final = Path(__file__).with_name("guardian") / "__main__.py"

_BARE: Final = {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"}
"""The guardian's environment: nothing of the host's, whose keys would stand in it for all to read. The one variable is
what a Python that was built with a shared library, and installed elsewhere, may need to start at all."""

_Message = dict[str, Any]


class LifeLine:
    """One guardian process and the socket to it, from `open` until the process is reaped."""

    def __init__(
        self,
        on_message: Callable[[_Message, list[int]], None],
        on_lost: Callable[[LifeLine], None],
        on_unsent: Callable[[Mapping[str, Any], OSError], None],
    ) -> None:
        self.token = secrets.token_hex(8)
        """What the marker variable of this guardian's daemons begins with."""
        self.lost = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_unsent = on_unsent
        self._outbox: deque[tuple[Mapping[str, Any], bytes, list[int]]] = deque()
        self._is_writing = False
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1

    @property
    def pid(self) -> int | None:
        """The guardian's process id."""
        return None if self._process is None else self._process.pid

    @property
    def ended_well(self) -> bool:
        """Whether the guardian ended by itself, with nothing left below it."""
        return self._process is not None and self._process.returncode == 0

    def marker(self, number: int) -> str:
        """Return the value of the marker variable for one daemon."""
        return f"{self.token}.{number}"

    def open(self, python: str) -> None:
        """Start the guardian; it says `ready` as its first message. Raises OSError."""
        # SEQPACKET keeps a message whole, with its descriptors beside it, and shows the other end's death as a stream
        # does.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - our own file, by the running interpreter
                    # `-I -S`: no variable and no package of the host's changes what it runs, and it starts faster.
                    [python, "-I", "-S", str(SCRIPT), str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=_BARE,
                    start_new_session=True,  # Ctrl-C at the terminal is the host's to handle
                )
            self._pidfd = os.pidfd_open(self._process.pid)
        except BaseException:
            ours.close()
            self.kill()
            raise
        ours.setblocking(False)  # noqa: FBT003
        self._socket = ours
        self._loop.add_reader(ours.fileno(), self._receive)
        self._loop.add_reader(self._pidfd, self._ended)

    def send(self, message: Mapping[str, Any], descriptors: list[int] | None = None) -> None:
        """Send a message with copies of descriptors. Raises OSError when it is too long for the kernel.

        Where it has to wait for others, `on_unsent` is called with that error instead.
        """
        if self._socket is None:
            return
        data = json.dumps(message).encode()
        # The caller closes its own as soon as this returns, and the message may have to wait.
        copies = _copy_all(descriptors or [])
        if self._outbox or not self._try_send(data, copies):
            self._outbox.append((message, data, copies))
            self._watch_writing(is_wanted=True)

    def close(self) -> None:
        """End the life line: the guardian kills everything below it and exits. `lost` is set when it has."""
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._watch_writing(is_wanted=False)
        for _, _, copies in self._outbox:
            close_all(copies)
        self._outbox.clear()
        self._socket.close()
        self._socket = None

    def kill(self) -> None:
        """Kill the guardian, and by the kernel's doing its daemons; only for one that does not answer."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    # --- callbacks of the loop ---

    def _receive(self) -> bool:
        """Take a message; False when there is none."""
        if self._socket is None:
            return False
        try:
            data, descriptors = receive(self._socket)
        except BlockingIOError:
            return False
        if not data:
            self.close()  # its end is seen by the pidfd
            return False
        self._on_message(json.loads(data), descriptors)
        return True

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        while self._receive():  # what it sent before it died
            pass
        self.close()  # a child that it was forking may hold its end open for a moment
        if self._process is not None:
            self._process.wait()  # it is dead already, and perhaps reaped by somebody else
        self.lost.set()
        self._on_lost(self)

    def _write(self) -> None:
        while self._outbox:
            # Off the queue first: what fails has its copies closed, and must never be tried again with their numbers.
            message, data, copies = self._outbox.popleft()
            try:
                is_sent = self._try_send(data, copies)
            except OSError as error:
                self._on_unsent(message, error)
                continue
            if not is_sent:
                self._outbox.appendleft((message, data, copies))
                return
        self._watch_writing(is_wanted=False)

    def _try_send(self, data: bytes, copies: list[int]) -> bool:
        sock = self._socket
        if sock is None:
            return True
        try:
            socket.send_fds(sock, [data], copies)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionError):
            pass  # it has died; the pidfd reports that
        except OSError:
            close_all(copies)
            raise
        close_all(copies)
        return True

    def _watch_writing(self, *, is_wanted: bool) -> None:
        if self._socket is None or is_wanted is self._is_writing:
            return
        self._is_writing = is_wanted
        if is_wanted:
            self._loop.add_writer(self._socket.fileno(), self._write)
        else:
            self._loop.remove_writer(self._socket.fileno())


def find_marked(token: str) -> list[int]:
    """Return every process that carries a guardian's marker.

    For the orphans of daemons whose guardian was killed, and keeper too: only the marker identifies them.
    """
    wanted = f"\0{MARKER}={token}.".encode()
    return [pid for pid in _processes() if wanted in _environment(pid)]


def kill_marked(token: str) -> int:
    """Kill every process that carries a guardian's marker, and return how many there were."""
    found = find_marked(token)
    for pid in found:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - names only, and often


def _environment(pid: int) -> bytes:
    try:
        return b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone, or another user's
        return b""


def _copy_all(descriptors: list[int]) -> list[int]:
    copies: list[int] = []
    try:
        copies.extend(map(os.dup, descriptors))
    except OSError:
        close_all(copies)
        raise
    return copies


def close_all(descriptors: list[int]) -> None:
    """Close descriptors that came with a message, or copies of those that were to go with one."""
    for descriptor in descriptors:
        os.close(descriptor)
