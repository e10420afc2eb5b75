"""Where the files lie that a plugin was granted, in one session's project. Links are left to whoever opens them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from attrs import frozen

from ally_plugins.contract.granted_paths import DATA, PROJECT
from ally_plugins.contract.grants import Grant

if TYPE_CHECKING:
    from .permissions import GrantSet

__all__ = ["GrantedFile", "granted_files", "names_project"]


@frozen
class GrantedFile:
    """One grant of files as an absolute path; `base` is the folder that it must not lead out of, empty for none."""

    grant: Grant
    path: str
    base: str = ""


def granted_files(grants: GrantSet, project: str | None, data: str | None) -> Iterable[GrantedFile]:
    """Yield the files of a set of grants, sorted; without a project or a data folder those below it are left out."""
    bases = {PROJECT: project, DATA: data}
    for grant in sorted(each for each in grants.grants if each.kind == "files"):
        first, _, rest = grant.target.partition("/")
        if not first:
            yield GrantedFile(grant, grant.target)
        elif (base := bases[first]) is not None:
            yield GrantedFile(grant, f"{base.rstrip('/')}/{rest}" if rest else base, base)


def names_project(grants: GrantSet) -> bool:
    """Return whether what a plugin may do depends on the project of a session."""
    return any(each.kind == "files" and each.target.partition("/")[0] == PROJECT for each in grants.grants)
