"""A host that agents start and stop by using it: runs that overlap in every way find it running and are heard out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic_ai import Agent

from ally_plugins import Ally, Host, hookimpl
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from ally_plugins.contract.values.events import AgentEnd, Event, ToolCallEnd

from .conversing import check_events
from .model_server import ModelServer, Reply

Models = Callable[..., Any]


class Late:
    """A plugin that starts and stops when the test says so."""

    may_start: asyncio.Event
    starting: asyncio.Event
    may_stop: asyncio.Event
    stopping: asyncio.Event
    lives = 0

    def __init__(self, ally: Ally) -> None:
        del ally

    @classmethod
    def reset(cls) -> None:
        cls.lives = 0
        cls.may_start, cls.starting, cls.may_stop, cls.stopping = (asyncio.Event() for _ in range(4))

    @hookimpl
    async def ally_start(self) -> None:
        type(self).lives += 1
        self.starting.set()
        await self.may_start.wait()

    @hookimpl
    async def ally_stop(self) -> None:
        self.stopping.set()
        await self.may_stop.wait()


class Idle:
    """An agent on a host that does not run, and what was heard of it."""

    def __init__(self, model: Any) -> None:
        Late.reset()
        self.host = Host(home=None, discover=False, plugins={"late": Late})
        self.events: list[Event] = []
        self.host.stream.subscribe("*", self.events.append)
        self.agent = Agent(model, capabilities=[AllyPlugins(self.host)])

    def run(self, prompt: str) -> asyncio.Task[Any]:
        return asyncio.create_task(self.agent.run(prompt, conversation_id=prompt))

    def ends(self) -> list[str | None]:
        return [event.interruption_cause for event in self.events if isinstance(event, AgentEnd)]


def test_runs_that_begin_while_the_host_starts_wait_for_it(go: Any, model_server: ModelServer, model: Models) -> None:
    model_server.add(Reply("for a", when="a"), Reply("for b", when="b"), Reply("for c", when="c"))

    async def main() -> None:
        idle = Idle(model())
        a = idle.run("a")
        await Late.starting.wait()
        b = idle.run("b")
        await asyncio.sleep(0)
        c = idle.run("c")
        Late.may_start.set()
        Late.may_stop.set()
        assert [(await task).output for task in (a, b, c)] == ["for a", "for b", "for c"]
        assert Late.lives == 1
        assert idle.host.loop is None
        assert idle.ends() == [None] * 3
        check_events(idle.events)

    go(main())


def test_a_run_that_begins_while_the_host_stops_has_it_started_again(
    go: Any, model_server: ModelServer, model: Models
) -> None:
    model_server.add(Reply("for a", when="a"), Reply("for b", when="b"))

    async def main() -> None:
        idle = Idle(model())
        Late.may_start.set()
        a = idle.run("a")
        await Late.stopping.wait()
        b = idle.run("b")
        await asyncio.sleep(0)
        assert not b.done()
        Late.may_stop.set()
        assert [(await task).output for task in (a, b)] == ["for a", "for b"]
        assert Late.lives == 2
        assert idle.ends() == [None] * 2
        check_events(idle.events)

    go(main())


def test_the_run_that_started_the_host_may_end_first(go: Any, model_server: ModelServer, model: Models) -> None:
    model_server.add(
        Reply("slow", when="a", fault="late"), Reply("quick", when="b"), Reply("slow", when="c", fault="late")
    )

    async def main() -> None:
        idle = Idle(model())
        Late.may_start.set()
        Late.may_stop.set()
        a = idle.run("a")
        await model_server.held()
        b = idle.run("b")
        assert (await b).output == "quick"
        assert idle.host.loop is not None
        c = idle.run("c")
        await model_server.held()
        a.cancel()
        await asyncio.wait([a])
        assert idle.host.loop is not None
        model_server.go_on()
        assert (await c).output == "slow"
        assert idle.host.loop is None
        assert Late.lives == 1
        check_events(idle.events)

    go(main())


def test_a_run_that_is_cancelled_while_the_host_starts_leaves_the_others_alone(
    go: Any, model_server: ModelServer, model: Models
) -> None:
    model_server.add(Reply("for b", when="b"), Reply("for c", when="c"))

    async def main() -> None:
        idle = Idle(model())
        a = idle.run("a")
        await Late.starting.wait()
        b = idle.run("b")
        await asyncio.sleep(0)
        a.cancel()
        await asyncio.wait([a])
        assert a.cancelled()
        Late.may_start.set()
        Late.may_stop.set()
        assert (await b).output == "for b"
        assert (await idle.run("c")).output == "for c"
        assert idle.host.loop is None
        check_events(idle.events)

    go(main())


def test_a_cancelled_run_is_heard_out_before_the_host_stops(go: Any, model_server: ModelServer, model: Models) -> None:
    model_server.add(Reply(tools=[{"name": "hang"}]))

    async def main() -> None:
        idle = Idle(model())
        Late.may_start.set()
        Late.may_stop.set()
        began = asyncio.Event()

        @idle.agent.tool_plain
        async def hang() -> str:
            """Never return."""
            began.set()
            await asyncio.Event().wait()
            return "never"

        run = idle.run("a")
        await began.wait()
        run.cancel()
        await asyncio.wait([run])
        assert idle.host.loop is None
        assert [event.error for event in idle.events if isinstance(event, ToolCallEnd)] == ["interrupted"]
        assert idle.ends() == ["CancelledError"]
        check_events(idle.events)

    go(main())


def test_a_host_that_cannot_start_is_an_error_of_the_run_and_of_nobody_else(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Any
) -> None:
    (tmp_path / "config.toml").write_text("[plugins\n")

    async def main() -> None:
        host = Host(home=tmp_path)
        agent = Agent(model(), capabilities=[AllyPlugins(host)])
        for _ in range(2):
            with pytest.raises(Exception, match=r"config\.toml"):
                await agent.run("hi")
            assert host.loop is None
        (tmp_path / "config.toml").unlink()
        model_server.add(Reply("mended"))
        assert (await agent.run("hi")).output == "mended"

    go(main())
