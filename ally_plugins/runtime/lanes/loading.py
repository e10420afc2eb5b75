"""From a plugin's class to its validated implementations.

pluggy validates names and arguments; what it lets pass silently (defaulted parameters, hooks that are the host's) is
refused in `implementations`, hooks that the manifest does not declare are refused here, with the manifest line to add.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import pluggy

from ally_plugins.contract.hookspecs import HOOKS, HookInfo, PluginHooks
from ally_plugins.contract.implementations import marked_hooks
from ally_plugins.contract.manifest import Manifest, manifest_line
from ally_plugins.contract.markers import PROJECT
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import PluginLoadError, UndeclaredError
from ally_plugins.contract.values.raised import describe_raised
from ally_plugins.policy.permissions import Grant, GrantSet

from .observers import Implementation

if TYPE_CHECKING:
    from ally_plugins.contract.handle import Ally

__all__ = [
    "build",
    "check_declared",
    "check_offered",
    "check_required",
    "implementations_of",
    "new_manager",
    "required_hooks",
]

_WAYS_OUT: Final = {
    "class": "write @hookimpl above `async def {hook}(self, {arguments})`",
    "answer": "name it in `hooks` of the answer to `initialize`, in Python by @hookimpl on the method",
    "nowhere": "nothing but a class or a daemon on stdio can have it",
}
"""What an author is to write, by where a plugin declares its hooks."""


class Offered(Protocol):
    """A tool or an action, of a plugin in process or of a daemon."""

    @property
    def agent(self) -> bool | None:
        """Whether the agent is offered it."""


def new_manager() -> pluggy.PluginManager:
    """Return a manager with the specifications of what plugins may implement, and no capability hooks."""
    manager = _Manager(PROJECT)
    manager.add_hookspecs(PluginHooks)
    return manager


def build(factory: Callable[[Ally], Any], ally: Ally) -> Any:
    """Return the plugin object that a class (or factory) makes of its handle.

    Raises PluginLoadError for whatever the plugin's code raises, SystemExit included.
    """
    try:
        return factory(ally)
    # The person's Ctrl-C, not the plugin's doing; SystemExit is, and must not end the host.
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        hint = "; a plugin is built with one argument, its Ally handle" if isinstance(error, TypeError) else ""
        message = f"building the plugin {ally.name!r} failed with {describe_raised(error)}{hint}"
        raise PluginLoadError(message, plugin=ally.name) from error


def implementations_of(
    manager: pluggy.PluginManager, name: str, instance: Any, manifest: Manifest | None
) -> dict[str, Implementation]:
    """Register a plugin object and return its implementations by hook.

    Raises PluginLoadError (or UndeclaredError) for the first thing that is wrong, and leaves nothing registered then.
    """
    marked = marked_hooks(name, instance)
    if manifest is not None:
        for hook in marked:
            check_declared(name, HOOKS[hook], manifest)
    only_marked = _Hooks()
    for function, options in marked.values():
        setattr(only_marked, options["attribute"], function)
        only_marked.options[options["attribute"]] = {key: options[key] for key in options if key != "attribute"}
    try:
        manager.register(only_marked, name)
    except (pluggy.PluginValidationError, ValueError) as error:
        if manager.has_plugin(name):
            manager.unregister(name=name)
        message = f"plugin {name!r} cannot be registered: {' '.join(str(error).split())}"
        raise PluginLoadError(message, plugin=name) from error
    return _validated(manager, name)


class _Hooks:
    """What pluggy is given: the marked functions alone, since it calls `getattr` for whatever an object has."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}


class _Manager(pluggy.PluginManager):
    """Takes the marks as they were found: pluggy looks behind a static or class method, and not on it."""

    @override
    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        return plugin.options.get(name) if isinstance(plugin, _Hooks) else None


def required_hooks(granted: GrantSet, requested: GrantSet) -> frozenset[str]:
    """Return the gates and transforms that a plugin's code must have: those that were granted by name.

    Who was granted everything was granted none by name, but what the plugin asked for.
    """
    named = requested.intersection(granted) if granted.is_everything else granted
    return frozenset(
        info.name
        for info in HOOKS.values()
        if info.topic is not None and (named.gates if info.kind == "gate" else named.transforms)(info.topic)
    )


def check_required(
    name: str,
    required: Iterable[str],
    implemented: Collection[str],
    declared_in: Literal["class", "answer", "nowhere"] = "class",
) -> None:
    """Refuse code that lacks a gate or transform that was granted: nobody may take it for one that agrees.

    `declared_in` is where such a plugin declares its hooks. Raises PluginLoadError.
    """
    missing = sorted(set(required).difference(implemented))
    if not missing:
        return
    info = HOOKS[missing[0]]
    grant = f"{info.kind}:{info.topic}"
    has = ", ".join(repr(hook) for hook in sorted(implemented)) or "no hook"
    way_out = _WAYS_OUT[declared_in].format(hook=info.name, arguments=", ".join(info.arguments))
    text = (
        f"plugin {name!r} is granted {grant!r} and lacks the hook {info.name!r}: it has {has}; "
        f"{way_out}, or take the grant back: ally-plugins revoke {name} {grant}"
    )
    raise PluginLoadError(text, plugin=name)


def check_declared(name: str, info: HookInfo, manifest: Manifest) -> None:
    """Refuse a hook that a plugin implements and its manifest does not ask for. Raises UndeclaredError."""
    requested = GrantSet(manifest.grants)
    if info.kind == "observe":
        missing = _undeclared_event(info, manifest, requested)
    elif info.kind in {"gate", "transform"}:
        has = requested.gates if info.kind == "gate" else requested.transforms
        missing = None if has(info.topic or "") else Grant(info.kind, info.topic or "")
    else:
        missing = None
    if missing is not None:
        line = manifest_line(missing)
        text = f"plugin {name!r} implements {info.name!r}, which its manifest does not declare; add: {line}"
        raise UndeclaredError(text, plugin=name, line=line)


def check_offered(name: str, kind: str, offers: Iterable[Offered], manifest: Manifest) -> None:
    """Refuse tools or actions that a plugin has and its manifest does not ask for. Raises UndeclaredError.

    An action that the agent may call is a tool too, and the operator is to see that.
    """
    offers, requested = list(offers), GrantSet(manifest.grants)
    if offers and not requested.may(f"{kind}s"):
        missing, what = Grant(f"{kind}s"), "a tool" if kind == "tool" else "an action"
    elif kind == "action" and any(each.agent for each in offers) and not requested.may("tools"):
        missing, what = Grant("tools"), "an action to the agent as a tool"
    else:
        return
    line = manifest_line(missing)
    text = f"plugin {name!r} offers {what}, which its manifest does not declare; add: {line}"
    raise UndeclaredError(text, plugin=name, line=line)


def _undeclared_event(info: HookInfo, manifest: Manifest, requested: GrantSet) -> Grant | None:
    if info.event_type == "*":
        return None if manifest.subscribe else Grant("events", "*")
    event_type = info.event_type or ""
    if event_type == "EVENTS_DROPPED":  # needs no grant: what was lost were the plugin's own events
        return None
    return None if requested.receives(event_type) else Grant("events", event_type)


def _validated(manager: pluggy.PluginManager, name: str) -> dict[str, Implementation]:
    found: dict[str, Implementation] = {}
    for caller in manager.get_hookcallers(manager.get_plugin(name)) or ():
        for impl in caller.get_hookimpls():
            if impl.plugin_name == name:
                placement = "first" if impl.tryfirst else "last" if impl.trylast else None
                found[caller.name] = Implementation.of(
                    name, caller.name, impl.function, impl.argnames, placement=placement
                )
    return found
