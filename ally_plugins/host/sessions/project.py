"""The folder that a session is about: by it, sandboxed plugins have a process of their own for each project."""

from __future__ import annotations

import os
from pathlib import Path

from ally_plugins.contract.values.errors import HostError

__all__ = ["project_root"]


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
    # A focus is a text for plugins, and may be anything.
    if focus is None or not focus.startswith("/") or "\0" in focus or not Path(focus).is_dir():
        return None
    return os.path.realpath(focus)
