"""One run of the tests: a child process below a keeper, its output bounded, its end certain."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Final

from ally_plugins import running_python

from . import keeper

__all__ = ["Finished", "run"]

KEPT_BYTES: Final = 64 * 1024
"""The end of the output; a runner's summary stands there, and a test may print without end."""

PATIENCE: Final = 0.9
"""Seconds to wait for the end of what was cancelled; the keeper ends it in any case, also after this process."""

_NO_COLOURS: Final = {"NO_COLOR": "1", "TERM": "dumb"}


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended: the command's code, the end of its output, and how many seconds it took."""

    code: int
    output: str
    seconds: float
    is_timeout: bool = False

    @property
    def has_passed(self) -> bool:
        """Whether the tests pass."""
        return self.code == 0 and not self.is_timeout

    @property
    def could_not_run(self) -> bool:
        """Whether the command itself could not be run, which says nothing of the tests."""
        return self.code in (keeper.NOT_FOUND, keeper.CANNOT_EXECUTE)


async def run(command: Sequence[str], folder: Path, timeout: float, changed: Iterable[str] = ()) -> Finished:
    """Run a command in a folder, for `timeout` seconds at most, and return how it ended.

    `changed` are files below it that have changed, whose bytecode of before is removed. Cancelling ends it with all
    that it has started.
    """
    child, loop = _Child(command, folder), asyncio.get_running_loop()
    ended: asyncio.Future[Finished] = loop.create_future()

    def work() -> None:
        for name in changed:
            _forget_bytecode(folder / name)
        finished = child.run()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(ended.set_result, finished)

    threading.Thread(target=work, name="ally-test-watch", daemon=True).start()
    try:
        done, _ = await asyncio.wait([ended], timeout=timeout)
        if done:
            return ended.result()
        child.end()
        return replace(await asyncio.shield(ended), is_timeout=True)
    except asyncio.CancelledError:
        child.end()
        await asyncio.wait([ended], timeout=PATIENCE)
        raise


def _forget_bytecode(source: Path) -> None:
    """Remove what Python and pytest have compiled of a file.

    They take it for the file's as long as that has the same size and second: a file that is saved again within the
    second in which it was tested would be tested as it was before.
    """
    if source.suffix == ".py":
        with suppress(OSError):
            for compiled in (source.parent / "__pycache__").glob(f"{escape(source.stem)}.*.pyc"):
                compiled.unlink()


class _Child:
    """The keeper's process; `run` belongs to a thread, `end` may be called from any."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = _kept(command)
        self._folder = folder
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ended = False

    def run(self) -> Finished:
        """Run it to its end."""
        started = time.monotonic()
        try:
            with self._lock:
                if self._is_ended:
                    return Finished(keeper.CANNOT_EXECUTE, "it was cancelled", 0.0)
                self._process = process = self._start()
        except OSError as error:
            text = f"{self._command[0]!r} cannot be run in {str(self._folder)!r}: {error.strerror}"
            return Finished(keeper.CANNOT_EXECUTE, text, 0.0)
        output = _end_of_output(process)
        code = process.wait()
        with self._lock:
            _close(process)
        return Finished(code, output, time.monotonic() - started)

    def end(self) -> None:
        """End it with all that it has started."""
        with self._lock:
            self._is_ended = True
            if self._process is not None:
                _close(self._process)
                if os.name != "posix":
                    self._process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - the operator's own command, without a shell
            self._command, cwd=self._folder, env={**os.environ, **_NO_COLOURS}, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip


def _kept(command: Sequence[str]) -> list[str]:
    """Return the command below a keeper.

    Windows has none, nor has a program that is no Python: there only the command itself is ended.
    """
    python = running_python()
    return [python, "-I", "-S", str(Path(keeper.__file__)), *command] if os.name == "posix" and python else [*command]


def _end_of_output(process: subprocess.Popen[bytes]) -> str:
    kept = bytearray()
    assert process.stdout is not None  # noqa: S101 - it was started with a pipe
    with process.stdout:
        while chunk := os.read(process.stdout.fileno(), KEPT_BYTES):
            kept += chunk
            del kept[:-KEPT_BYTES]
    return kept.decode("utf-8", "replace")


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe that the keeper watches."""
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
