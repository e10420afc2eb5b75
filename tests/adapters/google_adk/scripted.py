"""Agents of google-adk with offline models on real hosts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from google.adk.agents import LlmAgent
from google.adk.apps import App
from google.adk.runners import Runner
from google.adk.sessions import InMemorySessionService

from ally_plugins import Event, Host
from ally_plugins.adapters.google_adk import AllyPlugins
from ally_plugins.testing import Script
from ally_plugins.testing.agents.google_adk import ScriptedModel, said
from tests.kit.hosts import new_host

E = TypeVar("E", bound=Event)


class Bench:
    """A host with plugins, what it emitted, and runners on it; their sessions are `s` of the user `u`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.events: list[Any] = []
        self.sessions = InMemorySessionService()
        host.stream.subscribe("*", self.events.append)

    def plugins(self, **options: Any) -> AllyPlugins:
        return AllyPlugins(self.host, session_id=lambda session: session.id, **options)

    def agent(self, *steps: Any, name: str = "agent", **options: Any) -> LlmAgent:
        """Return an agent whose model follows these steps."""
        return LlmAgent(name=name, model=ScriptedModel(model="scripted", script=Script(steps)), **options)

    def runner(self, agent: Any, plugins: AllyPlugins | None = None, *others: Any) -> Runner:
        app = App(name="test", root_agent=agent, plugins=[*others, plugins or self.plugins()])
        return Runner(app=app, session_service=self.sessions)

    async def run(self, runner: Runner, message: Any = "go", *, session: str = "s", user: str = "u") -> list[Any]:
        """Run one turn by the runner itself, and return its events."""
        who: Any = {"user_id": user, "session_id": session}
        if await self.sessions.get_session(app_name="test", **who) is None:
            await self.sessions.create_session(app_name="test", **who)
        given = said(message) if isinstance(message, str) else message
        return [event async for event in runner.run_async(new_message=given, **who)]

    def of(self, *kinds: type[E], session: str | None = None) -> list[E]:
        """Return the events of these types, in order."""
        return [each for each in self.events if isinstance(each, kinds) and session in {None, each.session_id}]


@asynccontextmanager
async def live(plugins: Mapping[str, Any] | None = None, **options: Any) -> AsyncGenerator[Bench]:
    async with new_host(plugins, **options) as host:
        yield Bench(host)


def results(events: Iterable[Any]) -> dict[str, Any]:
    """Return what calls were answered with, the last of each."""
    responses = [each for event in events for each in event.get_function_responses()]
    return {each.id: each.response for each in responses}


def answer_of(events: Iterable[Any]) -> str:
    """Return what the agent said last."""
    texts = [part.text for event in events if event.content for part in event.content.parts if part.text]
    return texts[-1] if texts else ""
