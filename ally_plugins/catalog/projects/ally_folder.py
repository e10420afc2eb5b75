"""The `.ally` of a project, read whole into memory and looked at no other way: links and others' files are refused.

Every file is opened below the folder that was looked at, so that nothing can be exchanged between the look and the
reading. Nothing of it is imported or run.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from attrs import field, frozen

from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.journal.owned_files import acting_as
from ally_plugins.policy.owned_files import fault_of

from .roots import FOLDER

__all__ = ["AllyFolder", "read_ally_folder"]

_MAX_FILES: Final = 500
"""Of all plugins together; one of shell or Python has five, and dependencies do not belong there."""
_MAX_BYTES: Final = 8 * 1024 * 1024
_DEEPEST: Final = 16
_FLAGS: Final = (
    getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
)


@frozen
class AllyFolder:
    """What a project's `.ally` held when it was read: each file by its path in it, and whether it can be executed."""

    root: str
    """The real path of the project."""
    files: Mapping[str, tuple[bytes, bool]] = field(repr=False)

    @property
    def digest(self) -> str:
        """The hash of all of it."""
        lines = (
            f"{path}\0{int(runs)}\0{hashlib.sha256(data).hexdigest()}" for path, (data, runs) in self.files.items()
        )
        return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


def read_ally_folder(root: str, home: Path) -> AllyFolder:
    """Read the `.ally` of a folder. Blocks on files.

    Raises ConfigError, which says the way out, where there is none; for a folder that no project is in (the user's home
    directory, one around it or around the plugins' `home`); for links, devices, what another user owns or may
    write, and for too much of it.
    """
    root = os.path.realpath(root)
    _check_place(root, home)
    try:
        top = os.open(root, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _FLAGS)
        try:
            _check(root, os.fstat(top), is_folder=True)
            folder = _open(FOLDER, top, f"{root}/{FOLDER}", is_folder=True)
        finally:
            os.close(top)
        try:
            files = dict(_Reading(f"{root}/{FOLDER}").read(folder, ""))
        finally:
            os.close(folder)
    except FileNotFoundError:
        text = f"{root!r} has no {FOLDER}; an empty one with a project.toml is where to begin"
        raise ConfigError(text, path=root) from None
    except OSError as error:
        raise ConfigError(
            f"the {FOLDER} of {root!r} cannot be trusted: {error.strerror or error}", path=root
        ) from error
    return AllyFolder(root, files)


def _check_place(root: str, home: Path) -> None:
    if os.name != "posix":
        # Descriptors of folders, and who may write a file, are what all of this rests on.
        raise ConfigError("projects cannot be trusted on this platform: who may write a file is not known", path=root)
    users, ours = os.path.realpath(Path.home()), os.path.realpath(home)
    for place, what in ((users, "your home directory"), (ours, "the home of the plugins")):
        if place == root or place.startswith(root.rstrip("/") + "/"):
            raise ConfigError(f"{root!r} is, or is around, {what}, and no project; expected a folder below", path=root)
    if root == ours or root.startswith(f"{ours}/"):
        raise ConfigError(f"{root!r} lies in the home of the plugins, and is no project", path=root)


def _check(path: str, found: os.stat_result, *, is_folder: bool = False) -> None:
    if fault := fault_of(path, found, acting_as(), is_folder=is_folder):
        raise OSError(None, f"{path}: {fault}")


def _open(name: str, folder: int, path: str, *, is_folder: bool = False) -> int:
    # First, since `open` reports a link as ELOOP, and waits for no pipe only by its flag.
    _check(path, os.stat(name, dir_fd=folder, follow_symlinks=False), is_folder=is_folder)
    descriptor = os.open(name, os.O_RDONLY | _FLAGS | (os.O_DIRECTORY if is_folder else 0), dir_fd=folder)
    try:
        _check(path, os.fstat(descriptor), is_folder=is_folder)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class _Reading:
    """One reading of a folder; lives as long as it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._bytes = self._files = 0

    def read(self, folder: int, below: str, depth: int = 0) -> Iterator[tuple[str, tuple[bytes, bool]]]:
        if depth > _DEEPEST:
            raise OSError(None, f"{self._path}/{below} lies deeper than {_DEEPEST} folders")
        for name in sorted(os.listdir(folder)):
            if name == "__pycache__":
                continue  # what an interpreter leaves there is no part of what is trusted, and not copied
            path = f"{below}{name}"
            if not name.isprintable():
                raise OSError(None, f"{self._path} has a file whose name cannot be shown: {path!r}")
            is_folder = stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
            descriptor = _open(name, folder, f"{self._path}/{path}", is_folder=is_folder)
            try:
                if is_folder:
                    yield from self.read(descriptor, f"{path}/", depth + 1)
                else:
                    yield path, (self._content(descriptor), bool(os.fstat(descriptor).st_mode & stat.S_IXUSR))
            finally:
                os.close(descriptor)

    def _content(self, descriptor: int) -> bytes:
        self._files += 1
        if self._files > _MAX_FILES:
            raise OSError(None, f"it has more than {_MAX_FILES} files")
        content = bytearray()
        while piece := os.read(descriptor, 1024 * 1024):
            content += piece
            if self._bytes + len(content) > _MAX_BYTES:
                raise OSError(None, f"it has more than {_MAX_BYTES >> 20} MiB")
        self._bytes += len(content)
        return bytes(content)
