"""The tools and actions that a plugin offers in a running host, as `info` shows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ally_plugins.host.bus.contributions import Contribution

__all__ = ["describe_offers"]

LONGEST_TEXT: Final = 200
"""Characters of a description in an answer; a plugin offers a hundred things at most."""


def describe_offers(offered: Iterable[Contribution], plugin: str) -> dict[str, Any]:
    """Return what a plugin offers; `agent` says whether the agent may call it, a tool always."""
    own = [each for each in offered if each.plugin.name == plugin]
    return {"plugin": plugin, "offers": [_described(each) for each in own]}


def _described(each: Contribution) -> dict[str, Any]:
    spec = each.spec
    return {
        "kind": spec.kind,
        "name": spec.name,
        "agent": each.is_for_agents,
        "description": spec.description[:LONGEST_TEXT],
    }
