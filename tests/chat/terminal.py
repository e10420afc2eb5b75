"""A program at a terminal of its own: keys go in, and what a person would see comes out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

PATIENCE_S = 120.0
"""For one expected text: on a busy machine starting alone took 30."""

_ESCAPES = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b\][^\x07]*\x07|\x1b[=>78M]")
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
ENTER, ALT_ENTER, CTRL_C, CTRL_D = "\r", "\x1b\r", "\x03", "\x04"

READING = b"\x1b[?2004h"
"""A line editor asks the terminal to mark what is pasted, each time when it begins to read."""


def _plain(raw: bytes) -> str:
    return _ESCAPES.sub(b"", raw).replace(b"\r", b"").decode("utf-8", "replace")


class Terminal:
    """One child at a pty. `raw` has every byte that it wrote, `text` what is left without escapes."""

    def __init__(
        self, command: Sequence[str], *, cwd: Path, environ: Mapping[str, str], columns: int = 100, rows: int = 40
    ) -> None:
        self.raw = b""
        self._rows = rows
        self._seen = self._prompted = 0
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.child = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, shutil.which(command[0]) or command[0], *command[1:]],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env={**environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "COLUMNS": str(columns), "LINES": str(rows)},
            start_new_session=True,
        )
        os.close(slave)
        self._master = master

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    @property
    def text(self) -> str:
        """What a person would read, in the order in which it was written."""
        return _plain(self.raw)

    def press(self, keys: str) -> None:
        """Send keys."""
        os.write(self._master, keys.encode())

    def say(self, line: str) -> None:
        """Type a line and press Enter."""
        self.press(line + ENTER)

    def paste(self, text: str) -> None:
        """Paste a text as terminals do."""
        self.press(f"\x1b[200~{text}\x1b[201~")

    def expect(self, wanted: str, *, patience: float = PATIENCE_S) -> str:
        """Wait until a text comes after what was expected before; return what came until its end."""
        deadline = time.monotonic() + patience
        while True:
            text = self.text
            found = text.find(wanted, self._seen)
            if found >= 0:
                begin, self._seen = self._seen, found + len(wanted)
                return text[begin : self._seen]
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                raise AssertionError(f"{wanted!r} did not come; what came was\n{text[self._seen :]}")

    def prompt(self) -> str:
        """Wait until the program reads keys; return what came until then."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = self.raw.find(READING, self._prompted)
            if found >= 0:
                self._prompted = found + len(READING)
                begin, self._seen = self._seen, len(_plain(self.raw[: self._prompted]))
                return self.text[begin : self._seen]
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"no prompt came; what came was\n{self.text[self._seen :]}")

    def _read(self, patience: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], patience)
        if not ready:
            return False
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # the child has ended, and nobody else holds the other end
            return False
        self._answer(piece)
        self.raw += piece
        return bool(piece)

    def _answer(self, piece: bytes) -> None:
        """Answer what a terminal is asked: the cursor is in its last row."""
        if b"\x1b[6n" in piece:
            os.write(self._master, f"\x1b[{self._rows};1R".encode())

    def wait(self, patience: float = PATIENCE_S) -> int:
        """Wait for the child's end, reading what it still writes; return its code."""
        deadline = time.monotonic() + patience
        while self.child.poll() is None and time.monotonic() < deadline:
            self._read(0.05)
        while self._read(0):
            pass
        if self.child.poll() is None:
            raise AssertionError(f"the program has not ended; what came was\n{self.text[self._seen :]}")
        return self.child.returncode

    def hang_up(self) -> None:
        """Close the terminal."""
        with contextlib.suppress(OSError):
            os.close(self._master)
