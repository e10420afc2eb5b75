"""The sandbox of one plugin's process: what it needs to run at all, what is its own, and what was granted.

What of it the kernel keeps is `runtime.sandbox`'s. Blocks on files: not for the event loop's thread.
"""

from __future__ import annotations

import os
import site
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import ally_plugins
from ally_plugins.catalog.environments.build import editable_projects
from ally_plugins.contract.granted_paths import is_within
from ally_plugins.contract.process_spec import running_python
from ally_plugins.contract.values.errors import AllyError, CannotExecute
from ally_plugins.policy.granted_files import names_project
from ally_plugins.runtime.processes.separation import has_namespaces
from ally_plugins.runtime.sandbox.box import SANDBOXED, Box
from ally_plugins.runtime.sandbox.linked_code import lies_in, linked_code, site_folders
from ally_plugins.runtime.sandbox.readable import (
    KERNEL,
    NETWORK_FILES,
    SYSTEM,
    SYSTEM_FILES,
    Program,
    environment_of,
    programs,
    pythons,
)
from ally_plugins.runtime.sandbox.support import Support, gaps, support

from .opened_files import OpenedFiles, opened_files

if TYPE_CHECKING:
    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.policy.permissions import GrantSet
    from ally_plugins.policy.protected_places import ProtectedPlace

__all__ = ["PROJECT_VARIABLE", "Places", "box_for"]

PROJECT_VARIABLE: Final = "ALLY_PROJECT"
"""The variable with the root of the project, for a plugin that was granted some of its files."""


class Places(Protocol):
    """Where what belongs to a plugin lies, and what belongs to none; as `DaemonServices` has it."""

    home: Home | None

    def protected_places(self) -> tuple[ProtectedPlace, ...]:
        """Return what no plugin is given. Blocks on files; raises ConfigError and ConsentError."""
        ...

    def narrowed(self, plugin: str, granted: GrantSet, project: str | None) -> GrantSet:
        """Return what a plugin may do of what it was granted, in sessions about a project. Raises ConfigError."""
        ...

    def data_dir_of(self, plugin: str) -> str | None:
        """Return the plugin's own directory, None where nothing is kept."""
        ...

    def temporary_dir_of(self, plugin: str) -> str:
        """Return a folder for the plugin's temporary files. Raises OSError."""
        ...


_SDK: Final = str(Path(ally_plugins.__file__).parent)
_XDG: Final = {
    "XDG_CONFIG_HOME": ".config",
    "XDG_CACHE_HOME": ".cache",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
}
_TEMPORARY: Final = ("TMPDIR", "TMP", "TEMP")
_SEARCHED: Final = ("PYTHONPATH", "NODE_PATH")
_CERTIFICATES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@cache
def _machine() -> Support:
    return support()


def box_for(
    record: PluginRecord,
    places: Places,
    command: Sequence[str],
    folder: str,
    env: Mapping[str, str],
    project: str | None = None,
) -> Box | None:
    """Return the sandbox for a command of a plugin, None for a plugin that is not placed in one.

    `places` is what else there is on this machine. `folder` is where the command begins, empty for its own data folder;
    `project` is the root of the session's project. None too on a machine that has no sandbox at all: `list` and
    `doctor` say so. Raises CannotExecute where the
    operator has said `sandbox = "require"` and the machine does not keep all, and for files that no plugin is given.
    """
    if record.placement != "sandbox":
        return None
    missing = gaps(_machine(), has_namespaces)
    if missing and record.config.sandbox == "require":
        text = (
            f"{command[0]!r} is not started: config.toml says sandbox = 'require', and on this machine {missing[0]};"
            ' run ally-plugins doctor, or say sandbox = "best"'
        )
        raise CannotExecute(text, plugin=record.name, program=command[0])
    if not _machine().has_filter:
        return None
    tmp = places.temporary_dir_of(record.name)
    home = places.data_dir_of(record.name) or tmp
    # The sandbox would open what it leads to; one that ran outside of a sandbox before could have laid it.
    if Path(home).is_symlink():
        text = f"{command[0]!r} is not started: its data folder {home!r} is a link, expected a folder; remove the link"
        raise CannotExecute(text, plugin=record.name, program=command[0])
    grants = record.granted.grants
    files = _granted_files(record, places, command[0], home, project)
    network = any(grant.kind == "network" for grant in grants)
    named = [command[0], *(grant.target or grant.topic for grant in grants if grant.kind == "run")]
    path = env.get("PATH", os.defpath)
    found = [programs(name, folder or home, path) for name in named]
    interpreters = pythons(command[0], folder or home, path)
    system = [*SYSTEM_FILES, *KERNEL]
    if network:
        system += [*NETWORK_FILES, *(env[name] for name in _CERTIFICATES if name in env)]
    return Box(
        home=home,
        tmp=tmp,
        read=files.read,
        write=files.write,
        system=_absolute(system),
        # What it writes may be executed too: it could do itself whatever that does.
        run=_absolute(
            [
                home,
                tmp,
                *SYSTEM,
                *_code(record, places.home, command, folder, env),
                *_parts(found),
                *_installed(interpreters, places.home),
            ]
        ),
        network=network,
        env={**_variables(home, tmp), **_user_base(interpreters), **_project_variable(record, project)},
    )


def _variables(home: str, tmp: str) -> dict[str, str]:
    folders = {"HOME": home, **{name: f"{home}/{at}" for name, at in _XDG.items()}}
    return {SANDBOXED: "1", **folders, **dict.fromkeys(_TEMPORARY, tmp)}


def _project_variable(record: PluginRecord, project: str | None) -> dict[str, str]:
    is_seen = project is not None and names_project(record.granted)
    return {PROJECT_VARIABLE: project} if project is not None and is_seen else {}


def _granted_files(record: PluginRecord, places: Places, program: str, home: str, project: str | None) -> OpenedFiles:
    name, granted = record.name, record.granted
    if not any(grant.kind == "files" for grant in granted.grants):
        return OpenedFiles()
    try:
        protected = places.protected_places()
        granted = places.narrowed(name, granted, project)
    except AllyError as error:
        text = f"{name!r} is not started: what it must not reach cannot be found out: {error}"
        raise CannotExecute(text, plugin=name, program=program) from error
    return opened_files(name, program, granted, project, home, protected)


def _parts(found: Sequence[Program]) -> Iterator[str]:
    for each in found:
        yield from (*each.files, *each.folders)


def _code(
    record: PluginRecord, home: Home | None, command: Sequence[str], folder: str, env: Mapping[str, str]
) -> Iterator[str]:
    """Yield where the plugin's own code lies, and what that imports.

    What a plugin that was found says of itself is not believed: its folder, and its arguments, could be anything.
    """
    found = record.found
    paths = [entry for name in _SEARCHED for entry in env.get(name, "").split(os.pathsep) if _is_absolute(entry)]
    if found is None or not found.root:  # by code of the host's author, or of a source that the operator has named
        # A script, a file of settings: what the command names, and not the folders that they lie in.
        files = (argument for argument in command[1:] if _is_absolute(argument) and Path(argument).is_file())
        yield from ([folder] if folder else [])
        yield from (*files, *paths)
    else:
        yield found.root
        built = str(home.envs_dir) if home is not None else None
        # Of a class they are the host's own; of a program those that were built for it.
        yield from (path for path in paths if found.is_class or (built is not None and is_within(path, built)))


def _installed(interpreters: Sequence[str], home: Home | None) -> Iterator[str]:
    """Yield what is installed for the Pythons of a command and lies elsewhere: the SDK, and editable installs.

    The running Python has believed the files of its environment already. Of another one they are the plugin's: by
    them it could name anything, so what counts is what is editable here too, or was agreed to when it was built.
    """
    if not interpreters:
        return
    sites = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        sites.append(site.getusersitepackages())
    here = (_SDK, *linked_code(sites))
    for python in interpreters:
        if _is_running_environment(python):
            yield from (*sites, *here)
        else:
            agreed = (*sites, *here, *(editable_projects(home, environment_of(python)) if home is not None else ()))
            yield from (path for path in linked_code(site_folders(python)) if lies_in(path, agreed))


def _is_running_environment(python: str) -> bool:
    """Say whether a Python is the one that runs, by whatever name: of the same environment, and the same program."""
    running = running_python()
    is_same_program = os.path.realpath(python) == os.path.realpath(running)
    return bool(running) and is_same_program and environment_of(python) == environment_of(running)


def _user_base(interpreters: Sequence[str]) -> dict[str, str]:
    """Return what leads the host's own Python to the packages of its user, which HOME does no longer."""
    is_used = site.ENABLE_USER_SITE and any(map(_is_running_environment, interpreters))
    return {"PYTHONUSERBASE": site.getuserbase()} if is_used else {}


def _is_absolute(path: str) -> bool:
    return path.startswith("/")


def _absolute(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path for path in paths if _is_absolute(path)))
