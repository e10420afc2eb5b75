"""What a plugin was granted and a host does not serve, or not for each tool: what is said of it, and the refusals.

What a host serves is a `contract.serves.Serves`. A gate that nobody asks is no guard, so a mandatory plugin that needs
one is refused; an event that never comes passes nothing by, and is a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from .permissions import GrantSet

__all__ = ["ungated_refusal", "unserved_event", "unserved_grants", "unserved_refusal", "unserved_warning"]


def unserved_grants(granted: GrantSet, requested: GrantSet, missing: Collection[str]) -> tuple[str, ...]:
    """Return the gates and transforms of `missing` that a plugin was granted by name, sorted, as grants write them.

    Who was granted everything was granted none by name, but what the plugin asked for.
    """
    if not missing:
        return ()
    named = requested.intersection(granted) if granted.is_everything else granted
    return tuple(
        name
        for name in sorted(missing)
        if (name.startswith("gate:") and named.gates(name.removeprefix("gate:")))
        or (name.startswith("transform:") and named.transforms(name.removeprefix("transform:")))
    )


def unserved_event(event_type: str) -> str:
    """Return what is said of a subscription to an event that never comes."""
    return f"it subscribes to {event_type}, which this app's host never emits"


def unserved_warning(plugin: str, unserved: Iterable[str], *, is_mandatory: bool) -> str:
    """Return what is said of gates and transforms that were granted and never run."""
    if is_mandatory:
        return f"no conversation begins: {unserved_refusal(plugin, unserved)}"
    return f"it was granted {', '.join(unserved)}, which this app's host does not serve: nobody asks it there"


def unserved_refusal(plugin: str, unserved: Iterable[str]) -> str:
    """Return why a host, or a conversation of it, does not begin, with the ways out."""
    names = tuple(unserved)
    return (
        f"the mandatory plugin {plugin!r} was granted {', '.join(names)}, which this host does not serve; use "
        f"an adapter that does, or: ally-plugins revoke {plugin} {' '.join(names)}, or take 'mandatory' out of "
        f"[plugins.{plugin}] in config.toml"
    )


def ungated_refusal(plugin: str, agent: str, tools: Iterable[str]) -> str:
    """Return why a model is not asked for an agent with tools that its provider runs, with the way out."""
    names = tuple(tools)
    accepted = ", ".join(f'"{name}"' for name in names)
    return (
        f"the agent {agent!r} has {', '.join(map(repr, names))}, which the model's provider runs, and no gate sees it; "
        f"the mandatory plugin {plugin!r} gates tool calls. Take it from the agent, or accept that it runs past the "
        f"gate: ungated_tools = [{accepted}] in [plugins.{plugin}] of config.toml"
    )
