"""The state of the project that a command is run in, for `project`, `list` and `doctor`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from attrs import frozen

from ally_plugins.contract.values.errors import ConfigError

from .text import inert

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home

__all__ = ["ProjectState", "project_state"]


@frozen
class ProjectState:
    """What is known of the `.ally` nearest around a folder; `root` is None where there is none."""

    root: str | None
    state: Literal["none", "not trusted", "trusted", "changed", "gone", "refused"]
    reason: str = ""

    def lines(self) -> list[str]:
        """Return it as lines for a person; none where there is nothing to do."""
        root = inert(self.root or "")
        match self.state:
            case "not trusted":
                return [f"{root}/.ally is not trusted, and nothing of it is read: ally-plugins project trust"]
            case "changed":
                return [f"{root}/.ally has changed, and what was trusted holds: ally-plugins project trust"]
            case "gone":
                return [f"{root}/.ally is gone, and what was trusted holds; to end that: ally-plugins project untrust"]
            case "refused":
                return [f"what was trusted of {root} holds, since {inert(self.reason)}"]
            case _:
                return []


def project_state(home: Home, folder: str) -> ProjectState:
    """Return the state of the project around a folder. Reads its `.ally` only where it was trusted before.

    Raises ConfigError where it cannot be read what was trusted.
    """
    from ally_plugins.catalog.projects.roots import find_root

    root = find_root(folder)
    if not os.path.lexists(home.projects_file):
        return ProjectState(root, "none" if root is None else "not trusted")
    from ally_plugins.catalog.projects.ally_folder import read_ally_folder
    from ally_plugins.catalog.projects.trusted import project_of, read_trusted

    trusted = read_trusted(home)
    if root is None:
        around = project_of(folder, trusted)
        return ProjectState(around, "none" if around is None else "gone")
    if root not in trusted:
        return ProjectState(root, "not trusted")
    try:
        is_same = read_ally_folder(root, home.path).digest == trusted[root].digest
    except ConfigError as error:
        return ProjectState(root, "refused", str(error))
    return ProjectState(root, "trusted" if is_same else "changed")
