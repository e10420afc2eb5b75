"""The source of Code-Ally's plugins: folders of the home with a `plugin.json`, and beside it maybe our own manifest."""

from __future__ import annotations

# ruff: noqa: PTH118, PTH119  # strings all the way, as in `catalog.discovery.folders`
import os
from functools import partial
from typing import ClassVar, Final

from attrs import evolve

from ally_plugins.catalog.discovery.folders import NoPlugin, in_each_folder, manifest_problem, read_manifest
from ally_plugins.catalog.discovery.found import Discovery, Found
from ally_plugins.catalog.discovery.source import Search, Source
from ally_plugins.catalog.home.folder import read_capped
from ally_plugins.contract.grants import is_plugin_name
from ally_plugins.contract.manifest import MANIFEST_NAME
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import ManifestError

__all__ = ["CodeAlly"]

LEGACY_NAME: Final = "plugin.json"


class CodeAlly(Source):
    """Finds what an installation of Code-Ally would find in the same folders."""

    manifest_files: ClassVar[tuple[str, ...]] = (LEGACY_NAME,)

    @override
    def find(self, search: Search) -> Discovery:
        """Return the plugins in the folders. The name stands in the file, so that each is read, also for one plugin."""
        return in_each_folder(search.folders, partial(_found, about=search.about))


def _found(path: str, about: str | None) -> Found | None:
    from .bridge import CodeAllyBridge  # with all that reads such a file, only where there is one
    from .manifest import MAX_LEGACY_BYTES, read_legacy

    file, toml = os.path.join(path, LEGACY_NAME), os.path.join(path, MANIFEST_NAME)
    content = read_capped(file, MAX_LEGACY_BYTES)
    if content is None:
        raise NoPlugin(f"the manifest {file!r} is not there; a broken link?")
    try:
        plugin = read_legacy(content, path)
    except ManifestError as error:
        return _damaged(path, file, error)
    if about not in {None, plugin.name}:
        return None
    found = Found(
        name=plugin.name, version=plugin.version, manifest_path=file, root=path, bridge=CodeAllyBridge(plugin)
    )
    try:
        beside = read_manifest(toml, plugin.name) if os.path.lexists(toml) else None
    except (ManifestError, OSError) as error:
        return evolve(found, problem=manifest_problem(error, toml))
    if beside is not None and beside.daemon is not None:
        problem = f"{toml} has a [daemon], and so has {LEGACY_NAME} beside it; remove one of the two"
        return evolve(found, problem=problem)
    manifest = plugin.as_manifest(beside)
    return evolve(found, manifest=manifest, daemon=manifest.daemon)


def _damaged(path: str, file: str, error: ManifestError) -> Found:
    name = error.plugin or os.path.basename(path)
    if not is_plugin_name(name):
        raise NoPlugin(str(error))
    return Found(name=name, manifest_path=file, root=path, problem=str(error))
