"""Plugins that are folders below the home: an `ally-plugin.toml` with a daemon, a `plugin.json` of Code-Ally, or both.

Every file counts: a folder is agreed to by what its files hold. A folder that cannot be trusted or read is one line,
and all others are found. Nothing of a folder is run.
"""

from __future__ import annotations

# Strings all the way, as in `locating`.
# ruff: noqa: PTH118
import os
import stat
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import define, evolve, field

from ally_plugins.catalog.home import files as locating
from ally_plugins.catalog.home.folder import read_capped
from ally_plugins.contract.grants import is_plugin_name
from ally_plugins.contract.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from ally_plugins.contract.values.errors import ManifestError
from ally_plugins.journal.owned_files import acting_as
from ally_plugins.policy.owned_files import is_foreign, shared_with

from .found import Found

if TYPE_CHECKING:
    from ally_plugins.contract.process_spec import Daemon

__all__ = ["FOLDER", "discover_folders"]

FOLDER: Final = "folder:"
"""Marks a folder's plugin in commands and in what was agreed to; no distribution's name has a colon."""

LEGACY_NAME: Final = "plugin.json"

_NAME_RULE: Final = "lower-case letters, digits, '_' and '-', not starting with '-'"


def discover_folders(plugins_dir: Path, about: str | None = None) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """Return the plugins in the folders below `plugins_dir`, by name, and what is wrong with what is none.

    With `about`, only those of that name: of the other folders no file is read but a `plugin.json`, which has the name.
    """
    scan = _Scan(str(plugins_dir), about)
    return scan.run(), tuple(sorted(scan.problems))


@define
class _Scan:
    """One look at all folders; lives as long as one call."""

    directory: str
    about: str | None
    problems: list[str] = field(factory=list)

    def run(self) -> tuple[Found, ...]:
        by_name: defaultdict[str, list[Found]] = defaultdict(list)
        for path in self._folders():
            try:
                found = _found(path, self.about)
            except _NoPlugin as error:
                self.problems.append(str(error))
            except OSError as error:
                self.problems.append(f"the folder {path!r} cannot be read: {error.strerror or error}")
            else:
                if found is not None:
                    by_name[found.name].append(found)
        return tuple(_one_of(name, same) for name, same in sorted(by_name.items()))

    def _folders(self) -> list[str]:
        """Return what may be plugins: hidden folders and plain files are not looked at."""
        try:
            _check_trust(self.directory)
            names = sorted(os.listdir(self.directory))  # noqa: PTH208
        except FileNotFoundError:
            return []
        except _NoPlugin as error:
            self.problems.append(f"{error}; none of its folders is looked at")
            return []
        except OSError as error:
            self.problems.append(f"the folder {self.directory} cannot be read: {error.strerror or error}")
            return []
        paths = [os.path.join(self.directory, name) for name in names if not name.startswith(".")]
        return [path for path in paths if os.path.islink(path) or os.path.isdir(path)]  # noqa: PTH112, PTH114


class _NoPlugin(Exception):
    """A folder that has no usable plugin, in one line."""


def _check_trust(path: str) -> None:
    """Raise _NoPlugin for a folder that somebody else may have written, or that is elsewhere."""
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        raise _NoPlugin(f"the folder {path!r} is a link, expected a folder; copy it here instead")
    if not stat.S_ISDIR(found.st_mode):
        raise _NoPlugin(f"{path!r} is not a folder")
    if is_foreign(found, acting_as()):
        raise _NoPlugin(f"the folder {path!r} belongs to another user, expected one of yours")
    if shared := shared_with(path, found, acting_as()):
        raise _NoPlugin(f"the folder {path!r} {shared}")


def _found(path: str, about: str | None) -> Found | None:
    """Return the plugin of a folder, None when it has another name than `about`. Raises _NoPlugin and OSError."""
    _check_trust(path)
    toml, legacy = os.path.join(path, MANIFEST_NAME), os.path.join(path, LEGACY_NAME)
    if os.path.lexists(legacy):
        return _legacy(path, legacy, toml, about)
    if os.path.lexists(toml):
        return _own(path, toml) if about in {None, os.path.basename(path)} else None  # noqa: PTH119
    raise _NoPlugin(f"the folder {path!r} has no {MANIFEST_NAME} and no {LEGACY_NAME}")


def _own(path: str, toml: str) -> Found:
    name = os.path.basename(path)  # noqa: PTH119
    if not is_plugin_name(name):
        raise _NoPlugin(f"the folder {path!r} is named after no plugin, expected {_NAME_RULE}")
    found = _with_files(Found(name=name, distribution=f"{FOLDER}{name}", version="", entry_point="",
                              manifest_path=toml, root=path, origin="folder"))  # fmt: skip
    try:
        manifest = _read_toml(toml, name)
    except (ManifestError, OSError) as error:
        return evolve(found, problem=_text(error, toml))
    if manifest.daemon is None:
        problem = f"{toml} has no [daemon], expected its command; a class is found in packages only"
        return evolve(found, manifest=manifest, problem=found.problem or problem)
    daemon = _daemon(path, manifest.daemon)
    return evolve(found, manifest=manifest, daemon=daemon, problem=found.problem or manifest.host_problem())


def _legacy(path: str, file: str, toml: str, about: str | None) -> Found | None:
    from ally_plugins.catalog.code_ally.manifest import MAX_LEGACY_BYTES, read_legacy  # only where there is one

    content = read_capped(file, MAX_LEGACY_BYTES)
    if content is None:
        raise _NoPlugin(f"the manifest {file!r} is not there; a broken link?")
    try:
        plugin: Any = read_legacy(content, path)
    except ManifestError as error:
        found = _damaged(path, file, error)
        return found if about in {None, found.name} else None
    if about not in {None, plugin.name}:
        return None
    found = _with_files(Found(name=plugin.name, distribution=f"{FOLDER}{os.path.basename(path)}",  # noqa: PTH119
                              version=plugin.version, entry_point="", manifest_path=file, root=path, origin="folder",
                              legacy=plugin))  # fmt: skip
    try:
        beside = _read_toml(toml, plugin.name) if os.path.lexists(toml) else None
    except (ManifestError, OSError) as error:
        return evolve(found, problem=_text(error, toml))
    if beside is not None and beside.daemon is not None:
        problem = f"{toml} has a [daemon], and so has {LEGACY_NAME} beside it; remove one of the two"
        return evolve(found, problem=problem)
    manifest: Manifest = plugin.as_manifest(beside)
    daemon = _daemon(path, manifest.daemon) if manifest.daemon is not None else None
    return evolve(found, manifest=manifest, daemon=daemon, problem=found.problem or manifest.host_problem())


def _damaged(path: str, file: str, error: ManifestError) -> Found:
    name = error.plugin or os.path.basename(path)  # noqa: PTH119
    if not is_plugin_name(name):
        raise _NoPlugin(str(error))
    return Found(name=name, distribution=f"{FOLDER}{os.path.basename(path)}", version="", entry_point="",  # noqa: PTH119
                 manifest_path=file, root=path, origin="folder", problem=str(error))  # fmt: skip


def _read_toml(toml: str, name: str) -> Manifest:
    content = read_capped(toml, MAX_MANIFEST_BYTES)
    if content is None:
        raise OSError(None, "not there; a broken link?")
    return Manifest.from_mapping(Manifest.table_of(content, name), name)


def _text(error: ManifestError | OSError, file: str) -> str:
    if isinstance(error, ManifestError):
        return str(error)
    return f"the manifest {file} cannot be read: {error.strerror or error}"


def _daemon(path: str, daemon: Daemon) -> Daemon:
    return evolve(daemon.at(path), env={**daemon.env, **locating.NO_BYTECODE})


def _with_files(found: Found) -> Found:
    """Return it with the hashes of all its files, or with why consent cannot cover them."""
    try:
        files = locating.folder_files(found.root)
    except OSError as error:
        return evolve(found, problem=f"its files cannot be agreed to: {error.strerror or error}")
    return evolve(found, files=files, digest=locating.folder_digest(files))


def _one_of(name: str, same: list[Found]) -> Found:
    if len(same) == 1:
        return same[0]
    folders = " and ".join(sorted(repr(found.root) for found in same))
    return evolve(same[0], manifest=None, daemon=None, problem=f"{folders} both are {name!r}; remove one of them")
