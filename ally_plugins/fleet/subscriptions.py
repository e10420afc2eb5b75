"""What a home has granted to plugins that workers run, of its durable events."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import attrs

from ally_plugins.policy.permissions import GrantSet
from ally_plugins.runtime.lanes.observers import is_for, is_own

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.contract.values.events import Event

__all__ = ["HomeSubscriptions", "Subscription", "subscriptions_of"]

LOOK_S: Final = 10.0
"""Seconds after which it is looked again what is placed shared, though no file of the home has changed."""


@attrs.frozen
class Subscription:
    """What a home has granted a plugin of its durable events, for files with the digest that was agreed to."""

    plugin: str
    digest: str
    types: tuple[str, ...]
    grants: GrantSet

    def wants(self, event: Event) -> bool:
        """Say whether the plugin may be shown an event, as in every placement."""
        return self.grants.receives(event.type) and is_for(event, self.plugin) and not is_own(event, self.plugin)


def subscriptions_of(records: Iterable[PluginRecord]) -> tuple[Subscription, ...]:
    """Return the durable subscriptions of plugins that are enabled, placed `shared`, and whose files were agreed to."""
    return tuple(
        Subscription(each.name, each.agreement.files, each.durable, each.granted)
        for each in records
        if each.is_enabled and each.placement == "shared" and each.durable and each.agreement and each.agreement.files
    )


class HomeSubscriptions:
    """The subscriptions of a home, which are read again when what the operator has settled has changed."""

    def __init__(self, home: Home) -> None:
        self._home: Final = home
        self._found: tuple[Subscription, ...] = ()
        self._seen: Any = None
        self._read_at = 0.0

    def __call__(self) -> tuple[Subscription, ...]:
        """Return them. Blocks on files. Raises ConfigError and ConsentError, as the registry does."""
        from ally_plugins.catalog.registry import Registry

        home = self._home
        seen = [_stamp(file) for file in (home.config_file, home.consent_file, home.quarantine_file)]
        if seen != self._seen or time.monotonic() - self._read_at > LOOK_S:
            # First: should it fail, nothing is sent under what was settled before.
            self._found, self._seen = (), None
            self._found = subscriptions_of(Registry(home).load())
            self._seen, self._read_at = seen, time.monotonic()
        return self._found


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
