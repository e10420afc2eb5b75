"""Which plugin is tested: its class or process, name and manifest, as its author has them before installing it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from ally_plugins.author.project import find_project
from ally_plugins.catalog.decide.placement import Interpreter, place
from ally_plugins.catalog.decide.record import PluginRecord
from ally_plugins.catalog.discovery.packages import discover
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.catalog.home.files import locate
from ally_plugins.catalog.home.setting_values import resolve_settings
from ally_plugins.catalog.plugin_class import load_class
from ally_plugins.contract.handle import Ally
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.process_spec import Daemon
from ally_plugins.contract.values.errors import ConfigError, ManifestError, PluginLoadError
from ally_plugins.policy.budget import Limits
from ally_plugins.policy.permissions import GrantSet

__all__ = ["Subject", "find_manifest", "plugin_name"]

_WORD_BOUNDARIES = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

PluginLike = Callable[[Ally], Any] | Daemon | Path | str
ManifestLike = Manifest | Mapping[str, Any] | str | Path


@frozen
class Subject:
    """A plugin to be tested: the class (or factory) that is built with an `Ally`, its name, and its manifest.

    With a `daemon` it runs in a process of its own, and there is no class. Without a manifest it is a host author's own
    plugin, which may do everything.
    """

    plugin: Callable[[Ally], Any] | None
    name: str
    manifest: Manifest | None
    daemon: Daemon | None = None

    @property
    def code(self) -> Callable[[Ally], Any] | Daemon:
        """What runs: the daemon, or the class."""
        code = self.daemon or self.plugin
        assert code is not None  # noqa: S101 - one of both is always given
        return code

    @classmethod
    def of(cls, plugin: PluginLike, *, name: str | None = None, manifest: ManifestLike | None = None) -> Subject:
        """Return the subject; what is not given is found: the manifest beside the module, the name from the class.

        A plugin given by its name is looked up among the installed ones, as a host does; a Path is the folder of one
        that need not be installed, which runs in a process of its own, as a Daemon does. Raises PluginLoadError when it
        is not there or cannot be imported, ManifestError for a manifest that is wrong, and ConfigError for a folder
        without a plugin.
        """
        if isinstance(plugin, str):
            return cls(*_installed(plugin))
        if isinstance(plugin, Path):
            project = find_project(plugin, name)
            declared = _read(manifest, project.name) if manifest is not None else project.read_manifest()
            return cls(None, project.name, declared, project.daemon(declared))
        if isinstance(plugin, Daemon):
            given = name if name is not None else "plugin"
            return cls(None, given, _read(manifest, given) if manifest is not None else None, plugin)
        own = name if name is not None else plugin_name(plugin)
        found = _read(manifest, own) if manifest is not None else find_manifest(plugin, own)
        return cls(plugin, own, found)

    def record(
        self,
        *,
        grants: Iterable[str] | None = None,
        settings: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        **options: Any,
    ) -> PluginRecord:
        """Return what a host is given: with `grants`, those; without, all that the manifest asks for.

        `options` are those of `[plugins.NAME]` in config.toml. Durable events are delivered like the rest, so that
        a test need not wait for a disk. Raises ConfigError for a setting that the manifest does not have, or of
        another type.
        """
        granted = GrantSet.of(grants) if grants is not None else None
        requested = GrantSet(self.manifest.grants) if self.manifest is not None else GrantSet.everything()
        config = PluginConfig(
            enabled=True, is_decided=True, grants=granted or requested, limits=limits or Limits(), **options
        )
        values = self._settings(settings or {})
        manifest = evolve(self.manifest, durable=()) if self.manifest is not None else None
        return PluginRecord.by_code(self.name, manifest, grants=granted, config=config, settings=values)

    def _settings(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.manifest is None:
            return given
        secrets = {name for name, setting in self.manifest.settings.items() if setting.secret}
        plain = {name: value for name, value in given.items() if name not in secrets}
        # Secrets apart: a manifest refuses them among plain settings, and a live host reads them elsewhere.
        values, problems = resolve_settings(self.name, self.manifest, plain, lambda _, name: given.get(name))
        if problems:
            raise ConfigError("; ".join(problems))
        return values


def _installed(name: str) -> tuple[Callable[[Ally], Any] | None, str, Manifest | None, Daemon | None]:
    discovery = discover()
    found = discovery.get(name)
    if found is None:
        installed = ", ".join(each.name for each in discovery.found) or "none"
        raise PluginLoadError(f"no plugin {name!r} is installed; installed are: {installed}", plugin=name)
    if found.problem is not None:
        raise PluginLoadError(f"the plugin {name!r} cannot be loaded: {found.problem}", plugin=name)
    if not found.is_class:
        placed = place(name, found, PluginConfig(), Interpreter())
        if placed.daemon is None:
            raise PluginLoadError(f"the plugin {name!r} is neither a class nor a daemon", plugin=name)
        return None, name, found.manifest, placed.daemon
    cls = load_class(PluginRecord(name=name, state="enabled", entry_point=found.entry_point))
    return cls, name, found.manifest, None


def plugin_name(plugin: PluginLike) -> str:
    """Return the name that a class would have as a plugin: `LoopGuard` is `loop-guard`; a name is itself."""
    if isinstance(plugin, str):
        return plugin
    if isinstance(plugin, Path):
        return find_project(plugin).name
    name = _WORD_BOUNDARIES.sub("-", getattr(plugin, "__name__", "") or type(plugin).__name__)
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-") or "plugin"


def find_manifest(plugin: Callable[..., Any], name: str | None = None) -> Manifest | None:
    """Return the manifest that lies beside the module of a plugin's class, None when none does.

    Raises ManifestError for one that is wrong.
    """
    try:
        located = locate(getattr(plugin, "__module__", ""))
    except ValueError:  # a module that was run by its path, or typed in
        return None
    if located is None or located.manifest is None:
        return None
    return _read(Path(located.manifest), name)


def _read(given: ManifestLike, name: str | None) -> Manifest:
    if isinstance(given, Manifest):
        return given
    if isinstance(given, Path):
        try:
            content = given.read_bytes()
        except OSError as error:
            raise ManifestError(f"the manifest cannot be read: {error}", plugin=name) from error
        return Manifest.from_mapping(Manifest.table_of(content, name), name)
    return Manifest.from_text(given, name) if isinstance(given, str) else Manifest.from_mapping(given, name)
