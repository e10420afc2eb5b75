"""What the tests of the contract share: plugins made of a few functions, and hosts with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import attrs
import pytest
from attrs import Factory, frozen

from ally_plugins import Host, PluginRecord, hookimpl
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.contract.manifest import Manifest
from ally_plugins.policy.permissions import GrantSet


@frozen
class Setup:
    """A plugin with what its operator has settled; `manifest` gives its edges."""

    plugin: Any
    grants: Iterable[str] | None = None
    config: dict[str, Any] = Factory(dict)
    manifest: dict[str, Any] = Factory(dict)
    state: str = "enabled"
    reason: str = ""

    def under(self, name: str) -> tuple[Any, PluginRecord]:
        granted = GrantSet.everything() if self.grants is None else GrantSet.of(self.grants)
        record = PluginRecord.by_code(
            name,
            Manifest(**self.manifest),
            grants=granted,
            config=PluginConfig(enabled=True, is_decided=True, grants=granted, **self.config),
        )
        if self.state == "enabled":
            return self.plugin, record
        return self.plugin, attrs.evolve(record, state=self.state, reason=self.reason)  # type: ignore[arg-type]


def make_setup(plugin: Any, grants: Iterable[str] | None = None, **more: Any) -> Setup:
    own = {key: more.pop(key) for key in ("state", "reason") if key in more}
    edges: dict[str, Any] = {key: more.pop(key) for key in ("before", "after") if key in more}
    return Setup(plugin, grants, more, edges, **own)


def make_plugin(**hooks: Callable[..., Any]) -> type[Any]:
    """Return a plugin class that has these hooks; its instances have `ally`, and a list `seen` of their own."""

    class Plugin:
        def __init__(self, ally: Any) -> None:
            self.ally = ally
            self.seen: list[Any] = []

    for name, function in hooks.items():
        setattr(Plugin, name, hookimpl(function) if name.startswith("ally_") else function)
    return Plugin


def make_host(plugins: dict[str, Any] | None = None, **options: Any) -> Host:
    """Return a host that keeps nothing and discovers nothing, with plugins by name: classes or setups."""
    given = {name: value.under(name) if isinstance(value, Setup) else value for name, value in (plugins or {}).items()}
    return Host("test", **{"home": None, "discover": False, "plugins": given, **options})


def run_within(main: Coroutine[Any, Any, Any], seconds: float = 20) -> Any:
    """Run a coroutine on a new loop; what hangs is a failure."""

    async def limited() -> Any:
        async with asyncio.timeout(seconds):
            return await main

    return asyncio.run(limited())


@pytest.fixture
def plugin() -> Callable[..., type[Any]]:
    return make_plugin


@pytest.fixture
def setup() -> Callable[..., Setup]:
    return make_setup


@pytest.fixture
def new_host() -> Callable[..., Host]:
    return make_host


@pytest.fixture
def go() -> Callable[..., Any]:
    return run_within


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> float:
    """Give interrupted hooks a tenth of a second instead of a whole one."""
    monkeypatch.setattr("ally_plugins.runtime.lanes.runner.GRACE", 0.1)
    return 0.1
