"""What the operator has trusted of which projects, kept in the home: what lies in a project counts for nothing itself.

`projects.json` has the text of each trusted `project.toml`; the plugins that a project adds are copied below
`projects/` and found there, as folders whose consent is asked for like any other's. A project that changes afterwards
changes nothing until it is trusted again: not even a narrowing that is taken out of it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from attrs import field, frozen

from ally_plugins.catalog.home.folder import MAX_STATE_BYTES
from ally_plugins.contract.documents import text_of
from ally_plugins.contract.granted_paths import is_within
from ally_plugins.contract.grants import is_plugin_name
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.policy.project_rules import NO_RULES, SessionRules

from .project_file import FILE, ProjectFile, parse_project_file

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home

    from .ally_folder import AllyFolder

__all__ = [
    "TrustedProject",
    "copy_plugins",
    "plugin_folders",
    "project_of",
    "read_trusted",
    "remove_unused",
    "rules_for",
    "trusted_as",
    "write_trusted",
]

_PLUGINS: Final = "plugins"


@frozen(kw_only=True)
class TrustedProject:
    """One project as it was trusted. `at` is UTC in ISO 8601, `by` is `person` or `--yes`."""

    root: str
    digest: str
    at: str
    by: str
    text: str = field(repr=False)
    """What `project.toml` held."""
    plugins: tuple[str, ...] = ()
    """The names of the plugins that it adds."""

    @property
    def file(self) -> ProjectFile:
        """What it says. Raises ConfigError for a text that this version does not take."""
        return parse_project_file(self.text.encode(), self.root)

    def folder(self, home: Home) -> Path:
        """Return where its plugins lie in the home: another folder for each content."""
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return home.projects_dir / f"{name}-{self.digest[:16]}"


def _plugins_of(folder: AllyFolder) -> tuple[str, ...]:
    """Return the names of the plugins in a project's `.ally`. Raises ConfigError for a name that is none."""
    parts = [path.split("/") for path in folder.files]
    names = sorted({each[1] for each in parts if each[0] == _PLUGINS and len(each) > 2})  # noqa: PLR2004 - a file in it
    for name in names:
        if not is_plugin_name(name):
            raise ConfigError(f"{folder.root}/.ally/plugins has a folder {name!r}, which is no plugin's name")
    return tuple(names)


def trusted_as(folder: AllyFolder, by: str, at: str) -> TrustedProject:
    """Return a project as it is, to be trusted. Raises ConfigError with every mistake in its file."""
    content, _ = folder.files.get(FILE, (b"", False))
    parse_project_file(content, folder.root)
    return TrustedProject(
        root=folder.root, digest=folder.digest, at=at, by=by, text=text_of(content), plugins=_plugins_of(folder)
    )


def read_trusted(home: Home) -> Mapping[str, TrustedProject]:
    """Return the trusted projects by their folder. Raises ConfigError for a file that cannot be read."""
    file, content = home.projects_file, None
    try:
        content = home.read(file, MAX_STATE_BYTES)
        kept = {} if content is None else orjson.loads(content)
        return {root: TrustedProject(root=root, **_fields(each)) for root, each in kept.items()}
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, TypeError, AttributeError, LookupError):
        reason = "it does not hold what was trusted, by folder"
    way_out = "restore it, or remove it and trust each project anew: ally-plugins project trust"
    raise ConfigError(f"{file} cannot be read: {reason}; {way_out}", file=str(file))


def _fields(each: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a project as they were written."""
    texts = {key: each[key] for key in ("digest", "at", "by", "text")}
    if not all(isinstance(value, str) for value in (*texts.values(), *each["plugins"])):
        raise ValueError
    return {**texts, "plugins": tuple(each["plugins"])}


def write_trusted(home: Home, projects: Mapping[str, TrustedProject]) -> None:
    """Replace the file. The caller holds `home.locked()`. Raises ConfigError when it cannot be written."""
    names = ("digest", "at", "by", "text", "plugins")
    kept = {root: {name: getattr(each, name) for name in names} for root, each in sorted(projects.items())}
    try:
        home.write(home.projects_file, orjson.dumps(kept), MAX_STATE_BYTES, private=True)
    except OSError as error:
        text = f"{home.projects_file} cannot be written: {error.strerror or error}"
        raise ConfigError(text, file=str(home.projects_file)) from error


def copy_plugins(home: Home, project: TrustedProject, folder: AllyFolder) -> None:
    """Copy the plugins of a project into the home, from what was read and shown. Raises ConfigError."""
    target = project.folder(home)
    if not project.plugins:
        return
    home.prepare(home.projects_dir)
    try:
        # Left by a try that was interrupted, or by one who was not trusted in the end.
        shutil.rmtree(target, ignore_errors=True)
        for path, (content, runs) in folder.files.items():
            if path.startswith(f"{_PLUGINS}/") and path.count("/") > 1:
                file = target / path
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700 if runs else 0o600)
                with os.fdopen(descriptor, "wb") as opened:
                    opened.write(content)
                    opened.flush()
                    os.fsync(descriptor)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror or error}", file=str(target)) from error


def remove_unused(home: Home, projects: Iterable[TrustedProject]) -> None:
    """Remove the copies of what is trusted no more. Raises nothing: what stays is found by nobody."""
    kept = {project.folder(home).name for project in projects}
    if home.projects_dir.is_dir():
        for folder in home.projects_dir.iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def plugin_folders(home: Home) -> Mapping[str, str]:
    """Return the folders in the home with plugins of trusted projects, each with its project. Raises ConfigError."""
    return {str(each.folder(home) / _PLUGINS): root for root, each in read_trusted(home).items() if each.plugins}


def project_of(start: str, projects: Iterable[str]) -> str | None:
    """Return the trusted project nearest around a folder, None where there is none."""
    around = [root for root in projects if is_within(os.path.realpath(start), root)]
    return max(around, key=len, default=None)


def rules_for(home: Home, project: str | None) -> SessionRules:
    """Return what holds in a session about a folder: the rules of each trusted project that it is, or lies in.

    All of them count, those above a repository too: a repository that is made in a project would else end its rules.
    Raises ConfigError for what cannot be read.
    """
    if project is None:
        return NO_RULES
    trusted = read_trusted(home)
    around = [each.file.rules for root, each in trusted.items() if is_within(project, root)]
    return SessionRules(project, tuple(around))
