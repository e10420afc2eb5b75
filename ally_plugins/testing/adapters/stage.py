"""The surroundings of a check: a host with small plugins, an agent with a scripted model, events and requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from attrs import Factory, define, frozen

from ally_plugins.contract.markers import hookimpl
from ally_plugins.contract.values.events import AgentEnd, Event, ToolCallEnd, ToolCallStart
from ally_plugins.policy.model_input import find_history_problem
from ally_plugins.testing.checks import Broken
from ally_plugins.testing.observed import ObservedHost

from .driver import AdapterDriver, AgentSetup, HostTool
from .script import Asked, Script, Step, calls

if TYPE_CHECKING:
    from ally_plugins.contract.handle import Ally
    from ally_plugins.contract.values.conversation import Message
    from ally_plugins.host.sessions.session import Session

__all__ = ["SESSION", "WORK", "Play", "Stage", "Work", "expect", "expect_once", "plugin", "tool"]

E = TypeVar("E", bound=Event)

SESSION: Final = "conversation-1"
"""The framework's id of the conversation that most checks are about."""

WORK: Final = calls(("c1", "work", "a"))
"""The model's call of the tool `work`, with which most checks begin."""

Work: TypeAlias = "Callable[[Play, str], Awaitable[str]]"
"""A tool of a check: gets the play, to act as a plugin meanwhile, and its argument `text`."""


@frozen
class Stage:
    """What a check is given: the driver of the adapter."""

    driver: AdapterDriver

    @asynccontextmanager
    async def play(
        self,
        *steps: Step,
        plugins: Mapping[str, Any] | None = None,
        tools: Sequence[HostTool] = (),
        work: Work | None = None,
        **setup: Any,
    ) -> AsyncGenerator[Play]:
        """Run a host with these plugins, and make an agent whose model follows these steps.

        `work` is one more tool, of that name.
        """
        host = ObservedHost(plugins=plugins or {}, home=None)
        play = Play(self.driver, host, Script(steps))
        host.stream.subscribe("*", play.events.append)
        more = () if work is None else (tool("work", partial(work, play)),)
        async with host:
            play.agent = self.driver.make(play.setup(tools=(*tools, *more), **setup))
            yield play


@define(eq=False)
class Play:
    """One host and one agent of it; it lives as long as the check."""

    driver: AdapterDriver
    host: ObservedHost
    script: Script
    agent: Any = None
    events: list[Event] = Factory(list)

    @property
    def requests(self) -> list[Asked]:
        """The requests to the model, in order."""
        return self.script.asked

    def setup(self, *, steps: Sequence[Step] | None = None, tools: Sequence[HostTool] = (), **more: Any) -> AgentSetup:
        """Return the setup of another agent on the same host; without `steps`, with the same script."""
        script = self.script if steps is None else Script(steps, self.script.window)
        return AgentSetup(host=self.host, script=script, tools=tuple(tools), **more)

    async def run(self, prompt: str | None = "hello", *, session_id: str = SESSION, is_streamed: bool = False) -> str:
        """Run a turn, and wait until every plugin has received its events. Raises what the run raises.

        Cancelling cancels the run, and still waits for the plugins.
        """
        try:
            return await self.driver.run(self.agent, prompt, session_id=session_id, is_streamed=is_streamed)
        finally:
            # Also after a failure, whose events are what some checks look at.
            await self.session(session_id).drained()

    def session(self, session_id: str = SESSION) -> Session:
        """Return the host's session of a conversation."""
        return self.host.session(session_id)

    def history(self, session_id: str = SESSION) -> Sequence[Message]:
        """Return the framework's history."""
        return self.driver.history(self.agent, session_id)

    @property
    def kept(self) -> str:
        """All texts of the framework's history, to search in."""
        return "\n".join(message.content for message in self.history())

    def events_of(self, *kinds: type[E], session_id: str = SESSION) -> list[E]:
        """Return the events of these types in a session, in order."""
        return [each for each in self.events if isinstance(each, kinds) and each.session_id == session_id]

    def result_of(self, call_id: str) -> str:
        """Return the last result of a call that the model was sent. Raises Broken when it was sent none."""
        for request in reversed(self.requests):
            if (result := request.result_of(call_id)) is not None:
                return result
        raise Broken(f"the model was told nothing of its call {call_id!r}")

    def expect_result(self, call_id: str, text: str, *, is_all: bool = False) -> None:
        """Expect that the call's last result for the model contains `text`, or is it if `is_all`."""
        found = self.result_of(call_id)
        is_so = found == text if is_all else bool(found) and text in found
        expect(is_so, f"the model was told {found!r} of its call {call_id!r}; expected {text or 'a reason'!r}")

    def expect_calls(self, *call_ids: str) -> None:
        """Expect that these calls began and ended, once each, and no others."""
        for kind in (ToolCallStart, ToolCallEnd):
            found = sorted(str(event.call_id) for event in self.events_of(kind))
            expect(
                found == [*call_ids],
                f"{kind.TYPE} was emitted for the calls {found}; expected {[*call_ids]}, once each",
            )

    def expect_interruption(self) -> str | None:
        """Expect that the only turn so far ended as interrupted, and return the cause."""
        ends = self.events_of(AgentEnd)
        expect(len(ends) == 1 and ends[0].interrupted, "the end of the turn was not reported as an interruption")
        return ends[0].interruption_cause

    def expect_valid(self, session_id: str = SESSION) -> None:
        """Expect that the history, and all that the model was asked, is a conversation that models accept."""
        for number, request in enumerate(self.requests, 1):
            problem = find_history_problem(request.messages)
            expect(problem is None, f"request {number} was no valid conversation: {problem}")
        problem = find_history_problem(self.history(session_id))
        expect(problem is None, f"the history is no valid conversation: {problem}")


def expect(is_so: object, otherwise: str) -> None:
    """Raise Broken unless it is so; `otherwise` says what was found, and what was expected."""
    if not is_so:
        raise Broken(otherwise)


def expect_once(needle: str, text: str, where: str) -> None:
    """Expect that `needle` occurs once in a text; `where` names the text."""
    count = text.count(needle)
    expect(count == 1, f"in {where} {needle!r} stands {count} times; expected once")


def plugin(**hooks: Callable[..., Any]) -> type[Any]:
    """Return a plugin class with these hooks, named without their `ally_`; each takes `self`, which has `ally`."""

    class Plugin:
        def __init__(self, ally: Ally) -> None:
            self.ally = ally

    for name, function in hooks.items():
        # `specname`, since the function has a name of its own in the check.
        setattr(Plugin, f"ally_{name}", hookimpl(function, specname=f"ally_{name}"))
    return Plugin


def tool(name: str = "work", result: str | Callable[[str], Any] = "worked", **options: Any) -> HostTool:
    """Return a tool that returns `result`, or what `result` makes of its text."""

    async def run(text: str) -> str:
        if not callable(result):
            return result
        value = result(text)
        return str(await value if asyncio.iscoroutine(value) else value)

    return HostTool(name=name, run=run, **options)
