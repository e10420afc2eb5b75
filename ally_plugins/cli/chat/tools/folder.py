"""One folder, and what of it the agent's file tools may reach; a model's paths and texts are checked here."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from pydantic_ai.exceptions import ToolFailed

from ally_plugins.catalog.home.folder import read_capped, write_atomically

__all__ = ["MAX_FILE", "Folder"]

MAX_FILE: Final = 2 * 1024 * 1024
"""Bytes of a file that is read or edited; sources are far smaller, and the model is shown a part of it anyhow."""

_UNSEARCHED: Final = frozenset({".git", ".hg", ".venv", "node_modules", "__pycache__"})
"""Folders that hold more files than the project, and none that a person wrote."""

_WALK_S: Final = 10.0
"""Seconds that a search may take: a home folder or a slow disk must not keep the turn for minutes."""


class Folder:
    """A folder whose files are read and written by relative paths; nothing outside of it is touched.

    Its methods block and may be called from any thread. Each raises ToolFailed, with what the model should know.
    """

    def __init__(self, root: Path) -> None:
        self.root: Final = root.resolve()
        self._changing: Final = threading.Lock()

    def path(self, given: str) -> Path:
        """Return the path of a file or folder below the root, with `..` and links followed to where they lead."""
        if "\0" in given:  # the system would take what stands before it for the path
            raise ToolFailed(f"the path {given!r} has a NUL in it")
        try:
            found = (self.root / given).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long, a lone surrogate
            raise ToolFailed(f"the path {given!r} cannot be used: {error}") from None
        if not found.is_relative_to(self.root):
            raise ToolFailed(f"the path {given!r} leads out of the folder")
        return found

    def name(self, path: Path) -> str:
        """Return a path as the model writes it."""
        return path.relative_to(self.root).as_posix()

    def text(self, given: str) -> str:
        """Return a file's text as it is, with its own line ends."""
        path = self.path(given)
        if _is_folder(path):
            raise ToolFailed(f"{given!r} is a folder; list_directory shows what is in it")
        try:
            content = read_capped(path, MAX_FILE)
        except (OSError, ValueError) as error:
            raise ToolFailed(f"the file {given!r} cannot be read: {error}") from None
        if content is None:
            raise ToolFailed(f"there is no file {given!r}")
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise ToolFailed(f"the file {given!r} is no text in UTF-8") from None

    def write(self, given: str, content: str) -> bool:
        """Write a file whole, with the folders on its way; return whether it is new."""
        with self._changing:
            return self._write(given, content)

    def edit(self, given: str, change: Callable[[str], str]) -> None:
        """Replace a file's text by what `change` makes of it. No other change comes between reading and writing."""
        with self._changing:
            self._write(given, change(self.text(given)))

    def _write(self, given: str, content: str) -> bool:
        path = self.path(given)
        if ".git" in map(str.lower, path.relative_to(self.root).parts):  # what git runs by itself stands there
            raise ToolFailed(f"{given!r} is git's own; change it with git's commands")
        try:
            data = content.encode()
            if path.is_file():
                write_atomically(path, data, durable=False)
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:  # creates it or fails: no pipe, device, folder or link is ever opened
                file.write(data)
        except (OSError, ValueError) as error:
            raise ToolFailed(f"the file {given!r} cannot be written: {error}") from None
        return True

    def entries(self, given: str) -> Iterator[str]:
        """Yield the names in a folder in order, those of folders with a slash."""
        try:
            found = sorted(self.path(given).iterdir(), key=lambda path: path.name)
        except OSError as error:
            raise ToolFailed(f"the folder {given!r} cannot be listed: {error.strerror or error}") from None
        for path in found:
            yield f"{path.name}/" if path.is_dir() else path.name

    def files(self, given: str, pattern: str) -> Iterator[Path]:
        """Yield the files below a folder whose name or path in it fits a glob, in order, without following links.

        Raises ToolFailed when it takes longer than `_WALK_S`.
        """
        start, end = self.path(given), time.monotonic() + _WALK_S
        if not _is_folder(start):
            raise ToolFailed(f"there is no folder {given!r}")
        # Models write both; `fnmatch` has no `**`, and its `*` passes over slashes as it is.
        wanted = pattern.removeprefix("./").removeprefix("**/")
        for place, folders, names in os.walk(start):
            # In place: `os.walk` goes into what is left in the list, in its order.
            folders[:] = sorted(set(folders) - _UNSEARCHED)
            for name in sorted(names):
                if time.monotonic() > end:
                    raise ToolFailed(f"{given!r} holds too many files to search in {_WALK_S:g} s; name a folder in it")
                path = Path(place, name)
                is_fit = fnmatchcase(name, wanted) or fnmatchcase(path.relative_to(start).as_posix(), wanted)
                if is_fit and path.is_file() and not path.is_symlink():
                    yield path


def _is_folder(path: Path) -> bool:
    with suppress(OSError):  # a name that is too long, until Python 3.14
        return path.is_dir()
    return False
