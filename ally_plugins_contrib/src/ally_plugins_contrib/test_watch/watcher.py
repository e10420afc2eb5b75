"""Watches folders in a process of its own, and prints the changes that count: a JSON list of names for each burst.

    python -P watcher.py JSON       {"folder": ..., "paths": [...], "ignore": [...], "quiet": SECONDS}

The first list is empty and says that it watches; `{"error": ...}` says why it cannot. It ends when its standard input
closes. A process, since `watchfiles` holds the interpreter's lock while it looks through a folder: 0.4 s for ten
thousand folders, in which the loop of an agent would stand still. It needs `watchfiles` and the standard library.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

__all__ = ["Ignored", "main"]

STEP: Final = 0.05
"""Seconds between two looks."""

ALWAYS: Final = (
    ".*_cache", ".coverage*", ".DS_Store", ".git", ".hg", ".hypothesis", ".idea", ".nox", ".svn", ".tox", ".venv",
    ".vscode", "*.egg-info", "*.log", "*.py[cod]", "*.sw?", "*.tmp", "*~", ".#*", "4913", "__pycache__", "build",
    "coverage.xml", "dist", "htmlcov", "node_modules", "target", "venv",
)  # fmt: skip
"""What tools write while tests run, and editors beside the file that they save."""


class Ignored:
    """Which changed files do not count: patterns for any part of the path below the folder, or for the whole of it."""

    def __init__(self, folder: Path, more: Iterable[str] = ()) -> None:
        self._folder = folder
        self._patterns = (*ALWAYS, *(pattern.strip("/") for pattern in more))

    def name_of(self, path: str) -> str | None:
        """Return a file's name as messages show it, relative to the folder; None when it does not count."""
        try:
            name = Path(path).relative_to(self._folder)
        except ValueError:
            return None
        tried = (*name.parts, name.as_posix())
        is_ignored = any(fnmatchcase(part, pattern) for part in tried for pattern in self._patterns)
        return None if is_ignored else name.as_posix()


def main(asked: dict[str, Any]) -> None:
    """Watch until standard input closes."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    folder, quiet = Path(asked["folder"]), float(asked["quiet"])
    try:
        _watch([folder / path for path in asked["paths"]], Ignored(folder, asked["ignore"]), quiet)
    except Exception as error:  # noqa: BLE001 - whatever watchfiles raises is told to whoever asked
        _say({"error": f"{type(error).__name__}: {error}"})


def _watch(paths: list[Path], ignored: Ignored, quiet: float) -> None:
    from watchfiles import watch

    is_watching = False
    for changes in watch(
        *paths,
        watch_filter=None,
        step=round(max(quiet, STEP) * 1000),
        debounce=round(max(quiet * 10, 2.0) * 1000),  # whoever saves without a pause is heard all the same
        rust_timeout=round(STEP * 1000),
        yield_on_timeout=True,
    ):
        if not is_watching:
            _say([])
            is_watching = True
        if names := sorted({name for _, path in changes if (name := ignored.name_of(path)) is not None}):
            _say(names)


def _say(what: object) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 - a program's output


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 64):
        pass
    os._exit(0)  # the thread that watches holds nothing


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
