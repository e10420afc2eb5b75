"""A turn that is stopped anywhere: what began has ended, the history is one that a model takes, no message is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from pydantic_ai import Agent
from pydantic_ai.exceptions import RunCancelled
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from ally_plugins import Ally, Ask, Replace, ToolCall, ToolCallEnd, hookimpl, tool
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from ally_plugins.contract.values.events import AgentEnd
from ally_plugins.policy.budget import Limits
from tests.kit.hosts import make_record

from .conversing import Conversation, Stage, staged

if TYPE_CHECKING:
    from ally_plugins.host.person.permission import PermissionQuestion


class Busy:
    """A plugin that takes part in everything: it transforms, asks, offers a tool, and says something of every call."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_transform_tool_input(self, call: ToolCall) -> Replace[ToolCall]:
        await asyncio.sleep(0)
        return Replace(evolve(call, arguments={**call.arguments, "times": 2}))

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Ask | None:
        await asyncio.sleep(0)
        return Ask("are you sure?") if call.tool_name == "work" else None

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        await self.ally.add_message("user", f"heard of {event.call_id}", key=f"{event.session_id} {event.call_id}")

    @tool
    async def helper(self, times: int) -> str:
        """Help."""
        await asyncio.sleep(0)
        return f"helped {times} times"


class Model:
    """A model of two steps a turn: calls at once, then an answer; it keeps what is wrong with what it is shown."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.calls = 0

    @property
    def model(self) -> FunctionModel:
        return FunctionModel(self._answer, stream_function=self._stream)

    def _next(self, messages: list[ModelMessage]) -> ModelResponse:
        self.problems += problems_in(messages)
        if "work" not in said_last(messages):
            return ModelResponse(parts=[TextPart("all done")])
        self.calls += 1
        names = ("work", "helper", "work")
        calls = [ToolCallPart(name, {"times": 1}, tool_call_id=f"c{self.calls}.{i}") for i, name in enumerate(names)]
        return ModelResponse(parts=[TextPart("let me see"), *calls])

    async def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        del info
        await asyncio.sleep(0)
        return self._next(messages)

    async def _stream(self, messages: list[ModelMessage], info: AgentInfo) -> Any:
        del info
        for index, part in enumerate(self._next(messages).parts):
            await asyncio.sleep(0)
            if isinstance(part, TextPart):
                yield part.content
            elif isinstance(part, ToolCallPart):
                yield {index: DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)}


def said_last(messages: Sequence[ModelMessage]) -> str:
    """Return what was said since the model spoke."""
    last = messages[-1]
    parts = last.parts if isinstance(last, ModelRequest) else ()
    return " ".join(str(part.content) for part in parts if isinstance(part, UserPromptPart))


def problems_in(messages: Sequence[ModelMessage]) -> Iterator[str]:
    """Tell of each call that is not answered at once and once."""
    for message, after in zip(messages, [*messages[1:], None], strict=True):
        if isinstance(message, ModelResponse):
            calls = [part.tool_call_id for part in message.parts if isinstance(part, ToolCallPart)]
            answers = [
                part.tool_call_id
                for part in (after.parts if isinstance(after, ModelRequest) else ())
                if isinstance(part, (ToolReturnPart, RetryPromptPart))
            ]
            if sorted(calls) != sorted(answers):
                yield f"{calls} are answered by {answers}"


async def agree(question: PermissionQuestion) -> str:
    del question
    await asyncio.sleep(0)
    return "allow"


async def stopped(talk: Conversation, steps: int, stop: Callable[[asyncio.Task[Any]], object]) -> tuple[bool, bool]:
    """Run a turn and stop it after so many turns of the loop; say whether it was over, and whether it answered."""
    turn = asyncio.create_task(talk.say("work"))
    for _ in range(steps):
        if turn.done():
            break
        await asyncio.sleep(0)
    was_over = turn.done()
    stop(turn)
    try:
        await turn
    except (asyncio.CancelledError, RunCancelled):
        return was_over, False
    return was_over, True


async def gone_on(stage: Stage, talk: Conversation) -> list[str]:
    """Go on with a conversation, and return what the plugin said in it."""
    await stage.host.sessions[talk.id].drained()
    assert await talk.say("and now?") == "all done"
    await stage.host.sessions[talk.id].drained()
    assert await talk.say("and then?") == "all done"
    assert list(problems_in(talk.history)) == []
    texts = [
        str(part.content) for message in talk.history for part in message.parts if isinstance(part, UserPromptPart)
    ]
    return [text for text in texts if "[plugin busy] heard of" in text]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "streamed", "stride"),
    [("the task", False, 1), ("the task", True, 2), ("the person", False, 3), ("the person", True, 4)],
)
def test_a_turn_can_be_stopped_at_every_step(go: Any, tmp_path: Path, way: str, streamed: Any, stride: int) -> None:
    async def main() -> int:
        busy = make_record("busy", limits=Limits(messages_per_minute=1_000_000))
        async with staged(tmp_path, busy=(Busy, busy)) as stage:
            model = Model()
            plugins = AllyPlugins(stage.host, approve=agree)
            agent = Agent(model.model, capabilities=[plugins])

            @agent.tool_plain
            async def work(times: int) -> str:
                """Work."""
                await asyncio.sleep(0)
                return f"worked {times} times"

            steps, was_over = 0, False
            while not was_over:
                talk = Conversation(agent, f"s{steps}", streamed=streamed)
                interrupt = partial(interrupted, plugins, talk.id)
                was_over, answered = await stopped(
                    talk, steps, interrupt if way == "the person" else asyncio.Task.cancel
                )
                await asyncio.sleep(0)  # a run that was forgotten as it began ends a turn of the loop later
                assert not (answered and any(end.interrupted for end in stage.of(AgentEnd, talk.id)))
                if talk.id in stage.host.sessions:
                    said = await gone_on(stage, talk)
                    ended = stage.of(ToolCallEnd, talk.id)
                    assert len(said) == len(set(said)) == len(ended), (steps, said, ended)
                steps += stride
            assert model.problems == []
            return steps

    assert go(main()) > 20


def interrupted(plugins: AllyPlugins, session_id: str, turn: asyncio.Task[Any]) -> None:
    del turn
    plugins.interrupt(session_id, "enough")
