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

PLUGIN_JSON: Final = "plugin.json"


class CodeAlly(Source):
    """Finds what an installation of Code-Ally would find in the same folders."""

    manifest_files: ClassVar[tuple[str, ...]] = (PLUGIN_JSON,)

    @override
    def find(self, search: Search) -> Discovery:
        """Return the plugins in the folders. Each file is read even for `about`, since only the file has the name."""
        return in_each_folder(search.folders, partial(_found, about=search.about))


def _found(path: str, about: str | None) -> Found | None:
    from .bridge import CodeAllyBridge  # with all that reads such a file, only where there is one
    from .manifest import MAX_PLUGIN_JSON_BYTES, read_plugin_json

    file, toml = os.path.join(path, PLUGIN_JSON), os.path.join(path, MANIFEST_NAME)
    content = read_capped(file, MAX_PLUGIN_JSON_BYTES)
    if content is None:
        raise NoPlugin(f"the manifest {file!r} is not there; a broken link?")
    try:
        plugin = read_plugin_json(content, path)
    except ManifestError as error:
        return _damaged(path, file, error)
    # Below what is damaged: its own name may be what cannot be read.
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
        problem = f"{toml} has a [daemon], and so has {PLUGIN_JSON} beside it; remove one of the two"
        return evolve(found, problem=problem)
    manifest = plugin.as_manifest(beside)
    return evolve(found, manifest=manifest, daemon=manifest.daemon)


def _damaged(path: str, file: str, error: ManifestError) -> Found:
    # By some name, so that an enabled plugin stays known while its file is wrong, and its gates deny.
    name = error.plugin or os.path.basename(path)
    if not is_plugin_name(name):
        raise NoPlugin(str(error))
    return Found(name=name, manifest_path=file, root=path, problem=str(error))
