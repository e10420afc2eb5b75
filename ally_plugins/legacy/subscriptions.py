"""Which plugin's daemon gets which events, by the rules of Code-Ally's subscription manager.

The table only; sending is left to each daemon's link, and what the operator granted to the registry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from attrs import define, field, frozen

from ally_plugins.errors import ValidationRefused
from ally_plugins.fields import describe

from .numbers import APPROVED_EVENTS
from .plugin import path_problem

__all__ = ["Subscription", "Subscriptions", "events_problem"]

_APPROVED: Final = frozenset(APPROVED_EVENTS)


def events_problem(events: Sequence[str]) -> str | None:
    """Return what is wrong with a list of events, None when nothing is; the text lists the approved ones."""
    if not events:
        return f"is empty, expected some of {', '.join(APPROVED_EVENTS)}"
    unknown = [event for event in events if event not in _APPROVED]
    if unknown:
        return f"found {', '.join(map(describe, unknown))}, expected only {', '.join(APPROVED_EVENTS)}"
    return None


@frozen
class Subscription:
    """One plugin's: where its daemon listens, and what it is sent."""

    plugin: str
    socket_path: str
    events: tuple[str, ...]


@define
class Subscriptions:
    """The subscriptions of one host; it lives as long as the host."""

    _by_plugin: dict[str, Subscription] = field(init=False, factory=dict)

    def subscribe(self, plugin: str, socket_path: str, events: Iterable[str]) -> Subscription:
        """Take a plugin's subscription, in place of the one that it had; an event named twice counts once.

        Raises ValidationRefused for an empty list, an event that is not approved, and a path that is relative or too
        long; then the former subscription stays.
        """
        folded = tuple(dict.fromkeys(events))
        if (problem := events_problem(folded)) is not None:
            raise ValidationRefused(f"events of {plugin!r}: {problem}", plugin=plugin, field="events")
        if (problem := path_problem(socket_path)) is not None:
            raise ValidationRefused(f"socket of {plugin!r}: {problem}", plugin=plugin, field="socket_path")
        self._by_plugin[plugin] = made = Subscription(plugin, socket_path, folded)
        return made

    def unsubscribe(self, plugin: str) -> bool:
        """Forget a plugin's subscription; say whether there was one."""
        return self._by_plugin.pop(plugin, None) is not None

    def get_subscribers(self, event: str) -> tuple[str, ...]:
        """Return the plugins that get an event, in the order in which they came."""
        return tuple(name for name, each in self._by_plugin.items() if event in each.events)

    def is_subscribed(self, plugin: str, event: str | None = None) -> bool:
        """Say whether a plugin gets an event, or with no event any."""
        found = self._by_plugin.get(plugin)
        return found is not None and (event is None or event in found.events)

    def get_subscription(self, plugin: str) -> Subscription | None:
        """Return a plugin's subscription; it is frozen, so that nobody changes the table through it."""
        return self._by_plugin.get(plugin)

    def by_plugin(self) -> Mapping[str, Subscription]:
        """Return a copy of the table."""
        return dict(self._by_plugin)
