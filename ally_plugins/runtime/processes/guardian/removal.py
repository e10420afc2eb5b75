"""Removing a folder that was a plugin's own: whatever lies in it, however deep, in constant depth and descriptors."""

from __future__ import annotations

import itertools
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

__all__ = ["remove_folder"]

_FOLDER: Final = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_HAS_CALLS: Final = {os.open, os.stat, os.unlink, os.rmdir, os.rename} <= os.supports_dir_fd
_LIFTED: Final = "ally-lifted-"
"""What a folder is called that was lifted to the top; with a number, which no name there has."""


def remove_folder(path: str) -> None:
    """Remove a folder with all that is in it, as far as that can be; links are not followed. Raises nothing.

    `shutil.rmtree` takes a frame and a descriptor for each level, and raises RecursionError for a folder a thousand
    deep, which a plugin makes with two calls a level. Here what lies deeper is lifted to the top first.
    """
    if not _HAS_CALLS:  # Windows, where a plugin's process is held to nothing anyway
        import shutil

        with suppress(RecursionError):
            shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        top = _open(path)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path)  # noqa: PTH106


def _empty(top: int) -> None:
    names = os.listdir(top)
    lifted_names = _free_names(frozenset(names))
    while names:
        name = names.pop()
        with suppress(OSError):
            if not _is_folder(name, top):
                os.unlink(name, dir_fd=top)
                continue
            folder = _open(name, top)
            try:
                names += _lift_all(folder, top, lifted_names)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=top)


def _free_names(taken: frozenset[str]) -> Iterator[str]:
    return (name for name in map(f"{_LIFTED}{{}}".format, itertools.count()) if name not in taken)


def _lift_all(folder: int, top: int, lifted_names: Iterator[str]) -> Iterator[str]:
    """Remove the files of a folder, move its folders to the top, and yield what these are called there."""
    for name in os.listdir(folder):
        with suppress(OSError):
            if not _is_folder(name, folder):
                os.unlink(name, dir_fd=folder)
                continue
            os.close(_open(name, folder))  # only what may be written in can be moved
            lifted = next(lifted_names)
            os.rename(name, lifted, src_dir_fd=folder, dst_dir_fd=top)
            yield lifted


def _is_folder(name: str, parent: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _open(name: str, parent: int | None = None) -> int:
    """Open a folder to be emptied, whatever rights it was made with. Raises OSError."""
    if sys.platform == "linux":
        place = os.open(name, os.O_PATH | _FOLDER, dir_fd=parent)
        try:
            with suppress(OSError):
                os.chmod(f"/proc/self/fd/{place}", stat.S_IRWXU)  # noqa: PTH101 - what is open, and no link in its place
        finally:
            os.close(place)
    return os.open(name, os.O_RDONLY | _FOLDER, dir_fd=parent)
