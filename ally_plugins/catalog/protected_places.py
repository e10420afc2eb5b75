"""The places of this home and this machine that no grant opens, and which grants of files would."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.granted_paths import DATA, PROJECT
from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.policy.protected_places import ProtectedPlace, protection_of

if TYPE_CHECKING:
    from ally_plugins.contract.grants import Grant

    from .discovery.found import Found
    from .home.folder import Home

__all__ = ["protected_places", "refused_files"]

_HOME: Final = "where the plugins' consent, journal and secrets are kept"


def protected_places(home: Home | None, found: Iterable[Found]) -> tuple[ProtectedPlace, ...]:
    """Return what is kept from every plugin: the home, the code of plugins and the Python that runs them.

    Looks up where links lead. Blocks on files.
    """
    prefixes = {sys.prefix, sys.base_prefix, *(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))}
    # What is imported by the host runs as the host: an entry of its path is as good as a plugin's folder.
    folders = {folder for folder in sys.path if Path(folder).is_absolute()}
    places = [ProtectedPlace(str(home.path), _HOME)] if home is not None else []
    places += [ProtectedPlace(path, "the Python of the host", is_readable=True) for path in sorted(prefixes)]
    places += [ProtectedPlace(path, "whose code the host runs", is_readable=True) for path in sorted(folders)]
    places += [
        ProtectedPlace(each.root, f"the code of the plugin {each.name!r}", is_readable=True)
        for each in found
        if each.root
    ]
    return tuple(ProtectedPlace(os.path.realpath(each.path), each.what, each.is_readable) for each in places)


def refused_files(grants: Iterable[Grant], places: Iterable[ProtectedPlace]) -> Mapping[str, str]:
    """Return which grants of files, as texts, can never be given, each with the reason.

    Those below the project and the data folder are left to the start of the process, which knows where these are.
    Looks up where links lead. Blocks on files.
    """
    refused = {}
    for grant in grants:
        if grant.kind != "files" or grant.target.partition("/")[0] in (PROJECT, DATA):
            continue
        if (reason := protection_of(os.path.realpath(grant.target), grant.topic, places)) is not None:
            refused[grant.text] = reason
    return FrozenDict(refused)
