"""What an adapter tells: the events of a turn, in order, with ids, arguments, results and numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from ally_plugins.contract.values.events import (
    AgentEnd,
    AgentStart,
    AssistantMessage,
    ContextThreshold,
    ContextUsageUpdate,
    Event,
    ModelRequest,
    ModelResponse,
    ThoughtComplete,
    ToolCallEnd,
    ToolCallStart,
    UserMessage,
)
from ally_plugins.testing.checks import Broken

from .check import AdapterCheck, needing
from .script import Answer, calls
from .stage import SESSION, Play, Stage, expect, tool

__all__ = ["CHECKS"]

_TURN: Final = (
    UserMessage,
    AgentStart,
    ModelRequest,
    ModelResponse,
    ToolCallStart,
    ToolCallEnd,
    AssistantMessage,
    AgentEnd,
)
"""What every turn with a tool call is told of."""

_WORK: Final = calls(("c1", "work", "a"))


async def _a_turn_in_order(stage: Stage) -> None:
    """Check that a turn with a tool call is told in the order in which it happens."""
    async with stage.play(_WORK, "all done", tools=[tool()]) as play:
        expect(await play.run("go") == "all done", "the run did not return what the model said last")
        await _expect_turn(play)


async def _a_streamed_turn_in_order(stage: Stage) -> None:
    """Check that a streamed turn is told as any other."""
    async with stage.play(_WORK, "all done", tools=[tool()]) as play:
        said = await play.run("go", is_streamed=True)
        expect(said == "all done", f"the streamed run returned {said!r}; the model said 'all done'")
        await _expect_turn(play)


async def _expect_turn(play: Play) -> None:
    told = play.told(*_TURN)
    kinds = [type(event).__name__ for event in told]
    core = [each for each in kinds if each not in {"UserMessage", "AgentStart"}]
    wanted = ["ModelRequest", "ModelResponse", "ToolCallStart", "ToolCallEnd", "ModelRequest", "ModelResponse"]
    wanted += ["AssistantMessage", "AgentEnd"]
    expect(core == wanted, f"it told {', '.join(kinds) or 'nothing'}; expected {', '.join(wanted)}")
    expect({*kinds[:2]} == {"UserMessage", "AgentStart"}, f"a turn began with {', '.join(kinds[:2])}")
    turns = {event.turn_id for event in told}
    expect(len(turns) == 1 and None not in turns, f"the events of one turn have the turn ids {turns}")


async def _what_was_said(stage: Stage) -> None:
    """Check that the person's and the model's words are told as they are."""
    async with stage.play(_WORK, "all done", tools=[tool()]) as play:
        await play.run("please go")
        _expect_each(play, UserMessage, "content", ["please go"])
        _expect_each(play, AssistantMessage, "content", ["all done"])
        end = play.told(AgentEnd)[-1]
        expect(not end.interrupted, f"a turn that went well was told as interrupted: {end.interruption_cause}")
        expect(end.content == "all done", f"AGENT_END has the content {end.content!r}; the model said 'all done'")


async def _calls_with_their_results(stage: Stage) -> None:
    """Check that calls are told with id, arguments, result and duration, also when several run at once."""
    made = calls(("c1", "work", "a"), ("c2", "work", "b"))
    async with stage.play(made, "done", tools=[tool("work", lambda text: f"made {text}")]) as play:
        await play.run()
        starts = {each.call_id: each for each in play.told(ToolCallStart)}
        ends = {each.call_id: each for each in play.told(ToolCallEnd)}
        expect(sorted(map(str, starts)) == ["c1", "c2"], f"calls began under the ids {sorted(map(str, starts))}")
        expect(sorted(map(str, ends)) == ["c1", "c2"], f"calls ended under the ids {sorted(map(str, ends))}")
        for call_id, text in (("c1", "a"), ("c2", "b")):
            start, end = starts[call_id], ends[call_id]
            expect((start.tool_name, end.tool_name) == ("work", "work"), f"the tool of {call_id} is told as another")
            expect(start.arguments == {"text": text}, f"{call_id} was told with {dict(start.arguments)}")
            expect(end.success and f"made {text}" in (end.output or ""), f"{call_id} ended with {end.output!r}")
        expect(play.result_of("c1") == "made a", f"the model was told {play.result_of('c1')!r} of 'made a'")
        second = play.told(ModelRequest)[1].seq
        late = [each.call_id for each in ends.values() if each.seq > second]
        expect(not late, f"the model was asked before the calls {late} had ended")


async def _a_tool_that_fails(stage: Stage) -> None:
    """Check that a tool's error is told, reaches the model, and ends nothing."""

    def fail(_: str) -> str:
        raise RuntimeError("the disk is full")

    async with stage.play(_WORK, "I see", tools=[tool("work", fail)]) as play:
        try:
            await play.run()
        except Exception as error:  # noqa: BLE001 - some frameworks end the run; then the end must be told
            expect("the disk is full" in str(error), f"the run raised {error!r}, not what the tool raised")
        else:
            expect("the disk is full" in play.result_of("c1"), "the model was not told what the tool raised")
        ends = play.told(ToolCallEnd)
        expect(len(ends) == 1, f"a tool that fails ended {len(ends)} times")
        expect(not ends[0].success, "a tool that fails was told as a success")
        expect("the disk is full" in (ends[0].error or ""), f"TOOL_CALL_END has the error {ends[0].error!r}")
        expect(len(play.told(AgentEnd)) == 1, "the turn's end was not told")
        play.expect_valid()


async def _a_model_that_fails(stage: Stage) -> None:
    """Check that an error of the model ends the turn, is told, and the next turn goes on."""
    async with stage.play(_WORK, Answer(error=RuntimeError("no connection")), "back again", tools=[tool()]) as play:
        try:
            await play.run("one")
        except Exception as error:  # noqa: BLE001 - frameworks wrap it as they like
            expect("no connection" in f"{error!r} {error.__cause__!r}", f"the run raised {error!r}")
        else:
            raise Broken("a run whose model failed returned as if it had not")
        ends = play.told(AgentEnd)
        expect(len(ends) == 1 and ends[0].interrupted, "the end of a failed turn was not told as an interruption")
        expect(bool(ends[0].interruption_cause), "AGENT_END of a failed turn has no cause")
        expect(await play.run("two") == "back again", "the conversation did not go on after a failed turn")
        play.expect_valid()


async def _thoughts(stage: Stage) -> None:
    """Check that the model's thoughts are told, in their place."""
    async with stage.play(Answer(thinking="let me see", text="done")) as play:
        await play.run()
        _expect_each(play, ThoughtComplete, "thinking", ["let me see"])


async def _usage_and_thresholds(stage: Stage) -> None:
    """Check that the window's use is told after each answer, and each threshold once."""
    steps = [Answer(text="a", input_tokens=tokens, output_tokens=10) for tokens in (90, 590, 600, 940)]
    async with stage.play(*steps, window=1_000) as play:
        for _ in range(4):
            await play.run()
        _expect_each(play, ContextUsageUpdate, "context_usage", [10.0, 60.0, 61.0, 95.0])
        told = [each.threshold for each in play.told(ContextThreshold)]
        expect(told == [50.0, 75.0, 90.0], f"the thresholds {told} were told; expected 50, 75 and 90, once each")


async def _the_numbers_of_an_answer(stage: Stage) -> None:
    """Check that an answer is told with its tokens and how long it took."""
    async with stage.play(Answer(text="a", input_tokens=70, output_tokens=7)) as play:
        await play.run()
        (answer,) = play.told(ModelResponse)
        found = (answer.input_tokens, answer.output_tokens)
        expect(found == (70, 7), f"the answer took {found} tokens; 70 and 7 were used")
        expect(answer.duration_ms is not None and answer.duration_ms >= 0, "MODEL_RESPONSE has no duration")


async def _sub_agents(stage: Stage) -> None:
    """Check that an agent in a tool of another one is told as its sub-agent, in the same session."""
    async with stage.play(calls(("c1", "delegate", "look")), "done") as play:
        inner = stage.driver.make(play.setup(name="helper", steps=["found it"]))

        async def delegate(text: str) -> str:
            return await stage.driver.run(inner, text, session_id="another id")

        play.agent = stage.driver.make(play.setup(tools=[tool("delegate", delegate)]))
        await play.run("go")
        names = [event.agent_name for event in play.told(AgentStart)]
        expect(names == ["agent", "helper"], f"the agents {names} were told in the session; expected agent and helper")
        start = play.told(AgentStart)[1]
        expect(start.is_specialized_agent, "the sub-agent was not told as one")
        expect(start.task_prompt == "look", f"the sub-agent's task is {start.task_prompt!r}; it was given 'look'")
        expect(start.parent_id == "c1", f"the sub-agent follows from {start.parent_id!r}; the call was 'c1'")
        expect(play.result_of("c1") == "found it", "the agent was not told what its sub-agent found")
        expect(len(play.told(UserMessage)) == 1, "the sub-agent's task was told as the person's words")


async def _many_conversations(stage: Stage) -> None:
    """Check that conversations which run at once never see each other's words."""
    names = [f"talk-{number}" for number in range(8)]

    def answer(asked: Any) -> Answer:
        name = next(each for each in names if each in asked.messages[-1].content or each in asked.text)
        others = [each for each in names if each != name and each in asked.text]
        expect(not others, f"the model was asked in {name} with words of {', '.join(others)}")
        return Answer(text=f"done in {name}") if asked.result_of(f"c-{name}") else calls((f"c-{name}", "work", name))

    async def work(text: str) -> str:
        await asyncio.sleep(0)
        return f"worked for {text}"

    async with stage.play(*[answer] * (2 * len(names)), tools=[tool("work", work)]) as play:
        said = await asyncio.gather(*(play.run(f"this is {name}", session_id=name) for name in names))
        expect(list(said) == [f"done in {name}" for name in names], f"the runs returned {said}")
        for name in names:
            told: Sequence[Event] = play.told(UserMessage, ToolCallStart, AssistantMessage, AgentEnd, session_id=name)
            expect(len(told) == 4, f"of {name} {len(told)} events were told in its session; expected 4")
            expect(all(name in repr(event) for event in told), f"an event of another conversation was told in {name}")


async def _the_session_is_the_conversation(stage: Stage) -> None:
    """Check that a session goes on in the next turn, and holds what plugins may read: the framework's history."""
    async with stage.play(_WORK, "one", "two", tools=[tool()]) as play:
        await play.run("first")
        await play.run("second")
        expect({event.session_id for event in play.told(UserMessage)} == {SESSION}, "a turn had another session")
        turns = {event.turn_id for event in play.told(UserMessage)}
        expect(len(turns) == 2, "two turns have one turn id")
        kept = [(each.role, each.content) for each in play.session().conversation.messages if each.role != "system"]
        wanted = [(each.role, each.content) for each in play.history() if each.role != "system"]
        expect(kept == wanted, f"plugins read {kept}; the framework's history is {wanted}")
        ids = [each.id for each in play.session().conversation.messages]
        expect(len(set(ids)) == len(ids) and all(ids), "messages of the conversation have no ids of their own")


def _expect_each(play: Play, kind: type[Event], field: str, wanted: list[Any]) -> None:
    found = [getattr(event, field) for event in play.told(kind)]
    expect(found == wanted, f"{kind.TYPE} told {found}; expected {wanted}")


CHECKS: Final[dict[str, AdapterCheck]] = {
    "tells a turn in order": AdapterCheck(_a_turn_in_order),
    "tells a streamed turn in order": needing(_a_streamed_turn_in_order, "streaming"),
    "tells what was said": AdapterCheck(_what_was_said),
    "tells calls with their results": AdapterCheck(_calls_with_their_results),
    "tells of a tool that fails": AdapterCheck(_a_tool_that_fails),
    "tells of a model that fails": AdapterCheck(_a_model_that_fails),
    "tells thoughts": needing(_thoughts, "thinking"),
    "tells what an answer took": needing(_the_numbers_of_an_answer, "usage"),
    "tells usage and thresholds": needing(_usage_and_thresholds, "usage"),
    "tells sub-agents": needing(_sub_agents, "sub_agents"),
    "keeps conversations apart": AdapterCheck(_many_conversations),
    "gives plugins the history": AdapterCheck(_the_session_is_the_conversation),
}
