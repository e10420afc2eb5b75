"""The folder that a session is about: by it, sandboxed plugins have a process of their own for each project."""

from __future__ import annotations

import os
from pathlib import Path

from ally_plugins.contract.values.errors import HostError

__all__ = ["named_folder", "project_root"]


def project_root(project: Path | str | None, focus: str | None) -> str | None:
    """Return the real path of a session's project: the one that the host names, else a focus that is a folder.

    None without either. Raises HostError where the host names what is no folder. Waits for the disk.
    """
    if project is not None:
        # A link is followed here, once: what a session is about does not change with it.
        root = os.path.realpath(project)
        if not Path(project).is_absolute() or not Path(root).is_dir():
            raise HostError(f"project is {str(project)!r}, expected the absolute path of a folder")
        return root
    folder = named_folder(focus)
    return folder if folder is not None and Path(folder).is_dir() else None


def named_folder(focus: str | None) -> str | None:
    """Return the real path that a focus names, whether something is there or not; None for one that is no path."""
    # A focus is a text for plugins, and may be anything.
    return os.path.realpath(focus) if focus is not None and focus.startswith("/") and "\0" not in focus else None
