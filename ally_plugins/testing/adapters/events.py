"""The events of a turn: their order, ids, arguments, results and numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

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

from .check import Checks
from .script import Answer, Step, calls
from .stage import SESSION, WORK, Play, Stage, expect, tool

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import ToolCall, ToolResult

__all__ = ["CHECKS"]

CHECKS: Final = Checks()

_STEP: Final = ("ModelRequest", "ModelResponse")
_TURN: Final = [*_STEP, "ToolCallStart", "ToolCallEnd", *_STEP, "AssistantMessage", "AgentEnd"]
"""The events of every turn with a tool call, after its beginning."""


@CHECKS.add("tells a turn in order", is_streamed=False)
@CHECKS.add("tells a streamed turn in order", "streaming", is_streamed=True)
async def _a_turn_in_order(stage: Stage, *, is_streamed: bool) -> None:
    """Check that a turn with a tool call, streamed or not, is reported in the order in which it happens."""
    async with stage.play(WORK, "all done", tools=[tool()]) as play:
        answer = await play.run("go", is_streamed=is_streamed)
        expect(answer == "all done", f"the run returned {answer!r}; the model said 'all done'")
        found = play.events_of(UserMessage, AgentStart, ModelRequest, ModelResponse, ToolCallStart, ToolCallEnd,
                               AssistantMessage, AgentEnd)  # fmt: skip
        kinds = [type(event).__name__ for event in found]
        core = [each for each in kinds if each not in {"UserMessage", "AgentStart"}]
        expect(core == _TURN, f"it emitted {', '.join(kinds) or 'nothing'}; expected {', '.join(_TURN)}")
        expect({*kinds[:2]} == {"UserMessage", "AgentStart"}, f"a turn began with {', '.join(kinds[:2])}")
        turns = {event.turn_id for event in found}
        expect(len(turns) == 1 and None not in turns, f"the events of one turn have the turn ids {turns}")


@CHECKS.add("tells a failure that a tool returns", "tool_failure")
async def _a_failure_as_a_value(stage: Stage) -> None:
    """Check that a result in which a tool reports its failure is one to plugins, and to the model what it was."""
    given = "Error: the disk is full"

    def failure(call: ToolCall, result: ToolResult) -> str | None:  # noqa: ARG001 - as the option is called
        return "no space" if result.output.startswith("Error: ") else None

    def write(text: str) -> str:
        return given if text == "a" else "it is written"

    steps = (WORK, calls(("c2", "work", "b")), "done")
    async with stage.play(*steps, tools=[tool(result=write)], tool_failure=failure) as play:
        await play.run()
        found = [(end.call_id, end.success, end.error) for end in play.events_of(ToolCallEnd)]
        wanted = [("c1", False, "no space"), ("c2", True, None)]
        expect(found == wanted, f"the calls ended with {found}; expected {wanted}")
        read = play.requests[1].result_of("c1")
        expect(read is not None and given in read, f"the model read {read!r}; the tool returned {given!r}")


@CHECKS.add(
    "tells what was said",
    steps=(WORK, "all done"),
    fields={
        (UserMessage, "content"): ["hello"],
        (AssistantMessage, "content"): ["all done"],
        (AgentEnd, "content"): ["all done"],
        (AgentEnd, "interrupted"): [False],
    },
)
@CHECKS.add(
    "tells thoughts",
    "thinking",
    steps=(Answer(thinking="let me see", text="done"),),
    fields={(ThoughtComplete, "thinking"): ["let me see"]},
)
@CHECKS.add(
    "tells usage and thresholds",
    "usage",
    steps=[Answer(text="a", input_tokens=tokens, output_tokens=10) for tokens in (90, 590, 600, 940)],
    runs=4,
    fields={
        (ContextUsageUpdate, "context_usage"): [10.0, 60.0, 61.0, 95.0],
        (ContextThreshold, "threshold"): [50.0, 75.0, 90.0],
    },
)
@CHECKS.add(
    "tells what an answer took",
    "usage",
    steps=(Answer(text="a", input_tokens=70, output_tokens=7),),
    fields={(ModelResponse, "input_tokens"): [70], (ModelResponse, "output_tokens"): [7]},
    is_timed=True,
)
async def _events_with_their_fields(
    stage: Stage,
    *,
    steps: Sequence[Step],
    fields: Mapping[tuple[type[Event], str], list[Any]],
    runs: int = 1,
    is_timed: bool = False,
) -> None:
    """Check that each event is emitted once, with its texts and numbers as they are."""
    async with stage.play(*steps, tools=[tool()]) as play:
        for _ in range(runs):
            await play.run()
        for (kind, field), wanted in fields.items():
            found = [getattr(event, field) for event in play.events_of(kind)]
            expect(found == wanted, f"{kind.TYPE} had the {field} {found}; expected {wanted}")
        durations = [event.duration_ms for event in play.events_of(ModelResponse)]
        is_right = not is_timed or all(each is not None and each >= 0 for each in durations)
        expect(is_right, f"MODEL_RESPONSE had the durations {durations}; expected milliseconds")


@CHECKS.add("tells calls with their results")
async def _calls_with_their_results(stage: Stage) -> None:
    """Check that calls are reported with id, arguments, result and duration, also when several run at once."""
    made = calls(("c1", "work", "a"), ("c2", "work", "b"))
    async with stage.play(made, "done", tools=[tool("work", lambda text: f"made {text}")]) as play:
        await play.run()
        play.expect_calls("c1", "c2")
        starts = {each.call_id: each for each in play.events_of(ToolCallStart)}
        ends = {each.call_id: each for each in play.events_of(ToolCallEnd)}
        for call_id, text in (("c1", "a"), ("c2", "b")):
            start, end = starts[call_id], ends[call_id]
            expect(
                (start.tool_name, end.tool_name) == ("work", "work"), f"the tool of {call_id} is reported as another"
            )
            expect(start.arguments == {"text": text}, f"{call_id} was reported with {dict(start.arguments)}")
            expect(end.success and f"made {text}" in (end.output or ""), f"{call_id} ended with {end.output!r}")
        play.expect_result("c1", "made a", is_all=True)
        # By the sequence numbers: events of parallel calls may end in any order.
        second = play.events_of(ModelRequest)[1].seq
        late = [each.call_id for each in ends.values() if each.seq > second]
        expect(not late, f"the model was asked before the calls {late} had ended")


@CHECKS.add("tells of a tool that fails")
async def _a_tool_that_fails(stage: Stage) -> None:
    """Check that a tool's error is reported, reaches the model, and ends nothing."""

    def fail(_: str) -> str:
        raise RuntimeError("the disk is full")

    async with stage.play(WORK, "I see", tools=[tool("work", fail)]) as play:
        try:
            await play.run()
        except Exception as error:  # noqa: BLE001 - some frameworks end the run; AGENT_END must be emitted then
            expect("the disk is full" in str(error), f"the run raised {error!r}, not what the tool raised")
        else:
            play.expect_result("c1", "the disk is full")
        play.expect_calls("c1")
        (end,) = play.events_of(ToolCallEnd)
        expect(not end.success, "a tool that fails was reported as a success")
        expect("the disk is full" in (end.error or ""), f"TOOL_CALL_END has the error {end.error!r}")
        expect(len(play.events_of(AgentEnd)) == 1, "the turn's end was not emitted")
        play.expect_valid()


@CHECKS.add("tells of a model that fails")
async def _a_model_that_fails(stage: Stage) -> None:
    """Check that an error of the model ends the turn, is reported, and the next turn goes on."""
    async with stage.play(WORK, Answer(error=RuntimeError("no connection")), "back again", tools=[tool()]) as play:
        try:
            await play.run("one")
        except Exception as error:  # noqa: BLE001 - frameworks wrap it as they like
            expect("no connection" in f"{error!r} {error.__cause__!r}", f"the run raised {error!r}")
        else:
            raise Broken("a run whose model failed returned as if it had not")
        cause = play.expect_interruption()
        expect(bool(cause), "AGENT_END of a failed turn has no cause")
        expect(await play.run("two") == "back again", "the conversation did not go on after a failed turn")
        play.expect_valid()


@CHECKS.add("tells sub-agents", "sub_agents")
async def _sub_agents(stage: Stage) -> None:
    """Check that an agent in a tool of another one is reported as its sub-agent, in the same session."""

    async def delegate(play: Play, text: str) -> str:
        inner = stage.driver.make(play.setup(name="helper", steps=["found it"]))
        return await stage.driver.run(inner, text, session_id="another id")

    async with stage.play(calls(("c1", "work", "look")), "done", work=delegate) as play:
        await play.run("go")
        names = [event.agent_name for event in play.events_of(AgentStart)]
        expect(
            names == ["agent", "helper"], f"the agents {names} were emitted in the session; expected agent and helper"
        )
        start = play.events_of(AgentStart)[1]
        expect(start.is_specialized_agent, "the sub-agent was not reported as one")
        expect(start.task_prompt == "look", f"the sub-agent's task is {start.task_prompt!r}; it was given 'look'")
        expect(start.parent_id == "c1", f"the sub-agent follows from {start.parent_id!r}; the call was 'c1'")
        play.expect_result("c1", "found it", is_all=True)
        expect(len(play.events_of(UserMessage)) == 1, "the sub-agent's task was reported as the person's words")


@CHECKS.add("keeps conversations apart")
async def _many_conversations(stage: Stage) -> None:
    """Check that conversations which run at once never see each other's words."""
    names = [f"talk-{number}" for number in range(8)]

    def answer(request: Any) -> Answer:
        name = next(each for each in names if each in request.messages[-1].content or each in request.text)
        others = [each for each in names if each != name and each in request.text]
        expect(not others, f"the model was asked in {name} with words of {', '.join(others)}")
        return Answer(text=f"done in {name}") if request.result_of(f"c-{name}") else calls((f"c-{name}", "work", name))

    async def work(text: str) -> str:
        # Lets the other conversations in, which all have a call under way then.
        await asyncio.sleep(0)
        return f"worked for {text}"

    async with stage.play(*[answer] * (2 * len(names)), tools=[tool("work", work)]) as play:
        answers = await asyncio.gather(*(play.run(f"this is {name}", session_id=name) for name in names))
        expect(list(answers) == [f"done in {name}" for name in names], f"the runs returned {answers}")
        for name in names:
            kinds: tuple[type[Event], ...] = (UserMessage, ToolCallStart, AssistantMessage, AgentEnd)
            found = play.events_of(*kinds, session_id=name)
            expect(len(found) == len(kinds), f"of {name} {len(found)} events were emitted in its session; expected 4")
            expect(
                all(name in repr(event) for event in found), f"an event of another conversation was emitted in {name}"
            )


@CHECKS.add("gives plugins the history")
async def _the_session_is_the_conversation(stage: Stage) -> None:
    """Check that a session goes on in the next turn, and holds what plugins may read: the framework's history."""
    async with stage.play(WORK, "one", "two", tools=[tool()]) as play:
        await play.run("first")
        await play.run("second")
        prompts = play.events_of(UserMessage)
        expect({event.session_id for event in prompts} == {SESSION}, "a turn had another session")
        expect(len({event.turn_id for event in prompts}) == 2, "two turns have one turn id")
        messages = play.session().conversation.messages
        kept = [(each.role, each.content) for each in messages if each.role != "system"]
        wanted = [(each.role, each.content) for each in play.history() if each.role != "system"]
        expect(kept == wanted, f"plugins read {kept}; the framework's history is {wanted}")
        ids = [each.id for each in messages]
        expect(len(set(ids)) == len(ids) and all(ids), "messages of the conversation have no ids of their own")
