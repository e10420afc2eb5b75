"""Changes below a project's folder, from a process that watches; `watcher` says why it is one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from ally_plugins import running_python

from . import watcher

__all__ = ["MISSING", "changes_below", "is_available"]

MISSING: Final = "watchfiles is not installed: pip install 'ally-plugins-contrib[test-watch]'"

_LAST_WORDS: Final = 500  # characters of what the process printed before it ended by itself

Told = frozenset[str] | OSError


def is_available() -> bool:
    """Say whether files can be watched."""
    return find_spec("watchfiles") is not None


async def changes_below(
    folder: Path, paths: Sequence[str], ignore: Sequence[str], quiet: float
) -> AsyncGenerator[frozenset[str], None]:
    """Yield the names of changed files once nothing has changed for `quiet` seconds; first an empty set: it watches.

    Raises OSError when a path cannot be watched, or the process ends. Closing ends it.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Told]()

    def tell(what: Told) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(queue.put_nowait, what)

    asked = {"folder": str(folder), "paths": list(paths), "ignore": list(ignore), "quiet": quiet}
    process = _Process(json.dumps(asked), tell)
    threading.Thread(target=process.run, name="ally-files", daemon=True).start()
    try:
        while True:
            told = await queue.get()
            if isinstance(told, OSError):
                raise told
            yield told
    finally:
        process.end()


class _Process:
    """The process that watches; `run` belongs to a thread, `end` may be called from any."""

    def __init__(self, asked: str, tell: Callable[[Told], None]) -> None:
        self._asked = asked
        self._tell = tell
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._is_ended = False

    def run(self) -> None:
        """Tell of what it says, until it ends."""
        with self._lock:
            if self._is_ended:
                return
            try:
                self._process = process = self._start()
            except OSError as error:
                self._tell(error)
                return
        last = ""
        with process:
            for line in process.stdout or ():
                last = line
                self._take(line)
        if not self._is_ended:
            words = "" if last.startswith("[") else f": {last.strip()[-_LAST_WORDS:]}"
            self._tell(OSError(f"the process that watches ended with {process.returncode}{words}"))

    def _start(self) -> subprocess.Popen[str]:
        if not (python := running_python()):
            raise OSError(f"this program, {sys.executable!r}, is no Python that could watch files")
        return subprocess.Popen(  # noqa: S603 - our own script, by the running interpreter
            [python, "-P", str(Path(watcher.__file__)), self._asked],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            encoding="utf-8", errors="replace", start_new_session=True,
        )  # fmt: skip

    def _take(self, line: str) -> None:
        try:
            told: Any = json.loads(line)
        except ValueError:  # a warning, or a traceback, of which the last line is told at the end
            return
        if isinstance(told, list):
            self._tell(frozenset(map(str, told)))
        elif isinstance(told, dict):
            self._is_ended = True
            self._tell(OSError(str(told.get("error"))))

    def end(self) -> None:
        """End it: it ends when its standard input closes."""
        with self._lock:
            self._is_ended = True
            if self._process is not None and self._process.stdin is not None:
                with suppress(OSError):
                    self._process.stdin.close()
