"""The lifecycle of runs: interruptions, starting and stopping the host, tools that plugins add meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ally_plugins.contract.tools.declared import tool as plugin_tool
from ally_plugins.contract.values.conversation import ToolCall
from ally_plugins.contract.values.errors import ToolCallError
from ally_plugins.contract.values.events import ToolCallEnd
from ally_plugins.contract.values.verdicts import Deny
from ally_plugins.testing.checks import Broken
from ally_plugins.testing.observed import ObservedHost

from .check import Checks
from .driver import AgentSetup
from .script import Answer, Asked, Script, calls
from .stage import SESSION, WORK, Play, Stage, expect, plugin, tool

__all__ = ["CHECKS"]

CHECKS: Final = Checks()

_SOON: Final = 5.0
"""Seconds that a run has to end once it is stopped."""


class _BlockedTool:
    """A tool that does not return until it is cancelled; `began` is set once `count` calls of it run."""

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


@CHECKS.add("ends a cancelled run well")
@CHECKS.add("can be interrupted", "interruption", reason="the person pressed a key")
async def _a_stopped_run_leaves_a_valid_history(stage: Stage, *, reason: str | None = None) -> None:
    """Check that a run which is cancelled or interrupted stops its tools, is reported as such, and one can go on."""
    blocked, made = _BlockedTool(2), calls(("c1", "work", "a"), ("c2", "work", "b"))
    async with stage.play(made, "back", tools=[tool("work", blocked.run)]) as play:
        running = asyncio.ensure_future(play.run("go"))
        await _wait_until_began(blocked, running)
        if reason is None:
            running.cancel()
        else:
            await play.session().request_action("interrupt", {"reason": reason})
        await asyncio.wait([running], timeout=_SOON)  # how it ends is the framework's own
        if not running.done():
            running.cancel()
            raise Broken(f"the run still goes on {_SOON:g} s after it was stopped")
        await play.session().drained()
        cause = play.expect_interruption()
        expect(reason in {None, cause}, f"AGENT_END has the cause {cause!r}; expected {reason!r}")
        expect(sorted(blocked.stopped) == ["a", "b"], f"of two tools that ran, {blocked.stopped} were stopped")
        play.expect_calls("c1", "c2")
        is_success = any(each.success for each in play.events_of(ToolCallEnd))
        expect(not is_success, "a call that was stopped was reported as a success")
        answer = await play.run("go on")
        expect(answer == "back", f"after the stopped turn the run returned {answer!r}")
        expect("go" in play.requests[-1].text, "the conversation before was lost")
        play.expect_valid()


async def _wait_until_began(blocked: _BlockedTool, running: asyncio.Future[str]) -> None:
    waiting = asyncio.ensure_future(blocked.began.wait())
    either: list[asyncio.Future[Any]] = [waiting, running]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    # The run may have ended instead: then this would wait for ever.
    waiting.cancel()
    expect(blocked.began.is_set(), "two calls of one answer did not run at once, or the run ended before they did")


@CHECKS.add("leaves a running host alone")
async def _a_host_that_runs_is_left_alone(stage: Stage) -> None:
    """Check that a host which runs already runs on after the run."""
    async with stage.play("one", "two") as play:
        await play.run()
        expect(play.host.loop is not None, "the adapter stopped a host that ran before")
        await play.run()


@CHECKS.add("starts and stops a host")
async def _a_host_that_does_not_run_is_started(stage: Stage) -> None:
    """Check that a host which does not run is started for a run, and stopped after it, each time."""
    states: list[str] = []

    async def start(self: Any) -> None:  # noqa: ARG001
        states.append("start")

    async def stop(self: Any) -> None:  # noqa: ARG001
        states.append("stop")

    async def decide(self: Any, call: ToolCall) -> Deny:  # noqa: ARG001
        return Deny("not today")

    # Not by `Stage.play`, which runs the host around the check.
    host = ObservedHost(home=None, plugins={"p": plugin(start=start, stop=stop, gate_tool_call=decide)})
    script = Script([WORK, "done", "again"])
    agent = stage.driver.make(AgentSetup(host=host, script=script, tools=(tool(),)))
    for count in (1, 2):
        await stage.driver.run(agent, "go", session_id=SESSION)
        expect(states == ["start", "stop"] * count, f"after {count} runs the plugin's life was {states}")
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


def _call(call_id: str, name: str, **arguments: Any) -> Answer:
    return Answer(calls=(ToolCall(name, arguments, call_id),))


@CHECKS.add("offers plugins' tools", "plugin_tools")
async def _plugins_tools_are_the_agents(stage: Stage) -> None:
    """Check that plugins' tools are offered with their schemas, run, and answer the model when they fail."""
    made: list[dict[str, Any]] = [{"word": "hello"}, {"word": "none"}, {"words": 3}]
    steps = [_call(f"c{number}", "count", **arguments) for number, arguments in enumerate(made, 1)]
    async with stage.play(*steps, "done", plugins={"counter": _Counter}, tools=[tool()]) as play:
        await play.run()
        offered = play.requests[0].tools
        expect("work" in offered, "the agent's own tool was lost")
        expect("count" in offered, f"the model was offered {sorted(offered)}; the plugin's 'count' is not there")
        properties = offered["count"].get("properties", {})
        expect("word" in properties, f"the plugin's tool was offered with the properties {properties}")
        play.expect_result("c1", "5 letters", is_all=True)
        play.expect_result("c2", "there is no word")
        play.expect_result("c3", "word")
        ends = {each.call_id: each.success for each in play.events_of(ToolCallEnd)}
        expect(ends.get("c1") is True and not ends.get("c2"), f"the calls of the plugin's tool ended as {ends}")
        play.expect_valid()


@CHECKS.add("gates plugins' tools", "plugin_tools")
async def _plugins_tools_are_gated(stage: Stage) -> None:
    """Check that a plugin's tool passes the gates of the others like any other."""

    async def decide(self: Any, call: ToolCall) -> Deny:  # noqa: ARG001
        return Deny(f"no {call.tool_name}")

    plugins = {"counter": _Counter, "guard": plugin(gate_tool_call=decide)}
    async with stage.play(_call("c1", "count", word="hello"), "done", plugins=plugins) as play:
        await play.run()
        play.expect_result("c1", "no count")


@CHECKS.add("lets plugins' tools come and go", "plugin_tools")
async def _plugins_tools_come_and_go(stage: Stage) -> None:
    """Check that a tool which a plugin registers, or takes back, counts from the next step on."""

    async def work(play: Play, text: str) -> str:
        counter = play.host.plugins["counter"].instance
        if text == "add":
            await counter.ally.register_tool(counter.shout, name="shout", description="Say it in capital letters.")
        else:
            await counter.ally.unregister("shout")
        return "worked"

    def names(request: Asked) -> list[str]:
        return sorted(request.tools.keys() & {"count", "shout", "work"})  # an agent may have tools of its own

    steps = (calls(("c1", "work", "add")), _call("c2", "shout", word="hello"), calls(("c3", "work", "take back")))
    async with stage.play(*steps, "done", plugins={"counter": _Counter}, work=work) as play:
        await play.run()
        first, second, _, fourth = (names(request) for request in play.requests)
        expect(first == ["count", "work"], f"at first the model was offered {first}")
        expect(second == ["count", "shout", "work"], f"after a plugin registered a tool, it was offered {second}")
        play.expect_result("c2", "HELLO", is_all=True)
        expect(fourth == ["count", "work"], f"after the plugin took it back, the model was offered {fourth}")
