"""What a plugin object implements: its marked functions, each checked against the hook that it names.

What looks like a hook and is none is an error too: a gate that nobody calls looks like one that agrees. The same for
every placement; what the manifest declares, what was granted, and what pluggy validates is left to `runtime.lanes`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial, partialmethod
from types import FunctionType, MemberDescriptorType
from typing import Any, Final

from .hookspecs import HOOKS, HookInfo
from .markers import PROJECT
from .values.errors import PluginLoadError

__all__ = ["marked_hooks"]

_MARK: Final = f"{PROJECT}_impl"
_SPEC: Final = f"{PROJECT}_spec"
_PROTECTIONS: Final = ("ally_gate_", "ally_transform_")
"""How the names of hooks begin whose absence nobody would notice: a function that is almost called so is a mistake."""

_ALIKE: Final = 0.55
"""From which of difflib's ratios on a topic is a slip of the pen: `tools` and `call` are, `reason_for` is not."""


def marked_hooks(name: str, instance: Any) -> dict[str, tuple[Callable[..., Any], Mapping[str, Any]]]:
    """Return the functions of a plugin object that carry our marker, by hook, with the options of the marker.

    `name` is the plugin's. The option `attribute` is the function's name. Marks are looked up on the class, so that no
    property of the plugin runs. A hook that this host does not know is left out when it is marked
    `optionalhook=True`. Raises PluginLoadError for the first thing that is wrong.
    """
    if instance is None or isinstance(instance, type) or inspect.iscoroutine(instance):
        if inspect.iscoroutine(instance):
            # Nobody will await it: Python would warn of that, below the error that says why.
            instance.close()
        what = f"the class {instance.__name__!r}" if isinstance(instance, type) else _kind(instance)
        raise PluginLoadError(f"plugin {name!r} was built as {what}; expected an object with hooks", plugin=name)
    found = _find(name, instance)
    for hook, (function, options) in found.items():
        _check(name, hook, function, options)
    return found


def _find(name: str, instance: Any) -> dict[str, tuple[Callable[..., Any], Mapping[str, Any]]]:
    cls = type(instance)
    own = _own_values(instance)
    found: dict[str, tuple[Callable[..., Any], Mapping[str, Any]]] = {}
    # In the order of names, so that of several mistakes the same one is reported each time.
    for attribute in sorted(type.__dir__(cls)):  # a metaclass has no say in it
        raw = inspect.getattr_static(cls, attribute)
        options = _options(raw)
        hook = attribute if options is None else options.get("specname") or attribute
        # `specname` leads elsewhere, and the hook of the function's own name is not called.
        if hook != attribute and _is_hook(attribute):
            raise _not_called(name, attribute, f"{_kind(raw)} marked for {hook!r}")
        if options is None:
            if _is_meant(attribute, raw) and not isinstance(raw, MemberDescriptorType):  # a slot's value is looked at
                raise _not_called(name, attribute, _unmarked(cls, attribute, raw))
            continue
        if hook not in HOOKS and options.get("optionalhook"):  # of a newer host; nobody calls it here
            continue
        if attribute in own:
            raise _not_called(name, attribute, f"{_kind(own[attribute])} set on the instance, which hides the method")
        if hook in found:
            both = f"{found[hook][1]['attribute']!r} and {attribute!r}"
            text = f"plugin {name!r} implements {hook!r} twice, as {both}; expected one of them"
            raise PluginLoadError(text, plugin=name)
        _check_kind(name, attribute, raw)
        function = getattr(instance, attribute)
        _check_kind(name, attribute, function)  # a decorator's own class may bind to something else
        found[hook] = (function, {**options, "attribute": attribute})
    _check_own(name, own)
    return found


def _check_own(name: str, own: Mapping[str, Any]) -> None:
    """Refuse hooks that are set on the instance: only how a method of the class is called can be checked."""
    for attribute, value in own.items():
        options = _options(value) if isinstance(value, (FunctionType, partial)) else None  # not an alias of a method
        hook = attribute if options is None else options.get("specname") or attribute
        if _is_meant(hook, value):
            raise _not_called(name, attribute, f"{_kind(value)} set on the instance")


def _own_values(instance: Any) -> Mapping[str, Any]:
    """Return the attributes of the instance itself, its slots' among them; no code of the plugin's runs."""
    try:
        values = object.__getattribute__(instance, "__dict__")
    except AttributeError:  # it has slots alone
        values = {}
    own = dict.items(values) if isinstance(values, dict) else ()  # `self.__dict__ = self` makes one of any kind
    found = {name: value for name, value in own if isinstance(name, str)}
    for cls in type.mro(type(instance)):
        for name, raw in vars(cls).items():
            if isinstance(raw, MemberDescriptorType):
                with suppress(AttributeError):  # nothing is in it
                    found.setdefault(name, raw.__get__(instance))
    return found


def _options(raw: Any) -> dict[str, Any] | None:
    """Return the options of our marker, wherever on a static or class method it stands; None without it."""
    for each in (raw, getattr(raw, "__func__", None)) if isinstance(raw, (staticmethod, classmethod)) else (raw,):
        with suppress(Exception):  # a proxy of something that is not there yet may raise anything
            options = getattr(each, _MARK, None)
            if isinstance(options, dict):
                return options
    return None


def _is_hook(name: str) -> bool:
    """Return whether a plugin may implement a hook of this name."""
    info = HOOKS.get(name)
    return info is not None and info.kind != "capability"


def _is_meant(name: str, value: Any) -> bool:
    """Return whether an attribute would be a hook if it were marked; a time that is kept under such a name is none.

    Under a name that is only like a hook's, a function is; a helper, a property or a class is not.
    """
    if _is_hook(name):
        return callable(value) or hasattr(type(value), "__get__")
    is_function = isinstance(value, (partial, partialmethod, staticmethod, classmethod, FunctionType))
    return is_function and any(_is_like(name, prefix) for prefix in _PROTECTIONS)


def _is_like(name: str, prefix: str) -> bool:
    topics = tuple(info.topic for info in HOOKS.values() if info.topic and info.name.startswith(prefix))
    return name.startswith(prefix) and _closest(name.removeprefix(prefix), topics, _ALIKE) is not None


def _unmarked(cls: type, attribute: str, raw: Any) -> str:
    """Describe what stands on a class in place of a hook, for the error text."""
    function = raw.__func__ if isinstance(raw, (staticmethod, classmethod)) else raw
    marks = getattr(function, "__dict__", None) or {}
    # pluggy keeps the options of each project's marker as `PROJECT_impl`.
    others = [key[:-5] for key, mark in marks.items() if key.endswith("_impl") and isinstance(mark, dict)]
    if _SPEC in marks:
        return f"{_kind(raw)} marked with @hookspec, which is the host's"
    if others:
        return f"{_kind(raw)} with the @hookimpl of {others[0]!r} and not that of ally_plugins"
    hidden = [base.__name__ for base in cls.__mro__ if _options(vars(base).get(attribute)) is not None]
    return f"{_kind(raw)} without @hookimpl{f', which hides the one of {hidden[0]!r}' if hidden else ''}"


def _not_called(name: str, attribute: str, found: str) -> PluginLoadError:
    text = f"plugin {name!r} has {attribute!r} as {found}, so that it would never be called; "
    if _is_hook(attribute) or "set on the instance" in found:
        way_out = "expected a method of its class with @hookimpl of ally_plugins, or another name for what is no hook"
    else:
        way_out = f"nor is it a hook; {_suggest(attribute)}"
    return PluginLoadError(text + way_out, plugin=name)


def _check_kind(name: str, attribute: str, raw: Any) -> None:
    """Refuse what is no function: how it would be called cannot be seen in the same way everywhere."""
    function = raw.__func__ if isinstance(raw, (staticmethod, classmethod)) else raw
    if isinstance(function, (partial, partialmethod)) or not inspect.isroutine(function):
        text = f"plugin {name!r} has {attribute!r} as {_kind(function)}; expected a function, def or async def"
        raise PluginLoadError(text, plugin=name)


def _kind(value: Any) -> str:
    word = type(value).__name__
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"


def _suggest(hook: str) -> str:
    short = {name.removeprefix("ally_"): name for name in HOOKS}  # what all have in common says nothing
    close = _closest(hook.removeprefix("ally_"), short)
    return f"did you mean {short[close]!r}?" if close else "see the reference of hooks"


def _check(name: str, hook: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    info = HOOKS.get(hook)
    if info is None:
        text = f"plugin {name!r} implements {hook!r}, which is no hook; {_suggest(hook)}"
        raise PluginLoadError(text, plugin=name)
    if info.kind == "capability":
        text = f"plugin {name!r} implements {hook!r}, which only a host implements; call it through the Ally handle"
        raise PluginLoadError(text, plugin=name)
    if options.get("wrapper") or options.get("hookwrapper"):
        text = f"plugin {name!r} asks for wrapper=True on {hook!r}; wrappers are not supported, use a gate or transform"
        raise PluginLoadError(text, plugin=name)
    # A call of it would run nothing: it returns a generator.
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


def _closest(word: str, valid: Mapping[str, Any] | tuple[str, ...], alike: float = 0.5) -> str | None:
    from difflib import get_close_matches  # only for what is wrong: a daemon must start fast

    return next(iter(get_close_matches(word, valid, 1, alike)), None)
