"""The requests that commands may make of a running host through its control socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

__all__ = ["Controls"]


class Controls(Protocol):
    """Carries out the requests of commands; each answer is a JSON object. Called on the host's loop.

    The text of an `AllyError` that is raised goes to the operator. Requests are cancelled only when the host stops.
    """

    def refuse(self, method: str, processes: Sequence[int], agent: str = "") -> str:
        """Record that a plugin's process, or that of an `agent`, asked for a change, and return why it is refused.

        `processes` are those from it up to the guardian, or the agent's; none where it has ended already.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return who the host is and the state of its plugins."""
        ...

    async def costs(self) -> Mapping[str, Any]:
        """Record what the plugins have cost, and return it."""
        ...

    async def apply(self, plugin: str) -> Mapping[str, Any]:
        """Read the operator's configuration of a plugin again, and put it in force."""
        ...

    async def restart(self, plugin: str) -> Mapping[str, Any]:
        """Stop a plugin and start it again."""
        ...

    async def place(self, plugin: str) -> Mapping[str, Any]:
        """Have a plugin run where the operator's configuration says now."""
        ...

    async def release(self, plugin: str) -> Mapping[str, Any]:
        """Start a plugin again that is in quarantine."""
        ...

    def offers(self, plugin: str) -> Mapping[str, Any]:
        """Return the tools and actions that a plugin offers now."""
        ...

    def wire(self, plugin: str, after: int) -> Mapping[str, Any]:
        """Return what the host and a daemon have written to each other since a line, while somebody looks."""
        ...

    def tasks(self) -> Mapping[str, Any]:
        """Return the background tasks that run, and those that ended last."""
        ...

    async def cancel_task(self, task_id: str) -> Mapping[str, Any]:
        """Cancel a background task, and return its state."""
        ...

    async def allow(self, decision: str) -> Mapping[str, Any]:
        """Let a denied call of a coding agent run once, within ten minutes, and return what it is."""
        ...

    async def pause(self, agent: str, seconds: float) -> Mapping[str, Any]:
        """Have the gates of a coding agent's calls decide nothing for so long; with 0 they decide again."""
        ...
