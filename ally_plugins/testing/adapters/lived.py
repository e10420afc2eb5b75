"""How runs live and end: interruptions, the host around them, and the tools that plugins bring meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ally_plugins.contract.tools.declared import tool as plugin_tool
from ally_plugins.contract.values.conversation import ToolCall
from ally_plugins.contract.values.errors import ToolCallError
from ally_plugins.contract.values.events import AgentEnd, ToolCallEnd, ToolCallStart
from ally_plugins.contract.values.verdicts import Deny
from ally_plugins.testing.checks import Broken
from ally_plugins.testing.observed import ObservedHost

from .check import AdapterCheck, needing
from .driver import AgentSetup
from .script import Answer, Asked, Script, Step, calls
from .stage import SESSION, Play, Stage, expect, plugin, tool

__all__ = ["CHECKS"]

_SOON: Final = 5.0
"""Seconds that a run has to end once it is stopped."""

_WORK: Final = calls(("c1", "work", "a"), ("c2", "work", "b"))


class _Held:
    """A tool that does not return until it is stopped; `began` says that all calls of it run."""

    def __init__(self, count: int) -> None:
        self.began = asyncio.Event()
        self.stopped: list[str] = []
        self._count = count

    async def run(self, text: str) -> str:
        self._count -= 1
        if not self._count:
            self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.stopped.append(text)
            raise
        return text


async def _cancelling_leaves_a_valid_history(stage: Stage) -> None:
    """Check that a cancelled run stops its tools, is told as such, and the conversation goes on."""
    held = _Held(2)
    async with stage.play(_WORK, "back", tools=[tool("work", held.run)]) as play:
        running = asyncio.ensure_future(play.run("go"))
        await _began(held, running)
        running.cancel()
        await _ended(running)
        await _expect_stopped(play, held)


async def _interrupting_leaves_a_valid_history(stage: Stage) -> None:
    """Check that the action `interrupt` stops a run and its tools, with the reason, and the conversation goes on."""
    held = _Held(2)
    async with stage.play(_WORK, "back", tools=[tool("work", held.run)]) as play:
        running = asyncio.ensure_future(play.run("go"))
        await _began(held, running)
        await play.session().request_action("interrupt", {"reason": "the person pressed a key"})
        await _ended(running)
        cause = play.told(AgentEnd)[-1].interruption_cause
        expect(cause == "the person pressed a key", f"AGENT_END has the cause {cause!r}")
        await _expect_stopped(play, held)


async def _began(held: _Held, running: asyncio.Future[str]) -> None:
    waiting = asyncio.ensure_future(held.began.wait())
    either: list[asyncio.Future[Any]] = [waiting, running]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    expect(held.began.is_set(), "two calls of one answer did not run at once, or the run ended before they did")


async def _ended(running: asyncio.Future[str]) -> None:
    await asyncio.wait([running], timeout=_SOON)  # how it ends is the framework's own
    if not running.done():
        running.cancel()
        raise Broken(f"the run still goes on {_SOON:g} s after it was stopped")


async def _expect_stopped(play: Play, held: _Held) -> None:
    await play.session().drained()
    expect(sorted(held.stopped) == ["a", "b"], f"of two tools that ran, {held.stopped} were stopped")
    started = sorted(str(each.call_id) for each in play.told(ToolCallStart))
    ended = sorted(str(each.call_id) for each in play.told(ToolCallEnd))
    expect(started == ended, f"the calls {started} began and {ended} ended")
    expect(not any(each.success for each in play.told(ToolCallEnd)), "a call that was stopped was told as a success")
    ends = play.told(AgentEnd)
    expect(len(ends) == 1 and ends[0].interrupted, "the end of a stopped turn was not told as an interruption")
    said = await play.run("go on")
    expect(said == "back", f"after the stopped turn the run returned {said!r}")
    expect("go" in play.asked[-1].text, "the conversation before was lost")
    play.expect_valid()


async def _a_host_that_runs_is_left_alone(stage: Stage) -> None:
    """Check that a host which runs already runs on after the run."""
    async with stage.play("one", "two") as play:
        await play.run()
        expect(play.host.loop is not None, "the adapter stopped a host that ran before")
        await play.run()


async def _a_host_that_does_not_run_is_started(stage: Stage) -> None:
    """Check that a host which does not run is started for a run, and stopped after it, each time."""
    lives: list[str] = []

    async def start(self: Any) -> None:  # noqa: ARG001
        lives.append("start")

    async def stop(self: Any) -> None:  # noqa: ARG001
        lives.append("stop")

    async def decide(self: Any, call: ToolCall) -> Deny:  # noqa: ARG001
        return Deny("not today")

    host = ObservedHost(home=None, plugins={"p": plugin(start=start, stop=stop, gate_tool_call=decide)})
    script = Script([calls(("c1", "work", "a")), "done", "again"])
    agent = stage.driver.make(AgentSetup(host=host, script=script, tools=(tool(),)))
    for count in (1, 2):
        await stage.driver.run(agent, "go", session_id=SESSION)
        expect(lives == ["start", "stop"] * count, f"after {count} runs the plugin's life was {lives}")
        expect(host.loop is None, "the host still runs after the run that started it")
    expect("not today" in (script.asked[1].result_of("c1") or ""), "the plugins of such a host were not asked")


class _Counter:
    """A plugin with tools: one from the start, one that it registers later."""

    def __init__(self, ally: Any) -> None:
        self.ally = ally

    @plugin_tool
    async def count(self, word: str) -> str:
        """Count the letters of a word."""
        if word == "none":
            raise ToolCallError("there is no word", tool="count")
        return f"{len(word)} letters"

    async def shout(self, word: str) -> str:
        """Say it in capital letters."""
        return word.upper()


def _called(call_id: str, name: str, **arguments: Any) -> Answer:
    return Answer(calls=(ToolCall(name, arguments, call_id),))


async def _plugins_tools_are_the_agents(stage: Stage) -> None:
    """Check that plugins' tools are offered with their schemas, run, and answer the model when they fail."""
    steps: list[Step] = [
        _called("c1", "count", word="hello"),
        _called("c2", "count", word="none"),
        _called("c3", "count", words=3),
        "done",
    ]
    async with stage.play(*steps, plugins={"counter": _Counter}, tools=[tool()]) as play:
        await play.run()
        offered = play.asked[0].tools
        expect("work" in offered, "the agent's own tool was lost")
        expect("count" in offered, f"the model was offered {sorted(offered)}; the plugin's 'count' is not there")
        properties = offered["count"].get("properties", {})
        expect("word" in properties, f"the plugin's tool was offered with the properties {properties}")
        expect(play.result_of("c1") == "5 letters", f"the model was told {play.result_of('c1')!r} of the plugin's tool")
        expect("there is no word" in play.result_of("c2"), "the model was not told why the plugin's tool failed")
        expect("word" in play.result_of("c3"), "the model was not told what was wrong with its arguments")
        ends = {each.call_id: each.success for each in play.told(ToolCallEnd)}
        expect(ends.get("c1") is True and not ends.get("c2"), f"the calls of the plugin's tool ended as {ends}")
        play.expect_valid()


async def _plugins_tools_are_gated(stage: Stage) -> None:
    """Check that a plugin's tool passes the gates of the others like any other."""

    async def decide(self: Any, call: ToolCall) -> Deny:  # noqa: ARG001
        return Deny(f"no {call.tool_name}")

    plugins = {"counter": _Counter, "guard": plugin(gate_tool_call=decide)}
    async with stage.play(_called("c1", "count", word="hello"), "done", plugins=plugins) as play:
        await play.run()
        expect("no count" in play.result_of("c1"), f"the model was told {play.result_of('c1')!r}; the call was denied")


async def _plugins_tools_come_and_go(stage: Stage) -> None:
    """Check that a tool which a plugin registers, or takes back, counts from the next step on."""
    async with stage.play(plugins={"counter": _Counter}) as play:

        async def work(text: str) -> str:
            counter = play.host.plugins["counter"].instance
            if text == "add":
                await counter.ally.register_tool(counter.shout, name="shout", description="Say it in capital letters.")
            else:
                await counter.ally.unregister("shout")
            return "worked"

        def names(asked: Asked) -> list[str]:
            return sorted(asked.tools.keys() & {"count", "shout", "work"})  # an agent may have tools of its own

        play.script.steps += [calls(("c1", "work", "add")), _called("c2", "shout", word="hello")]
        play.script.steps += [calls(("c3", "work", "take back")), "done"]
        play.agent = stage.driver.make(play.setup(tools=[tool("work", work)]))
        await play.run()
        first, second, _, fourth = (names(asked) for asked in play.asked)
        expect(first == ["count", "work"], f"at first the model was offered {first}")
        expect(second == ["count", "shout", "work"], f"after a plugin registered a tool, it was offered {second}")
        expect(play.result_of("c2") == "HELLO", f"the model was told {play.result_of('c2')!r} of the new tool")
        expect(fourth == ["count", "work"], f"after the plugin took it back, the model was offered {fourth}")


CHECKS: Final[dict[str, AdapterCheck]] = {
    "ends a cancelled run well": AdapterCheck(_cancelling_leaves_a_valid_history),
    "can be interrupted": needing(_interrupting_leaves_a_valid_history, "interruption"),
    "leaves a running host alone": AdapterCheck(_a_host_that_runs_is_left_alone),
    "starts and stops a host": AdapterCheck(_a_host_that_does_not_run_is_started),
    "offers plugins' tools": needing(_plugins_tools_are_the_agents, "plugin_tools"),
    "gates plugins' tools": needing(_plugins_tools_are_gated, "plugin_tools"),
    "lets plugins' tools come and go": needing(_plugins_tools_come_and_go, "plugin_tools"),
}
