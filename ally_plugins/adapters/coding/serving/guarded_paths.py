"""The paths that say how an agent is guarded, and which other path or text means one of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from attrs import Factory, field, frozen

__all__ = ["IN_PROJECTS", "GuardedPaths"]

IN_PROJECTS: Final = (
    ".claude/settings.json", ".claude/settings.local.json", ".codex/hooks.json", ".codex/config.toml",
    ".gemini/settings.json", ".pi/settings.json",
)  # fmt: skip
"""Files in which a project says which hooks an agent runs, or that it runs none."""

_FOLDERS: Final = ("/.claude", "/.codex", "/.gemini")
_RUN_BY_SITE: Final = re.compile(r".+\.pth|(?:site|user)customize\.py")
_LISTING: Final = re.compile(r"glob|listdir|scandir|iterdir|walk|readdir|\*")


@frozen
class GuardedPaths:
    """Folders and files that no call of an agent may change. Links are read once, where it is made."""

    folders: tuple[str, ...]
    """The home, and folders of ours among an agent's; absolute."""
    files: tuple[str, ...]
    """Settings of agents that say which hooks they run; absolute."""
    user_home: str
    _real: tuple[tuple[str, ...], tuple[str, ...]] = field(
        init=False, default=Factory(lambda self: (_spelled(self.folders), _spelled(self.files)), takes_self=True)
    )
    """Without regard to case, which the disks of macOS have none of."""
    _sites: frozenset[str] = field(
        init=False, default=Factory(lambda self: frozenset(_sites_of(self._real[0])), takes_self=True)
    )
    """Folders of packages in which ours are."""

    def is_guarded(self, path: str) -> bool:
        """Say whether a path is one of them, or lies in one."""
        folders, files = self._real
        path = path.casefold()
        above, _, name = path.rpartition("/")
        return (
            path in files
            or any(path == folder or path.startswith(f"{folder}/") for folder in folders)
            or path.endswith(tuple(f"/{name}" for name in IN_PROJECTS))
            or (above in self._sites and _RUN_BY_SITE.fullmatch(name) is not None)
        )

    def holds_guarded(self, path: str) -> bool:
        """Say whether one of them lies in a folder."""
        folders, files = self._real
        path = path.casefold()
        inside = path.rstrip("/") + "/"
        return any(each.startswith(inside) for each in (*folders, *files)) or path.endswith(_FOLDERS)

    def holds_at_once(self, path: str) -> bool:
        """Say whether one of them lies in this very folder; of the user's home that is nothing special."""
        path = path.casefold()
        if path == self.user_home.casefold():
            return False
        return path.endswith(_FOLDERS) or any(
            str(PurePosixPath(each).parent) == path for group in self._real for each in group
        )

    def is_put_together(self, code: str) -> bool:
        """Say whether a text names a guarded file in two parts, or the folder that it lies in."""
        paths, code = [PurePosixPath(each) for each in (*self._real[1], *IN_PROJECTS)], code.casefold()
        return any(
            path.parent.name in code
            and (
                path.name in code or _LISTING.search(code) or re.search(rf"{re.escape(path.parent.name)}/?['\"]", code)
            )
            for path in paths
        )

    def spellings(self) -> tuple[str, ...]:
        """Return how they may be written in a program's code."""
        absolute = (*self._real[0], *self._real[1])
        home = self.user_home.casefold().rstrip("/") + "/"
        return (*absolute, *(each.removeprefix(home) for each in absolute if each.startswith(home)), *IN_PROJECTS)


def _spelled(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Return paths as they are spelled and as they are: either may be linked."""
    names = (name.casefold() for each in paths for name in (os.path.normpath(each), os.path.realpath(each)))
    return tuple(dict.fromkeys(names))


def _sites_of(folders: tuple[str, ...]) -> Iterator[str]:
    """Yield the folders of packages, in which files may be that Python runs at its start."""
    return (above for each in folders if (above := os.path.dirname(each)).endswith(("site-packages", "dist-packages")))  # noqa: PTH120 - text
