"""The files that a process of a plugin may reach beside its own: its grants, found on disk and looked at once more.

Blocks on files: not for the event loop's thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ally_plugins.contract.granted_paths import is_in_project, is_within
from ally_plugins.contract.values.errors import CannotExecute
from ally_plugins.policy.granted_files import GrantedFile, granted_files
from ally_plugins.policy.protected_places import ProtectedPlace, protection_of

if TYPE_CHECKING:
    from ally_plugins.policy.permissions import GrantSet

__all__ = ["OpenedFiles", "opened_files"]


class OpenedFiles(NamedTuple):
    """Real paths, each a file or a folder with all below it."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


def opened_files(
    plugin: str,
    program: str,
    grants: GrantSet,
    project: str | None,
    data: str | None,
    places: Iterable[ProtectedPlace],
) -> OpenedFiles:
    """Return what the grants of files open in a project. What is not there yet opens nothing.

    `program` is what would be run. Raises CannotExecute for what leads out of the project by a link, or to what no
    plugin is given: consent was to words, and here is what they mean on this disk.
    """
    places = tuple(places)
    found: dict[str, list[str]] = {"read": [], "write": []}
    for each in granted_files(grants, project, data):
        path = os.path.realpath(each.path)
        if (why := _problem(each, path, places)) is not None:
            text = f"{plugin!r} does not start in {project or 'no project'}: {each.grant.text} cannot be opened, {why}"
            way_out = f"grant a narrower one, or: ally-plugins revoke {plugin} {each.grant.text}"
            raise CannotExecute(f"{text}; {way_out}", plugin=plugin, program=program)
        found[each.grant.topic].append(path)
    return OpenedFiles(tuple(found["read"]), tuple(found["write"]))


def _problem(each: GrantedFile, path: str, places: Iterable[ProtectedPlace]) -> str | None:
    base = os.path.realpath(each.base) if each.base else ""
    if is_in_project(each.grant.target) and base != each.base:
        return f"since the project has become a link, to {base}"  # it was none when the session was opened
    if base and not is_within(path, base):
        return f"since a link leads out, to {path}"
    if base and not is_in_project(each.grant.target):
        return None  # its own folder lies in the home, which is protected from all others
    why = protection_of(path, each.grant.topic, places)
    return None if why is None else f"since {why}"
