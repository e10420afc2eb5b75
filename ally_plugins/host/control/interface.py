"""What commands may ask of a running host, through its control socket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Controls"]


class Controls(Protocol):
    """Answers the requests of commands; each answer is a JSON object. Called on the host's loop.

    An `AllyError` is an answer too: its text goes to the operator. Cancelling means that the host stops.
    """

    def describe(self) -> Mapping[str, Any]:
        """Return who the host is and the state of its plugins."""
        ...

    async def apply(self, plugin: str) -> Mapping[str, Any]:
        """Read anew what the operator has settled for a plugin, and let it take effect."""
        ...

    async def restart(self, plugin: str) -> Mapping[str, Any]:
        """Stop a plugin and start it again."""
        ...

    async def release(self, plugin: str) -> Mapping[str, Any]:
        """Start a plugin again that is in quarantine."""
        ...

    def offers(self, plugin: str) -> Mapping[str, Any]:
        """Return the tools and actions that a plugin offers now."""
        ...

    def tasks(self) -> Mapping[str, Any]:
        """Return the background tasks that run, and those that ended last."""
        ...

    async def cancel_task(self, task_id: str) -> Mapping[str, Any]:
        """Ask a background task to end, and return what became of it."""
        ...
