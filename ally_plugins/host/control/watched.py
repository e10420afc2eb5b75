"""What a command may see of the lines between the host and the process of a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ally_plugins.contract.values.errors import NotFoundRefused, UnavailableRefused

if TYPE_CHECKING:
    from ally_plugins.host.plugins.plugin_set import PluginMember
    from ally_plugins.journal.journal import Journal

__all__ = ["watched_wire"]


def watched_wire(member: PluginMember | None, name: str, after: int, journal: Journal) -> dict[str, Any]:
    """Return the lines of a plugin's processes after that of a number; lines are kept from the first call on.

    Raises NotFoundRefused when this host does not have it, UnavailableRefused where there is nothing to show.
    """
    if member is None:
        raise NotFoundRefused(f"this host has no plugin {name!r}")
    plugin, daemon = member.plugin, member.record.daemon
    if plugin.supervisor is None:
        raise UnavailableRefused(f"{name!r} runs in the host's own process, and nothing is sent to it", plugin=name)
    if daemon is not None and daemon.transport == "socket":
        text = f"{name!r} is sent each message over a connection of its own, which is not watched"
        raise UnavailableRefused(text, plugin=name)
    if not journal.keeps_contents:
        text = 'this host shows no contents, since it keeps none (journal.content = "metadata")'
        raise UnavailableRefused(text, plugin=name)
    return plugin.wire.look(after, plugin.secrets)
