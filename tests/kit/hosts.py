"""Plugins of a few functions, what their operators have settled, and hosts that keep nothing and discover nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen

from ally_plugins import Ally, Daemon, GrantSet, Host, PluginRecord, hookimpl
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.contract.manifest import Manifest

if TYPE_CHECKING:
    from ally_plugins.catalog.decide.record import State


def make_plugin(**members: Callable[..., Any]) -> type[Any]:
    """Return a plugin class that has these hooks, and tools and helpers under other names.

    Its instances have a list `seen` of their own. The last one built leaves its handle in the class's `ally`.
    """

    class Plugin:
        ally: Ally

        def __init__(self, ally: Ally) -> None:
            self.ally = type(self).ally = ally
            self.seen: list[Any] = []

    for name, member in members.items():
        setattr(Plugin, name, hookimpl(member) if name.startswith("ally_") else member)
    return Plugin


def make_record(
    name: str = "p",
    manifest: Manifest | None = None,
    *,
    grants: Iterable[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    daemon: Daemon | None = None,
    **config: Any,
) -> PluginRecord:
    """Return the record of a plugin that is agreed to; `config` is what `[plugins.NAME]` in `config.toml` may have.

    Without grants it has what its manifest asks for, and everything when that asks for nothing.
    """
    asked = GrantSet(manifest.grants) if manifest is not None and manifest.requests else GrantSet.everything()
    granted = asked if grants is None else GrantSet.of(grants)
    settled = PluginConfig(enabled=True, is_decided=True, grants=granted, **config)
    return PluginRecord.by_code(name, manifest, grants=granted, config=settled, settings=settings, daemon=daemon)


@frozen
class Setup:
    """A plugin and what its operator has settled; the host that it is given to names it."""

    plugin: Any
    options: Mapping[str, Any]
    changes: Mapping[str, Any]

    def under(self, name: str) -> tuple[Any, PluginRecord]:
        """Return what `Host(plugins={name: ...})` takes."""
        return self.plugin, attrs.evolve(make_record(name, **self.options), **self.changes)


def setup(
    plugin: Any,
    grants: Iterable[str] | None = None,
    *,
    before: Iterable[str] = (),
    after: Iterable[str] = (),
    state: State = "enabled",
    reason: str = "",
    **config: Any,
) -> Setup:
    """Return a plugin with what its operator has settled: `before` and `after` are its manifest's edges."""
    edges = Manifest(before=tuple(before), after=tuple(after))
    return Setup(plugin, {"manifest": edges, "grants": grants, **config}, {"state": state, "reason": reason})


def new_host(plugins: Mapping[str, Any] | None = None, **options: Any) -> Host:
    """Return a host that keeps nothing and discovers nothing; its plugins are classes, setups, or what `Host` takes."""
    given = {name: each.under(name) if isinstance(each, Setup) else each for name, each in (plugins or {}).items()}
    return Host("test", **{"home": None, "discover": False, "plugins": given, **options})
