"""Paths and programs that grants name: how they are written, and which of them lies below which.

`project` is the root of the session's project and `data` the plugin's own data folder; all else is absolute. Only texts
are looked at here. Where they lead to, links included, is found out when a plugin's process is started.
"""

from __future__ import annotations

import re
from typing import Final

from .wording import describe, is_plain_text

__all__ = ["DATA", "PROJECT", "folder_problem", "is_in_project", "is_within", "program_problem"]

PROJECT: Final = "project"
DATA: Final = "data"

_KERNELS: Final = ("/proc", "/sys", "/dev")
"""Where the kernel shows other processes and devices as files: what is written there changes the machine."""

_PROGRAM: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}\Z")
_PATTERN: Final = frozenset("*?\\")
_LONGEST: Final = 500  # characters; the reason beside it in `consent.toml` and in lists has up to 1000
_EXPECTED: Final = "expected 'project', 'project/...', 'data', 'data/...' or an absolute path"


def folder_problem(path: str) -> str | None:
    """Return why no grant can name this file or folder, None when one can."""
    if len(path) > _LONGEST or not is_plain_text(path):
        return f"found {describe(path)}, expected at most {_LONGEST} characters, and none that control a terminal"
    if not path or path.partition("/")[0] not in (PROJECT, DATA, ""):
        return f"found {describe(path)}, {_EXPECTED}"
    if _PATTERN.intersection(path):
        return f"found {describe(path)}, expected a plain path: a folder stands for all that is below it"
    if path != "/" and any(part in ("", ".", "..") for part in path.split("/")[1:]):
        return f"found {describe(path)}, expected a path without '..', '.', '//' and a slash at its end"
    if any(is_within(path, folder) for folder in _KERNELS):
        return f"found {describe(path)}, which shows other processes and devices, and cannot be granted"
    return None


def program_problem(name: str) -> str | None:
    """Return why no grant can name this program, None when one can: by a name that PATH finds, or an absolute path."""
    if name.startswith("/"):
        return folder_problem(name)
    # Not relative with a slash: that would be another program in each folder.
    if _PROGRAM.match(name):
        return None
    return f"found {describe(name)}, expected the name of a program, such as 'git', or its absolute path"


def is_within(path: str, folder: str) -> bool:
    """Return whether `path` is `folder` or lies below it; both as grants write them."""
    return path == folder or path.startswith(folder if folder.endswith("/") else f"{folder}/")


def is_in_project(path: str) -> bool:
    """Return whether a grant's path is the project's root or lies below it."""
    return is_within(path, PROJECT)
