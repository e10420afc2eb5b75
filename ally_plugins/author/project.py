"""A plugin's project: a folder as its author has it, before anything of it is installed. Imports and runs nothing.

A folder with a `pyproject.toml` (or a `setup.cfg`) offers the plugins of its entry points; one with an
`ally-plugin.toml` is itself one.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve, frozen

from ally_plugins.catalog.decide.placement import Interpreter, place
from ally_plugins.catalog.discovery.found import Found
from ally_plugins.catalog.discovery.packages import GROUP
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.catalog.home.files import NO_BYTECODE
from ally_plugins.contract.documents import toml_of
from ally_plugins.contract.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from ally_plugins.contract.values.errors import ConfigError, ManifestError
from ally_plugins.contract.wording import describe, suggest

if TYPE_CHECKING:
    from ally_plugins.contract.process_spec import Daemon

__all__ = ["Project", "find_project", "find_projects"]

_MAX_BYTES: Final = 1024 * 1024  # of a pyproject.toml; the largest published ones have some tens of KiB
_BASES: Final = ("", "src")
_SKIPPED: Final = frozenset({"__pycache__", "node_modules", "venv", "build", "dist"})
_MAX_SOURCES: Final = 2_000  # files of one plugin; the largest published plugins of comparable hosts have some hundreds


@frozen(kw_only=True)
class Project:
    """One plugin of a project. `code` is its outermost package or its only module's file; for a folder, the folder."""

    root: Path
    name: str
    target: str = ""
    """MODULE:CLASS; without a colon for a package that ships a program, empty for a folder."""
    declared_in: Path | None = None
    """The file with the entry point; None for a folder and for what is installed."""
    base: Path
    """The folder that has to be on `sys.path` for the code to be found."""
    code: Path | None
    """None when the module that the entry point names is not there."""
    manifest_path: Path
    """Where the manifest lies, or was looked for."""

    @property
    def module(self) -> str:
        """The module that the entry point names."""
        return self.target.partition(":")[0].strip()

    @property
    def class_name(self) -> str:
        """The class that the entry point names, empty for a program."""
        return self.target.partition(":")[2].partition("[")[0].strip()

    @property
    def is_folder(self) -> bool:
        """Whether it is no package, and is copied into a home as it is."""
        return not self.target

    def read_manifest(self) -> Manifest:
        """Return the manifest. Raises ManifestError for one that is wrong, or not there."""
        return Manifest.from_mapping(Manifest.table_of(self.manifest_bytes(), self.name), self.name)

    def manifest_bytes(self) -> bytes:
        """Return what stands in the manifest's file. Raises ManifestError."""
        try:
            with self.manifest_path.open("rb") as file:
                return file.read(MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            text = f"the manifest {str(self.manifest_path)!r} cannot be read: {error.strerror or error}"
            raise ManifestError(text, plugin=self.name) from error

    def sources(self) -> Iterator[Path]:
        """Yield the Python files of the plugin, in the order of their names.

        Of a package with several plugins these are the files below its own manifest.
        """
        if self.code is None or self.code.is_file():
            yield from () if self.code is None else (self.code,)
            return
        if self.manifest_path.name != MANIFEST_NAME:  # that of a single module
            yield self.base.joinpath(*self.module.split(".")).with_suffix(".py")
            return
        found = 0
        for folder, folders, files in os.walk(self.manifest_path.parent):
            folders[:] = sorted(each for each in folders if each not in _SKIPPED and not each.startswith("."))
            for name in sorted(files):
                if name.endswith(".py") and found < _MAX_SOURCES:
                    found += 1
                    yield Path(folder, name)

    def daemon(self, manifest: Manifest) -> Daemon:
        """Return how its code is run in a process of its own, uninstalled: the class, or the program of the manifest.

        Raises ConfigError where there is neither, and where what runs is no Python and a class would need one.
        """
        if self.is_folder and manifest.daemon is None:
            text = (
                f"{str(self.root)!r} has a manifest without [daemon], and no pyproject.toml that names a class; "
                f"to try a class, name the folder of its pyproject.toml"
            )
            raise ConfigError(text, file=str(self.root))
        shipped = manifest.daemon.at(str(self.manifest_path.parent)) if manifest.daemon is not None else None
        found = Found(
            name=self.name, entry_point=self.target, daemon=shipped, origin="folder" if self.is_folder else "package"
        )
        placed = place(self.name, found, PluginConfig(placement="process"), Interpreter(search=str(self.base)))
        if placed.daemon is None:
            raise ConfigError(placed.problem, file=str(self.root))
        # Nothing compiled is left in the author's folder, where it could be older than what was just saved.
        return evolve(placed.daemon, env={**placed.daemon.env, **NO_BYTECODE})


def find_project(path: Path | str, name: str | None = None) -> Project:
    """Return the one plugin of a folder, or of several the one that is named.

    Raises ConfigError when there is none, or several and no name says which.
    """
    found = find_projects(path)
    if name is not None:
        wanted = [each for each in found if each.name == name]
        if not wanted:
            hint = suggest(name, [each.name for each in found])
            raise ConfigError(f"no plugin {name!r} is in {str(path)!r}, {hint}", file=str(path))
        return wanted[0]
    if len(found) > 1:
        names = ", ".join(each.name for each in found)
        raise ConfigError(f"{str(path)!r} has several plugins: {names}; say which", file=str(path))
    return found[0]


def find_projects(path: Path | str) -> list[Project]:
    """Return the plugins of a folder, by name. Raises ConfigError when it cannot be read or has none."""
    root = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow the links of the author's own names
    if not root.is_dir():
        what = "is a file" if root.exists() else "is not there"
        text = f"{str(path)!r} {what}, expected the folder of a plugin; to make one: ally-plugins new NAME"
        raise ConfigError(text, file=str(path))
    declared, file = _entry_points(root)
    found = [_packaged(root, name, target, file) for name, target in sorted(declared.items())]
    if not found and (root / MANIFEST_NAME).exists():
        found = [Project(root=root, name=root.name, base=root, code=root, manifest_path=root / MANIFEST_NAME)]
    if not found:
        text = (
            f'{str(path)!r} has no plugin: no entry point in [project.entry-points."{GROUP}"] of a pyproject.toml, '
            f"and no {MANIFEST_NAME}; to make one: ally-plugins new NAME"
        )
        raise ConfigError(text, file=str(path))
    return found


def _entry_points(root: Path) -> tuple[Mapping[str, str], Path]:
    """Return the plugins that a project declares, and the file in which it does."""
    pyproject, setup = root / "pyproject.toml", root / "setup.cfg"
    if pyproject.is_file():
        table = _toml(pyproject)
        entries = _table(_table(_table(table, "project"), "entry-points"), GROUP)
        if entries or not setup.is_file():
            return {name: value for name, value in entries.items() if isinstance(value, str)}, pyproject
    if setup.is_file():
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(setup, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{str(setup)!r} cannot be read: {error}", file=str(setup)) from error
        lines = parser.get("options.entry_points", GROUP, fallback="").splitlines()
        pairs = (line.partition("=") for line in lines if "=" in line)
        return {name.strip(): value.strip() for name, _, value in pairs}, setup
    return {}, pyproject


def _toml(file: Path) -> Mapping[str, Any]:
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_BYTES)
        return toml_of(content)
    except OSError as error:
        raise ConfigError(f"{str(file)!r} cannot be read: {error.strerror or error}", file=str(file)) from error
    except ValueError as error:
        raise ConfigError(f"{str(file)!r} is {error}", file=str(file)) from None


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def _packaged(root: Path, name: str, target: str, file: Path) -> Project:
    module = target.partition(":")[0].strip()
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        text = f"{str(file)!r} has the entry point {name} = {describe(target)}, expected MODULE:CLASS"
        raise ConfigError(text, file=str(file))
    base, code = _located(root, parts)
    return Project(
        root=root, name=name, target=target, declared_in=file, base=base, code=code,
        manifest_path=_manifest_place(base, parts),
    )  # fmt: skip


def _located(root: Path, parts: list[str]) -> tuple[Path, Path | None]:
    """Return the folder that the module lies in, and its outermost package or its file."""
    for base in (root / each if each else root for each in _BASES):
        package, file = base / parts[0], base / f"{parts[0]}.py"
        if (package / "__init__.py").is_file() or (package.is_dir() and base.joinpath(*parts).exists()):
            return base, package
        if file.is_file() and len(parts) == 1:
            return base, file
    # A module inside a namespace, or in a folder that the build names: the first one that has it.
    for base in sorted(each for each in root.iterdir() if each.is_dir() and not each.name.startswith((".", "_"))):
        if (base / parts[0]).is_dir() or (base / f"{parts[0]}.py").is_file():
            return base, base / parts[0] if (base / parts[0]).is_dir() else base / f"{parts[0]}.py"
    return root, None


def _manifest_place(base: Path, parts: list[str]) -> Path:
    """Return where the manifest lies, in the order in which discovery looks, or where it is expected."""
    candidates = [base.joinpath(*parts[:length], MANIFEST_NAME) for length in range(len(parts), 0, -1)]
    if not base.joinpath(*parts).is_dir():
        candidates[0] = base.joinpath(*parts[:-1], f"{parts[-1]}.{MANIFEST_NAME}")
    return next((each for each in candidates if each.exists()), candidates[0])
