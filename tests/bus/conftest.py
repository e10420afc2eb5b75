"""What the tests of the bus share: a plugin that is all hooks and no code, and hosts with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Ally, Host, PluginRecord, hookimpl
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.policy.budget import Limits
from ally_plugins.policy.permissions import GrantSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def make_puppet(**hooks: Callable[..., Any]) -> type[Any]:
    """Return a plugin class with these hooks; the last one built leaves its handle in the attribute `ally`."""

    class Puppet:
        ally: Ally

        def __init__(self, ally: Ally) -> None:
            type(self).ally = ally

    for name, function in hooks.items():
        setattr(Puppet, name, hookimpl(function))
    return Puppet


def make_limited(plugin: type[Any], grants: Iterable[str] | None = None, **limits: int) -> Any:
    """Return what `Host(plugins=...)` takes for a plugin with grants (all by default) and limits of its own."""
    granted = GrantSet.everything() if grants is None else GrantSet.of(grants)
    config = PluginConfig(enabled=True, is_decided=True, grants=granted, limits=Limits(**limits))
    return plugin, PluginRecord.by_code("p", grants=granted, config=config)


def make_host(**options: Any) -> Host:
    """Return a host that keeps nothing and discovers nothing."""
    return Host("test", **{"home": None, "discover": False, **options})


@pytest.fixture
def puppet() -> Callable[..., type[Any]]:
    """Return what makes a plugin class of hooks."""
    return make_puppet


@pytest.fixture
def limited() -> Callable[..., Any]:
    """Return what gives a plugin its limits; its name must be `p`."""
    return make_limited


@pytest.fixture
def new_host() -> Callable[..., Host]:
    """Return what makes a host without a home."""
    return make_host
