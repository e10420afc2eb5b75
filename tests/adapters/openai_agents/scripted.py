"""Agents of the OpenAI Agents SDK with its own offline model on real hosts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from agents import Agent

from ally_plugins import Event, Host, ToolCallEnd, ToolCallStart
from ally_plugins.adapters.openai_agents import AllyPlugins
from ally_plugins.testing import Asked, Script
from ally_plugins.testing.agents.openai_agents import FollowingModel
from tests.kit.hosts import new_host

if TYPE_CHECKING:
    from ally_plugins.testing.adapters.script import Step

E = TypeVar("E", bound=Event)


class Bench:
    """A host with plugins, the events that it emitted, and agents that follow scripts."""

    def __init__(self, host: Host, **options: Any) -> None:
        self.host = host
        self.plugins = AllyPlugins(host, **options)
        self.events: list[Any] = []
        host.stream.subscribe("*", self.events.append)

    def agent(self, *steps: Step, name: str = "agent", **options: Any) -> Agent[Any]:
        """Return an agent whose model follows these steps; `agent.model.script.asked` is what it was asked."""
        return Agent(name=name, model=FollowingModel(Script(steps)), **options)

    def of(self, *kinds: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kinds)]

    def ends(self) -> dict[str | None, str | None]:
        """Return the error of each call that has ended, by its id."""
        assert len({end.call_id for end in self.of(ToolCallEnd)}) == len(self.of(ToolCallEnd)), "a call ended twice"
        return {end.call_id: end.error for end in self.of(ToolCallEnd)}

    def starts(self) -> list[str | None]:
        return [start.call_id for start in self.of(ToolCallStart)]


@asynccontextmanager
async def live(plugins: Mapping[str, Any] | None = None, **options: Any) -> AsyncGenerator[Bench]:
    """Run a host with these plugins; `options` are the adapter's."""
    async with new_host(plugins) as host:
        yield Bench(host, **options)


@contextmanager
def loop_of_run_sync() -> Generator[None]:
    """Close the loop that the framework's `run_sync` makes for a thread, and leaves open, at the end of the block."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def requests(agent: Agent[Any]) -> list[Asked]:
    """Return what the agent's model was asked."""
    assert isinstance(agent.model, FollowingModel)
    return agent.model.script.asked


def texts(request: Asked) -> list[str]:
    """Return what a model was asked, without the system prompt, each with its role."""
    return [f"{each.role}: {each.content}" for each in request.messages if each.role != "system"]
