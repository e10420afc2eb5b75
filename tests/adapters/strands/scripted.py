"""Agents of strands with offline models on real hosts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from strands import Agent

from ally_plugins import Event, Host
from ally_plugins.adapters.strands import AllyPlugins
from ally_plugins.testing import Script
from ally_plugins.testing.agents.strands import ScriptedModel, read
from tests.kit.hosts import new_host

E = TypeVar("E", bound=Event)


class Bench:
    """A host with plugins, what it emitted, and agents on it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.events: list[Any] = []
        host.stream.subscribe("*", self.events.append)

    def agent(
        self, *steps: Any, tools: Sequence[Any] = (), options: Mapping[str, Any] | None = None, **more: Any
    ) -> Agent:
        """Return an agent with plugins whose model follows these steps; `options` are the adapter's."""
        plugins = AllyPlugins(self.host, **(options or {}))
        given: dict[str, Any] = {"name": "agent", "callback_handler": None, "tools": list(tools), **more}
        return Agent(ScriptedModel(Script(steps)), plugins=[plugins, *given.pop("plugins", ())], **given)

    def of(self, *kinds: type[E], session: str | None = None) -> list[E]:
        """Return the events of these types, in order."""
        return [each for each in self.events if isinstance(each, kinds) and session in {None, each.session_id}]


@asynccontextmanager
async def live(plugins: Mapping[str, Any] | None = None, **options: Any) -> AsyncGenerator[Bench]:
    async with new_host(plugins, **options) as host:
        yield Bench(host)


def results(agent: Agent) -> dict[str, Any]:
    """Return the texts of the results in an agent's history, by call."""
    return {str(each.tool_call_id): each.content for each in read(agent.messages) if each.role == "tool"}
