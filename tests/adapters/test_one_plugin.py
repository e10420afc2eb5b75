"""One plugin, written once, in every framework: loop-guard steers an agent that repeats itself, then stops its call."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins import Ally, Decision, Host, ToolCall, ToolCallEnd, ToolResult, tool
from ally_plugins.testing import AgentSetup, Answer, Script
from ally_plugins_contrib.loop_guard import LoopGuard
from tests.kit.hosts import make_record
from tests.kit.waiting import go

if TYPE_CHECKING:
    from ally_plugins import Event
    from ally_plugins.testing import AdapterDriver

sys.path.append(str(Path(__file__).parents[2] / "examples" / "pydantic_ai_agent"))

DRIVERS = {
    "google.adk": "tests.adapters.google_adk.scripted:GoogleADKDriver",
    "langchain": "tests.adapters.langchain.driver:LangChainDriver",
    "agents": "tests.adapters.openai_agents.scripted:OpenAIAgentsDriver",
    "pydantic_ai": "driver:PydanticAIDriver",
    "strands": "tests.adapters.strands.scripted:StrandsDriver",
}
"""By what is imported of a framework: all five. In one environment those run that are installed there."""

FAILING = {"text": "again"}


def _driver(framework: str) -> AdapterDriver:
    root = framework.partition(".")[0]
    if importlib.util.find_spec(root) is None or importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed here; `nox -s adapters` has it")
    module, _, name = DRIVERS[framework].partition(":")
    driver: AdapterDriver = getattr(importlib.import_module(module), name)()
    return driver


@pytest.mark.smoke
@pytest.mark.parametrize("framework", DRIVERS)
def test_loop_guard_steers_and_then_stops_an_agent_of_any_framework(framework: str) -> None:
    driver = _driver(framework)
    ran: list[str] = []
    events: list[Event] = []

    class Disk:
        """A plugin's tool, whose failure every framework lets the model read; those of its own end a run in some."""

        def __init__(self, ally: Ally) -> None:
            self.ally = ally

        @tool
        async def work(self, text: str) -> ToolResult:
            """Work on the disk."""
            await host_of[0].session("conversation-1").drained()  # so that loop-guard's word is there at the same step
            ran.append(text)
            return ToolResult(success=False, error="the disk is not there")

    host_of: list[Host] = []
    calls = [Answer(calls=(ToolCall("work", FAILING, f"c{number}"),)) for number in range(1, 8)]
    script = Script([*calls, Answer(text="I give up")])

    async def main() -> str:
        plugins = {"loop-guard": (LoopGuard, make_record("loop-guard")), "disk": (Disk, make_record("disk"))}
        async with Host(plugins=plugins, home=None) as host:
            host_of.append(host)
            host.stream.subscribe("*", events.append)
            agent = driver.make(AgentSetup(host=host, script=script))
            answer = await driver.run(agent, "go on until it works", session_id="conversation-1")
            await host.session("conversation-1").drained()
            return answer

    assert go(main()) == "I give up"
    assert len(ran) == 5, "after five failures the call no longer runs"
    steered = [asked for asked in script.asked if "[plugin loop-guard]" in asked.text]
    assert steered, "the model was never steered"
    assert "has failed 3 times" in steered[0].text
    assert script.asked[-1].text.count("[plugin loop-guard]") == 1, "it is said once"
    denied = script.asked[-1].result_of("c7")
    assert denied is not None
    assert "has failed 5 times with the same arguments" in denied
    ends = [event for event in events if isinstance(event, ToolCallEnd)]
    assert [(end.call_id, end.denied) for end in ends] == [(f"c{number}", number > 5) for number in range(1, 8)]
    verdicts = [event.verdict for event in events if isinstance(event, Decision)]
    assert verdicts == ["allow"] * 5 + ["deny"] * 2
