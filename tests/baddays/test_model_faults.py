"""The model server fails in every way it can: the turn ends in words, what began has an end, the next turn works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic_ai.exceptions import AgentRunError, RunCancelled

from ally_plugins.contract.values.events import AgentEnd, ModelResponse, UserMessage
from ally_plugins.contract.values.frozen import FrozenDict
from tests.kit.hosts import make_record

from .conversing import GATE_KEEPER, Conversation, agent_with, daemon, plugin_texts, staged
from .model_server import ModelServer, Reply

Models = Callable[..., Any]

LONG = "one two three four five six seven eight nine ten"
PAGE = "<html><body>Sign in to the hotel's network</body></html>"
CALL = ({"name": "note", "arguments": {"text": "a text that is long enough to be cut in the middle"}},)


class Day(NamedTuple):
    """A bad day: what the server answers, or None when it is down, and what AGENT_END says of it."""

    reply: Reply | None
    cause: str
    settings: Mapping[str, Any] = FrozenDict()


DAYS = {
    "down": Day(None, "ModelConnectionError: Connection error"),
    "broken": Day(Reply(status=500, body='{"error": {"message": "out of memory"}}'), "out of memory"),
    "busy": Day(Reply(status=429, body='{"error": {"message": "too fast"}}'), "too fast"),
    "locked": Day(Reply(status=401, body='{"error": {"message": "wrong key"}}'), "wrong key"),
    "slow": Day(Reply("never", fault="late"), "ModelTimeoutError", {"timeout": 0.1}),
    "stalled": Day(Reply(LONG, fault="stall", after=2), "ModelTimeoutError", {"timeout": 0.1}),
    "reset": Day(Reply(LONG, fault="reset", after=2), "ModelConnectionError"),
    "closed": Day(Reply(LONG, fault="close", after=2), "ModelConnectionError"),
    "garbage": Day(Reply(LONG, fault="garbage", after=2), "ModelAPIError: Failed to decode"),
    "nonsense": Day(Reply(LONG, fault="nonsense", after=2), "AttributeError: 'str' object"),
    "truncated": Day(Reply(LONG, fault="truncate", after=2), "ModelAPIError: Failed to decode"),
    "a call is cut": Day(Reply(tools=CALL, fault="truncate", after=3), "ModelAPIError: Failed to decode"),
    "a call is reset": Day(Reply(tools=CALL, fault="reset", after=3), "ModelConnectionError"),
    "a page": Day(Reply(body=PAGE, content_type="text/html"), "UnexpectedModelBehavior"),
    "nothing": Day(Reply("", times=2), "UnexpectedModelBehavior: Exceeded maximum output retries"),
    "no choice": Day(Reply(body='{"choices": []}', content_type="application/json"), "UnexpectedModelBehavior"),
}


def note(text: str) -> str:
    """Note a text."""
    return f"noted {text}"


async def bad_turn(talk: Conversation, server: ModelServer, day: Day) -> BaseException:
    """Have a turn in which the server fails as the day says, and return what the host author gets for it."""
    if day.reply is None:
        server.down()
    else:
        server.add(day.reply)
    with pytest.raises((AgentRunError, AttributeError)) as raised:
        await talk.say("what now?", model_settings=dict(day.settings))
    if day.reply is None:
        server.up()
    return raised.value


async def good_turn(talk: Conversation, server: ModelServer) -> None:
    """Have a turn with a tool call, as on any day."""
    server.add(Reply(tools=CALL), Reply("all is well"))
    assert await talk.say("go on") == "all is well"
    assert list(server.requests[-1].answers.values())[-1].startswith("noted a text")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", DAYS)
def test_a_failed_turn_says_why_and_the_next_one_works(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path, name: str, streamed: Any
) -> None:
    day = DAYS[name]

    async def main() -> None:
        async with staged(tmp_path) as stage:
            agent, _ = agent_with(stage, model(), [note])
            talk = Conversation(agent, streamed=streamed)
            await good_turn(talk, model_server)
            await stage.witness.ally.add_message("user", "before", session_id="c")
            await bad_turn(talk, model_server, day)
            await stage.witness.ally.add_message("user", "after", session_id="c")
            (end,) = [end for end in stage.of(AgentEnd) if end.interrupted]
            assert day.cause in end.interruption_cause
            assert end.content is None
            await good_turn(talk, model_server)
            assert [end.interrupted for end in stage.of(AgentEnd)] == [False, True, False]
            assert [said.content for said in stage.of(UserMessage)] == ["go on", "what now?", "go on"]
            assert plugin_texts(model_server.requests[-1].texts) == [
                "[plugin witness] before",
                "[plugin witness] after",
            ]
            assert model_server.requests[-1].texts.count("user: what now?") == 1
            context = await stage.witness.ally.get_context(["messages"], session_id="c")
            assert [m.content for m in context.messages or () if m.source_plugin] == ["before", "after"]

    go(main())


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
def test_one_conversation_survives_every_bad_day(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path, streamed: Any
) -> None:
    async def main() -> None:
        keeper = make_record("keeper", daemon=daemon(tmp_path, GATE_KEEPER))
        async with staged(tmp_path, home=tmp_path / "home", keeper=(keeper.daemon, keeper)) as stage:
            agent, _ = agent_with(stage, model(), [note])
            talk = Conversation(agent, streamed=streamed)
            for name, day in DAYS.items():
                await bad_turn(talk, model_server, day)
                await stage.witness.ally.add_message("user", f"after {name}", session_id="c", deliver_as="follow_up")
                await good_turn(talk, model_server)
                assert stage.of(AgentEnd)[-1].content == "all is well", name
            assert plugin_texts(model_server.requests[-1].texts) == [f"[plugin witness] after {name}" for name in DAYS]
            said = [text for text in model_server.requests[-1].texts if text == "user: what now?"]
            assert len(said) == len(DAYS)
            await stage.host.sessions["c"].drained()
            heard = [event.seq for event in stage.witness.heard]
            assert heard == [event.seq for event in stage.events if "witness" not in event.origin]
            assert [plugin.state for plugin in stage.host.plugins.values()] == ["running", "running"]
            assert [plugin.counts.crashes for plugin in stage.host.plugins.values()] == [0, 0]
            await stage.until(lambda: len(stage.notes()) >= len(stage.events), "the daemon hears all of it")

    go(main())


@pytest.mark.parametrize("fault", ["late", "stall"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("way", ["the person", "the plugin", "the task"])
def test_a_turn_that_waits_for_the_model_can_be_stopped(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path, fault: Any, streamed: Any, way: str
) -> None:
    async def main() -> None:
        async with staged(tmp_path) as stage:
            agent, plugins = agent_with(stage, model(), [note])
            talk = Conversation(agent, streamed=streamed)
            await good_turn(talk, model_server)
            model_server.add(Reply(LONG, fault=fault, after=2))
            turn = asyncio.create_task(talk.say("take your time"))
            await model_server.held()
            if way == "the person":
                assert plugins.interrupt("c", "enough")
            elif way == "the plugin":
                arguments = {"reason": "enough"}
                done = await stage.witness.ally.request_action("interrupt", arguments, session_id="c")
                assert done == {"interrupted": True}
            else:
                turn.cancel()
            with pytest.raises(asyncio.CancelledError if way == "the task" else RunCancelled):
                await turn
            await model_server.over()
            assert stage.of(ModelResponse)[-1].stop_reason is not None
            end = stage.of(AgentEnd)[-1]
            assert end.interrupted
            assert end.interruption_cause == ("enough" if way != "the task" else "CancelledError")
            model_server.go_on()
            await good_turn(talk, model_server)
            assert model_server.requests[-1].texts.count("user: take your time") == 1

    go(main())
