"""`logs`: what a daemon wrote to its standard error, the last lines or followed live.

The files are written and rotated by the host: NAME.log, and NAME.log.1 before it; a line each, `TIME TEXT`.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from contextlib import closing
from typing import IO, TYPE_CHECKING, Final

import click

from ally_plugins.cli.shell.completion import plugin_names
from ally_plugins.cli.shell.exits import INTERRUPTED
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, echo_pages, inert, print_json, when_iso
from ally_plugins.contract.values.ids import bare_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ally_plugins.cli.shell.state import State

__all__ = ["logs"]

_LINES: Final = 50
_MAX_LINES: Final = 100_000  # more than both files can hold, of 1 MiB each and 26 bytes a line for the time alone
_INTERVAL: Final = 0.2
"""Seconds between two looks at a log that is followed."""
_CHUNK: Final = 64 * 1024
_LONGEST: Final = 1024 * 1024
"""Bytes of a line that has no end yet; the host cuts lines long before."""


@command("logs")
@click.argument("name", shell_complete=plugin_names)
@click.option(
    "--lines", "-n", default=_LINES, type=click.IntRange(0, _MAX_LINES), show_default=True, help="How many lines."
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
def logs(state: State, name: str, lines: int, follow: bool) -> None:  # noqa: FBT001 - click's way
    """Show the last lines that the daemon NAME wrote to its standard error.

    A plugin that runs inside the agent's process has no log of its own: it logs with the agent. With --json each line
    is an object with `time` and `text`.

    \b
    Example:
      ally-plugins logs loop-warner
      ally-plugins logs loop-warner --follow
    """
    file = _log_of(state, name)
    with closing(_Log(file)) as log:
        try:
            last = deque(log.lines(), maxlen=lines)
            if follow or state.as_json:
                for line in last:
                    _show(state, line)
            else:
                echo_pages(map(_shown, last))
            while follow:
                time.sleep(_INTERVAL)
                for line in log.lines():
                    _show(state, line)
        except KeyboardInterrupt:
            click.get_current_context().exit(INTERRUPTED)  # the usual end of `--follow`: no message


def _log_of(state: State, name: str) -> Path:
    """Return where a plugin's log is or will be. Raises ConfigError when there is neither a log nor such a plugin."""
    from ally_plugins.runtime.processes.stderrlog import log_file

    # Looked for before the plugin: the log of one that was uninstalled can still be read.
    file = log_file(state.home.logs_dir, bare_name(name))
    if not file.exists():
        state.registry.get(name)  # raises, with the nearest right name, where there is no such plugin
        echo(f"{name} has written nothing to its standard error", to_stderr=True)
    return file


def _show(state: State, line: str) -> None:
    if state.as_json:
        at, _, text = line.partition(" ")
        print_json({"time": at, "text": text})
    else:
        echo(_shown(line))


def _shown(line: str) -> str:
    at, _, text = line.partition(" ")
    return f"{when_iso(at)} {inert(text)}"


class _Log:
    """One plugin's log as a stream of lines, across its rotation; lives as long as the command."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._open: IO[bytes] | None = None
        self._partial = b""
        self._is_first = True

    def lines(self) -> Iterator[str]:
        """Return what has come since the last time: at first what is there, of the file before too."""
        if self._is_first:
            self._is_first = False
            before = _opened(self._file.with_name(f"{self._file.name}.1"))
            if before is not None:
                with before:
                    yield from self._rest(before)
        yield from self._new_lines()
        if self._is_replaced():
            yield from self._new_lines()  # lines that the old file got between the two reads
            self.close()
            yield from self._new_lines()

    def _new_lines(self) -> Iterator[str]:
        if self._open is None:
            self._open, self._partial = _opened(self._file), b""
        if self._open is not None:
            yield from self._rest(self._open)

    def _rest(self, file: IO[bytes]) -> Iterator[str]:
        while chunk := file.read(_CHUNK):
            *whole, self._partial = (self._partial + chunk).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in whole)
            if len(self._partial) > _LONGEST:
                yield self._partial.decode("utf-8", "replace")
                self._partial = b""

    def _is_replaced(self) -> bool:
        """Say whether the host has begun a new file."""
        if self._open is None:
            return False
        try:
            found = self._file.stat()
        except FileNotFoundError:  # the host has renamed the old one, and opens the new one next
            return False
        own = os.fstat(self._open.fileno())
        # Not the size, which may be the same again by the time that we look.
        return (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino)

    def close(self) -> None:
        """Close the file."""
        if self._open is not None:
            self._open.close()
            self._open = None


def _opened(file: Path) -> IO[bytes] | None:
    """Open a regular file, None when there is none: a pipe in its place could be waited for without end."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return None
        return file.open("rb")
    except FileNotFoundError:
        return None
