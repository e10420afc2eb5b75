"""Which hooks of one plugin are called for which events, compiled once so that a lane looks up one table an event."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, cast

from attrs import field, frozen

from ally_plugins.contract.values.event_types import hook_name
from ally_plugins.contract.values.events import (
    EVENT_TYPES,
    ContextThreshold,
    Event,
    EventsDropped,
    PluginActionRequested,
    PluginEvent,
    PluginEventEmitted,
    PluginMessageReceived,
    TaskProgress,
)

__all__ = ["Handler", "Implementation", "Observers", "is_for", "is_own"]

Handler = Callable[[Any], Any]

_SELF_CAUSED: Final = frozenset(
    {PluginEvent, PluginEventEmitted, PluginMessageReceived, PluginActionRequested, TaskProgress}
)


def is_own(event: Event, plugin: str) -> bool:
    """Return whether a plugin's own call has caused an event at once; such a one it does not receive.

    What the agent does afterwards is no plugin's own, though its `origin` names the plugins that led there.
    """
    if event.__class__ not in _SELF_CAUSED or not event.origin:
        return False
    if isinstance(event, PluginActionRequested):
        return event.requested_by == plugin
    return event.origin[-1] == plugin


def is_for(event: Event, plugin: str) -> bool:
    """Return whether an event may come to a plugin: the threshold that another one has asked for is that one's."""
    return event.__class__ is not ContextThreshold or getattr(event, "plugin_name", None) in (None, plugin)


@frozen
class Implementation:
    """One validated implementation of a hook by one plugin."""

    plugin: str
    hook: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    is_async: bool
    placement: str | None = None
    """`first` or `last` for `tryfirst` and `trylast`."""
    _bound: dict[tuple[str, ...], Callable[..., Any]] = field(init=False, factory=dict, eq=False, repr=False)

    def bind(self, names: tuple[str, ...]) -> Callable[..., Any]:
        """Return a function that takes all the hook's arguments, in order, and passes on those that are wanted."""
        bound = self._bound.get(names)
        if bound is None:
            bound = self._bound[names] = self.function if self.arguments == names else self._passing_on(names)
        return bound

    def _passing_on(self, names: tuple[str, ...]) -> Callable[..., Any]:
        function, indices = self.function, [names.index(name) for name in self.arguments]

        def call(*values: Any) -> Any:
            return function(*[values[i] for i in indices])

        return call

    @classmethod
    def of(
        cls, plugin: str, hook: str, function: Callable[..., Any], arguments: Iterable[str], **more: Any
    ) -> Implementation:
        """Return the implementation, having looked whether it is a coroutine function."""
        return cls(plugin, hook, function, tuple(arguments), inspect.iscoroutinefunction(function), **more)


@frozen
class Observers:
    """The table of one plugin. `single` holds types with exactly one asynchronous implementation: the fast way.

    `names` are the hooks that these implement.
    """

    single: Mapping[type[Event], Callable[[Event], Awaitable[None]]] = field(factory=dict)
    names: Mapping[type[Event], str] = field(factory=dict)
    several: Mapping[type[Event], tuple[tuple[str, Handler, bool], ...]] = field(factory=dict)
    types: frozenset[type[Event]] = frozenset()
    is_all_sync: bool = False
    receives: Callable[[str], bool] = field(default=lambda _: True)
    plugin: str = ""

    @classmethod
    def compile(cls, implementations: Mapping[str, Implementation], receives: Callable[[str], bool]) -> Observers:
        """Return the table for a plugin's implementations by hook name; `receives` says which types it is granted."""
        single: dict[type[Event], Callable[[Event], Awaitable[None]]] = {}
        names: dict[type[Event], str] = {}
        several: dict[type[Event], tuple[tuple[str, Handler, bool], ...]] = {}
        general = implementations.get("ally_event")
        for event_type, event_class in EVENT_TYPES.items():
            own = implementations.get(hook_name(event_type))
            found = [impl for impl in (own, general) if impl is not None]
            # That events were lost needs no grant: they were the plugin's own.
            if not found or not (receives(event_type) or event_class is EventsDropped):
                continue
            # Thresholds are chosen one by one (`wants`), which the fast way does not do.
            if len(found) == 1 and found[0].is_async and event_class is not ContextThreshold:
                single[event_class] = cast("Callable[[Event], Awaitable[None]]", found[0].bind(("event",)))
                names[event_class] = found[0].hook
            else:
                several[event_class] = tuple((impl.hook, impl.bind(("event",)), impl.is_async) for impl in found)
        if general is not None:
            several[PluginEvent] = ((general.hook, general.bind(("event",)), general.is_async),)
        all_sync = not single and not any(is_async for found in several.values() for _, _, is_async in found)
        plugin = next((each.plugin for each in implementations.values()), "")
        return cls(single, names, several, frozenset(single) | frozenset(several), all_sync, receives, plugin)

    def wants(self, event: Event) -> bool:
        """Return whether a hook of the plugin is called for this event; plugins' own events are chosen by name."""
        kind = event.__class__
        if kind not in self.types:
            return False
        if kind is PluginEvent:
            return self.receives(event.type)
        return kind is not ContextThreshold or is_for(event, self.plugin)

    def only_hook(self, kind: type[Event]) -> str | None:
        """Return the hook that events of a class come to, None where they come to several."""
        if kind in self.single:
            return self.names[kind]
        several = self.several.get(kind, ())
        return several[0][0] if len(several) == 1 else None

    def handlers(self, kind: type[Event]) -> tuple[tuple[str, Handler, bool], ...]:
        """Return (hook, function, is it asynchronous) for an event class, in the order in which they are called."""
        if kind in self.single:
            return ((self.names[kind], self.single[kind], True),)
        return self.several.get(kind, ())
