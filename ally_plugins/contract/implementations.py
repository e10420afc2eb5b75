"""What a plugin object implements: its marked functions, each checked against the hook that it names.

The same for every placement; what the manifest declares, and what pluggy validates, is left to `runtime.loading`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from .hookspecs import HOOKS, HookInfo
from .markers import PROJECT
from .values.errors import PluginLoadError

__all__ = ["marked_hooks"]

_MARK: Final = f"{PROJECT}_impl"


def marked_hooks(name: str, instance: Any) -> dict[str, tuple[Callable[..., Any], Mapping[str, Any]]]:
    """Return the functions of a plugin object that carry our marker, by hook, with the options of the marker.

    `name` is the plugin's. The option `attribute` is the function's name. Marks are looked up on the class, so that no
    property of the plugin runs. Raises PluginLoadError for the first thing that is wrong.
    """
    found = _find(name, instance)
    for hook, (function, options) in found.items():
        _check(name, hook, function, options)
    return found


def _find(name: str, instance: Any) -> dict[str, tuple[Callable[..., Any], Mapping[str, Any]]]:
    found: dict[str, tuple[Callable[..., Any], Mapping[str, Any]]] = {}
    for attribute in dir(type(instance)):
        raw = inspect.getattr_static(type(instance), attribute)
        function = raw.__func__ if isinstance(raw, (staticmethod, classmethod)) else raw
        options = getattr(function, _MARK, None)
        if isinstance(options, dict):
            hook = options.get("specname") or attribute
            if hook in found:
                both = f"{found[hook][1]['attribute']!r} and {attribute!r}"
                text = f"plugin {name!r} implements {hook!r} twice, as {both}; expected one of them"
                raise PluginLoadError(text, plugin=name)
            found[hook] = (getattr(instance, attribute), {**options, "attribute": attribute})
    return found


def _check(name: str, hook: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    info = HOOKS.get(hook)
    if info is None:
        short = {name.removeprefix("ally_"): name for name in HOOKS}  # what all have in common says nothing
        close = _closest(hook.removeprefix("ally_"), short)
        hint = f"did you mean {short[close]!r}?" if close else "see the reference of hooks"
        raise PluginLoadError(f"plugin {name!r} implements {hook!r}, which is no hook; {hint}", plugin=name)
    if info.kind == "capability":
        text = f"plugin {name!r} implements {hook!r}, which only a host implements; call it through the Ally handle"
        raise PluginLoadError(text, plugin=name)
    if options.get("wrapper") or options.get("hookwrapper"):
        text = f"plugin {name!r} asks for wrapper=True on {hook!r}; wrappers are not supported, use a gate or transform"
        raise PluginLoadError(text, plugin=name)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise PluginLoadError(f"{hook!r} of plugin {name!r} has a yield; expected def or async def", plugin=name)
    _check_parameters(name, info, function)


def _check_parameters(name: str, info: HookInfo, function: Callable[..., Any]) -> None:
    for parameter in inspect.signature(function).parameters.values():
        label = f"the parameter {parameter.name!r} of {info.name!r} in plugin {name!r}"
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            raise PluginLoadError(f"{label} is {parameter.kind.description}; expected plain parameters", plugin=name)
        if parameter.default is not parameter.empty:
            raise PluginLoadError(f"{label} has a default; pluggy would never fill it, remove the default", plugin=name)
        if parameter.name not in info.arguments:
            allowed = ", ".join(info.arguments) or "none"
            close = _closest(parameter.name, info.arguments)
            hint = f"did you mean {close!r}?" if close else f"expected {allowed}"
            raise PluginLoadError(f"{label} is no argument of that hook; {hint}", plugin=name)


def _closest(word: str, known: Mapping[str, Any] | tuple[str, ...]) -> str | None:
    from difflib import get_close_matches  # only for what is wrong: a daemon must start fast

    return next(iter(get_close_matches(word, known, 1, 0.5)), None)
