"""The source of folders: plugins below the home with an `ally-plugin.toml` and a daemon; and helpers for other formats.

Consent covers the content of every file of a folder. A folder that cannot be trusted or read becomes one line, and all
others are found. Nothing of a folder is run.
"""

from __future__ import annotations

# Strings all the way, as in `home.files`.
# ruff: noqa: PTH118
import os
import stat
from typing import TYPE_CHECKING, ClassVar, Final

from attrs import evolve

from ally_plugins.catalog.home.folder import read_capped
from ally_plugins.contract.grants import is_plugin_name
from ally_plugins.contract.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import ManifestError
from ally_plugins.journal.owned_files import acting_as
from ally_plugins.policy.owned_files import is_foreign, shared_with

from .found import Discovery, Found
from .source import Search, Source

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "FOLDER",
    "Folders",
    "NoPlugin",
    "check_trust",
    "in_each_folder",
    "list_folders",
    "manifest_problem",
    "read_manifest",
]

FOLDER: Final = "folder:"
"""Marks a folder's plugin in commands and in what was agreed to; no distribution's name has a colon."""

_NAME_RULE: Final = "lower-case letters, digits, '_' and '-', not starting with '-'"


class NoPlugin(Exception):
    """A folder has no usable plugin; the text is one line for the operator."""


class Folders(Source):
    """The source of folders with a manifest of our own."""

    manifest_files: ClassVar[tuple[str, ...]] = (MANIFEST_NAME,)

    @override
    def find(self, search: Search) -> Discovery:
        """Return the plugins in the folders; with `about`, the one folder of that name."""
        paths = [path for path in search.folders if search.about in {None, os.path.basename(path)}]  # noqa: PTH119
        return in_each_folder(paths, _found)


def in_each_folder(paths: list[str] | tuple[str, ...], read: Callable[[str], Found | None]) -> Discovery:
    """Return what `read` finds in each folder; a NoPlugin or OSError that it raises becomes a problem of the result."""
    all_found: list[Found] = []
    problems: list[str] = []
    for path in paths:
        try:
            found = read(path)
        except NoPlugin as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"the folder {path!r} cannot be read: {error.strerror or error}")
        else:
            all_found += [found] if found is not None else []
    return Discovery(tuple(all_found), tuple(problems))


def list_folders(directory: str) -> tuple[list[str], list[str]]:
    """Return the folders in a directory that only their owner can write, by name, and what is wrong with the others.

    Hidden folders and plain files are not looked at.
    """
    try:
        # The folder around them first: whoever can write there can put another one in the place of each.
        check_trust(directory)
        names = sorted(os.listdir(directory))  # noqa: PTH208
    except FileNotFoundError:
        return [], []
    except NoPlugin as error:
        return [], [f"{error}; none of its folders is looked at"]
    except OSError as error:
        return [], [f"the folder {directory} cannot be read: {error.strerror or error}"]
    paths = [os.path.join(directory, name) for name in names if not name.startswith(".")]
    trusted: list[str] = []
    problems: list[str] = []
    for path in paths:
        # A link is looked at, so that it is reported: somebody has meant it as a plugin.
        if not os.path.islink(path) and not os.path.isdir(path):  # noqa: PTH112, PTH114
            continue
        try:
            check_trust(path)
        except NoPlugin as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"the folder {path!r} cannot be read: {error.strerror or error}")
        else:
            trusted.append(path)
    return trusted, problems


def check_trust(path: str) -> None:
    """Raise NoPlugin for a link, for what is no folder, and for a folder that another user may have written.

    Raises OSError when it cannot be looked at.
    """
    # Not followed: where a link leads may lie among folders of others, who could exchange what is there.
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        raise NoPlugin(f"the folder {path!r} is a link, expected a folder; copy it here instead")
    if not stat.S_ISDIR(found.st_mode):
        raise NoPlugin(f"{path!r} is not a folder")
    if is_foreign(found, acting_as()):
        raise NoPlugin(f"the folder {path!r} belongs to another user, expected one of yours")
    if shared := shared_with(path, found, acting_as()):
        raise NoPlugin(f"the folder {path!r} {shared}")


def _found(path: str) -> Found:
    name = os.path.basename(path)  # noqa: PTH119
    if not is_plugin_name(name):
        raise NoPlugin(f"the folder {path!r} is named after no plugin, expected {_NAME_RULE}")
    toml = os.path.join(path, MANIFEST_NAME)
    found = Found(name=name, manifest_path=toml, root=path)
    try:
        manifest = read_manifest(toml, name)
    except (ManifestError, OSError) as error:
        # Not as NoPlugin: by its name it is still known as an enabled one, whose gates deny.
        return evolve(found, problem=manifest_problem(error, toml))
    if manifest.daemon is None:
        problem = f"{toml} has no [daemon], expected its command; a class is found in packages only"
        return evolve(found, manifest=manifest, problem=problem)
    return evolve(found, manifest=manifest, daemon=manifest.daemon)


def read_manifest(toml: str, name: str) -> Manifest:
    """Read the `ally-plugin.toml` of a plugin. Raises ManifestError and OSError."""
    content = read_capped(toml, MAX_MANIFEST_BYTES)
    if content is None:
        raise OSError(None, "not there; a broken link?")
    return Manifest.from_mapping(Manifest.table_of(content, name), name)


def manifest_problem(error: ManifestError | OSError, file: str) -> str:
    """Return why a manifest could not be read, as one line."""
    if isinstance(error, ManifestError):
        return str(error)
    return f"the manifest {file} cannot be read: {error.strerror or error}"
