"""From MODULE:CLASS to a plugin object, and what it has, as the answer to `initialize` says it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import reduce
from importlib import import_module
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.implementations import marked_hooks
from ally_plugins.contract.values.errors import PluginLoadError
from ally_plugins.contract.values.event_types import hook_name
from ally_plugins.contract.values.events import EVENT_TYPES

if TYPE_CHECKING:
    from ally_plugins.contract.handle import Ally
    from ally_plugins.contract.tools.declared import ToolSpec  # noqa: TC004 - nobody reads this annotation at run time

__all__ = ["Factory", "Hook", "Loaded", "load", "load_factory"]

Factory = Callable[["Ally"], Any]


@frozen
class Hook:
    """One implementation of a hook."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    is_async: bool
    placement: str | None = None
    is_optional: bool = False
    """Whether an older host, which does not know it, is to pass it over."""

    def to_wire(self) -> dict[str, Any]:
        """Return it as `initialize` answers it."""
        wire: dict[str, Any] = {"name": self.name, "arguments": self.arguments}
        wire |= {"placement": self.placement} if self.placement is not None else {}
        return wire | ({"optional": True} if self.is_optional else {})


@frozen(eq=False)
class Loaded:
    """A plugin object and what it implements and offers; the tables are made once, not at each event."""

    instance: Any
    hooks: Mapping[str, Hook]
    tools: tuple[ToolSpec, ...]
    actions: tuple[ToolSpec, ...]
    observers: Mapping[str, tuple[tuple[str, Callable[..., Any], bool], ...]]

    def handlers(self, event_type: str) -> tuple[tuple[str, Callable[..., Any], bool], ...]:
        """Return the hooks for an event type, its own before `ally_event`: (name, function, is it asynchronous)."""
        found = self.observers.get(event_type)
        return found if found is not None else self.observers["*"]

    def to_wire(self) -> dict[str, Any]:
        """Return the answer to `initialize`, without the protocol's version."""
        answer: dict[str, Any] = {
            "hooks": [hook.to_wire() for hook in self.hooks.values()],
            "tools": _offered(self.tools),
            "actions": _offered(self.actions),
        }
        # A plugin with `ally_event` gets every event, those of types that this version does not know too.
        if not self.observers["*"]:
            answer["events"] = [name for name, handlers in self.observers.items() if handlers]
        return answer


def load_factory(entry_point: str) -> Factory:
    """Import the module of `MODULE:CLASS` and return what it names. Raises what the import raises, SystemExit too."""
    module_name, _, attribute = entry_point.partition(":")
    if not module_name or not attribute:
        raise PluginLoadError(f"{entry_point[:200]!r} is not of the form MODULE:CLASS")
    named: Any = import_module(module_name)
    factory: Factory = reduce(getattr, attribute.split("."), named)
    return factory


def load(factory: Factory, ally: Ally) -> Loaded:
    """Build the plugin and look at what it has.

    Raises PluginLoadError and ValidationRefused for what the contract does not allow, and what the plugin raises.
    """
    instance = factory(ally)
    hooks = {name: _hook(name, *found) for name, found in marked_hooks(ally.name, instance).items()}
    tools, actions = _offers(instance)
    return Loaded(instance, hooks, tools, actions, _observers(hooks))


def _offered(specs: tuple[ToolSpec, ...]) -> list[dict[str, Any]]:
    """Return tools or actions as the protocol describes them."""
    if not specs:
        return []
    from ally_plugins.contract.tables import write_object
    from ally_plugins.wire.offers import ToolOffer  # only where there are some: its classes cost a daemon's start

    return [write_object(ToolOffer.of(spec)) for spec in specs]


def _hook(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Hook:
    placement = "first" if options.get("tryfirst") else "last" if options.get("trylast") else None
    # By name, on the wire too: an older plugin takes fewer arguments than a newer host has for it.
    arguments = tuple(inspect.signature(function).parameters)
    is_async, is_optional = inspect.iscoroutinefunction(function), options.get("optionalhook") is True
    return Hook(name, function, arguments, is_async, placement, is_optional)


def _offers(instance: Any) -> tuple[tuple[ToolSpec, ...], tuple[ToolSpec, ...]]:
    """Collect what decorators offer. Who has not even imported them has none: the types cost much to load."""
    if "ally_plugins.contract.tools.declared" not in sys.modules:
        return (), ()
    from ally_plugins.contract.tools.declared import collect_actions, collect_tools

    return collect_tools(instance), collect_actions(instance)


def _observers(hooks: Mapping[str, Hook]) -> dict[str, tuple[tuple[str, Callable[..., Any], bool], ...]]:
    """Return the handlers of each event type; under `*` those of plugins' own events, which only `ally_event` gets."""
    general = hooks.get("ally_event")
    by_type = {event_type: (hooks.get(hook_name(event_type)), general) for event_type in EVENT_TYPES}
    by_type["*"] = (None, general)
    return {
        event_type: tuple((hook.name, _with_event(hook), hook.is_async) for hook in found if hook is not None)
        for event_type, found in by_type.items()
    }


def _with_event(hook: Hook) -> Callable[..., Any]:
    """Return a function that takes the event, though the hook may not want it."""
    if hook.arguments == HOOKS[hook.name].arguments:
        return hook.function
    function = hook.function

    def call(_: Any) -> Any:
        return function()

    return call
