"""Tools that hang, fail or die: the model is told, the turn can be stopped, and one that has ended is silent."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import RunContext  # noqa: TC002 - the framework reads it at run time
from pydantic_ai.exceptions import RunCancelled

from ally_plugins import Ally, tool
from ally_plugins.contract.values.events import AgentEnd, AgentStart, ToolCallEnd
from tests.kit.hosts import make_record

from .conversing import Conversation, agent_with, daemon, staged
from .model_server import PATIENCE, ModelServer, Reply

Models = Callable[..., Any]


class Hanging:
    """The agent's own tools of which some never return."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ended = asyncio.Event()
        self.thread_began = threading.Event()
        self.thread_may_end = threading.Event()
        self.thread_ended = threading.Event()

    async def hang(self) -> str:
        """Never return."""
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()
        return "never"

    def block(self) -> str:
        """Block a thread."""
        self.thread_began.set()
        assert self.thread_may_end.wait(PATIENCE)
        self.thread_ended.set()
        return "much too late"

    async def quick(self) -> str:
        """Return at once."""
        return "quickly done"


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments, "id": name}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("way", ["the person", "the plugin", "the task"])
def test_a_tool_that_never_returns_is_stopped_with_its_turn(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path, streamed: Any, way: str
) -> None:
    model_server.add(Reply("wait", tools=[call("quick"), call("hang")]), Reply("never mind, go on"))

    async def main() -> None:
        async with staged(tmp_path) as stage:
            hanging = Hanging()
            agent, plugins = agent_with(stage, model(), [hanging.hang, hanging.quick])
            talk = Conversation(agent, streamed=streamed)
            turn = asyncio.create_task(talk.say("hang"))
            await hanging.began.wait()
            await stage.witness.ally.add_message("user", "it hangs", session_id="c")
            if way == "the person":
                assert plugins.interrupt("c", "enough")
                assert not plugins.interrupt("another", "enough")
            elif way == "the plugin":
                await stage.witness.ally.request_action("interrupt", {"reason": "enough"}, session_id="c")
            else:
                turn.cancel()
            with pytest.raises(asyncio.CancelledError if way == "the task" else RunCancelled):
                await turn
            assert hanging.ended.is_set()
            ends = {end.tool_name: end for end in stage.of(ToolCallEnd)}
            assert ends["quick"].success
            assert ends["hang"].error == "interrupted"
            (end,) = stage.of(AgentEnd)
            assert end.interruption_cause == ("enough" if way != "the task" else "CancelledError")
            assert await talk.say("well?") == "never mind, go on"
            answers = model_server.requests[-1].answers
            assert answers["quick"] == "quickly done"
            assert "hang" in answers
            assert " ".join(model_server.requests[-1].texts).count("[plugin witness] it hangs") == 1

    go(main())


def test_a_tool_that_blocks_a_thread_is_left_behind_and_says_no_more(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    model_server.add(Reply(tools=[call("block")]), Reply("go on"))

    async def main() -> None:
        async with staged(tmp_path) as stage:
            hanging = Hanging()
            agent, plugins = agent_with(stage, model(), [hanging.block])
            talk = Conversation(agent)
            turn = asyncio.create_task(talk.say("block"))
            await asyncio.to_thread(hanging.thread_began.wait, PATIENCE)
            plugins.interrupt("c", "enough")
            try:
                with pytest.raises(RunCancelled):
                    await turn
            finally:
                hanging.thread_may_end.set()
            told = len(stage.events)
            assert await asyncio.to_thread(hanging.thread_ended.wait, PATIENCE)
            assert len(stage.events) == told
            assert await talk.say("well?") == "go on"
            assert "much too late" not in str(model_server.requests[-1].messages)

    go(main())


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_that_raises_ends_the_turn_and_the_model_is_told_in_the_next(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path, streamed: Any
) -> None:
    model_server.add(Reply(tools=[call("fail"), call("quick")]), Reply("go on"))

    async def fail() -> str:
        """Fail."""
        raise OSError("the disk is gone")

    async def main() -> None:
        async with staged(tmp_path) as stage:
            agent, _ = agent_with(stage, model(), [fail, Hanging().quick])
            talk = Conversation(agent, streamed=streamed)
            with pytest.raises(OSError, match="the disk is gone"):
                await talk.say("fail")
            (end,) = stage.of(AgentEnd)
            assert end.interruption_cause == "OSError: the disk is gone"
            (failed,) = [end for end in stage.of(ToolCallEnd) if end.tool_name == "fail"]
            assert failed.error == "OSError: the disk is gone"
            assert await talk.say("well?") == "go on"
            assert set(model_server.requests[-1].answers) == {"fail", "quick"}

    go(main())


class Slow:
    """A plugin with tools that do not return in time."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @tool(timeout=0.05)
    async def doze(self) -> str:
        """Sleep through everything."""
        await asyncio.Event().wait()
        return "never"

    @tool
    async def crash(self) -> str:
        """Fail."""
        raise RuntimeError("no such luck")


DYING = """
def call_tool(params):
    note(["called", os.getpid()])
    linger()
serve(hello={"hooks": [], "events": [], "tools": [{"name": "die"}]}, call_tool=call_tool)
"""


def test_what_goes_wrong_in_a_plugins_tool_is_told_the_model_which_goes_on(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    model_server.add(Reply(tools=[call("doze"), call("crash"), call("die")]), Reply("they all failed"), Reply("go on"))

    async def main() -> None:
        dying = make_record("dying", daemon=daemon(tmp_path, DYING, "dying"))
        async with staged(tmp_path, slow=Slow, dying=(dying.daemon, dying)) as stage:
            agent, _ = agent_with(stage, model())
            talk = Conversation(agent)
            turn = asyncio.create_task(talk.say("try them"))
            await stage.until(stage.notes, "the daemon's tool runs")
            os.kill(stage.notes()[0][1], signal.SIGKILL)
            assert await turn == "they all failed"
            assert set(model_server.requests[0].tools) == {"doze", "crash", "die"}
            answers = model_server.requests[1].answers
            assert "did not return within 0.05 s" in answers["doze"] or "0.05 s" in answers["doze"]
            assert "no such luck" in answers["crash"]
            assert "killed by SIGKILL" in answers["die"]
            assert [end.success for end in stage.of(ToolCallEnd)] == [False] * 3
            assert await talk.say("well?") == "go on"

    go(main())


@pytest.mark.parametrize("way", ["the person", "the task"])
def test_a_sub_agent_is_stopped_with_the_agent_that_waits_for_it(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path, way: str
) -> None:
    model_server.add(
        Reply(tools=[call("delegate", task="hang please")], when="start"),
        Reply(tools=[call("hang")], when="hang please"),
        Reply("go on", when="well?"),
    )

    async def main() -> None:
        async with staged(tmp_path) as stage:
            hanging = Hanging()
            helper, _ = agent_with(stage, model(), [hanging.hang], name="helper")
            agent, plugins = agent_with(stage, model(), name="main")

            @agent.tool
            async def delegate(ctx: RunContext[None], task: str) -> str:
                """Let another agent do it."""
                return (await helper.run(task, usage=ctx.usage)).output

            talk = Conversation(agent)
            turn = asyncio.create_task(talk.say("start"))
            await hanging.began.wait()
            if way == "the person":
                plugins.interrupt("c", "enough")
            else:
                turn.cancel()
            with pytest.raises(asyncio.CancelledError if way == "the task" else RunCancelled):
                await turn
            assert hanging.ended.is_set()
            assert [start.agent_name for start in stage.of(AgentStart)] == ["main", "helper"]
            ends = stage.of(AgentEnd)
            assert [(end.agent_name, end.interrupted) for end in ends] == [("helper", True), ("main", True)]
            assert {end.tool_name: end.error for end in stage.of(ToolCallEnd)} == {
                "hang": "interrupted",
                "delegate": "interrupted",
            }
            assert await talk.say("well?") == "go on"

    go(main())


def test_a_host_that_stops_amid_a_tool_lets_the_turn_end(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    model_server.add(Reply(tools=[call("slow")]), Reply("done without plugins"))

    async def main() -> None:
        async with staged(tmp_path) as stage:
            began, may_end = asyncio.Event(), asyncio.Event()

            async def slow() -> str:
                """Take as long as it may."""
                began.set()
                await may_end.wait()
                return "at last"

            agent, _ = agent_with(stage, model(), [slow])
            turn = asyncio.create_task(Conversation(agent).say("start"))
            await began.wait()
            await stage.host.stop()
            may_end.set()
            done, _ = await asyncio.wait([turn], timeout=PATIENCE)
            assert done == {turn}
            # Nobody can look at the output any more, so the model does not see it.
            assert turn.exception() is None
            assert "the host of the plugins has stopped" in model_server.requests[-1].answers["slow"]
            stage.events.clear()  # no session, no ends

    go(main())
