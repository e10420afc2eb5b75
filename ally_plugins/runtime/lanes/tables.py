"""Which events are durable for a plugin, and what is left of its table of observers for its lane to carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from ally_plugins.contract.grants import Grant
from ally_plugins.contract.values.events import Event, EventsDropped, PluginEvent
from ally_plugins.policy.permissions import GrantSet

from .observers import Observers

__all__ = ["durable_names", "without_durable"]

_NEVER_DURABLE: Final = frozenset({PluginEvent, EventsDropped})
"""Plugins' own events share a class and differ by name; EVENTS_DROPPED is made by each lane itself."""


def durable_names(types: Iterable[str]) -> Callable[[str], bool]:
    """Return what says whether an event type is among those that a manifest calls durable (`*` and `name:*` too)."""
    return GrantSet(frozenset(Grant("events", name) for name in types)).receives


def without_durable(observers: Observers, types: Iterable[str]) -> Observers:
    """Return the table of a lane without the events of these types, which come from the journal."""
    if not (types := frozenset(types)):
        return observers
    is_durable = durable_names(types)

    def stays(cls: type[Event]) -> bool:
        return cls in _NEVER_DURABLE or not is_durable(cls.TYPE)

    single = {cls: function for cls, function in observers.single.items() if stays(cls)}
    several = {cls: found for cls, found in observers.several.items() if stays(cls)}
    return Observers(
        single,
        observers.names,
        several,
        frozenset(filter(stays, observers.types)),
        not single and not any(is_async for found in several.values() for _, _, is_async in found),
        lambda name: observers.receives(name) and not is_durable(name),
        observers.plugin,
    )
