"""Words and ends of turns: gates of what the person says, what the model answers, and whether the agent may stop."""

from __future__ import annotations

from typing import Any, Final

from ally_plugins.catalog.decide.record import PluginRecord
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.contract.values.conversation import Message, Stop, evolve
from ally_plugins.contract.values.events import AgentEnd, AssistantMessage, UserMessage
from ally_plugins.contract.values.verdicts import Deny, Replace
from ally_plugins.policy.permissions import GrantSet

from .check import Checks
from .script import Answer, calls
from .stage import Play, Stage, expect, plugin, tool

__all__ = ["CHECKS"]

CHECKS: Final = Checks()

SECRET: Final = "the code is 1234"  # noqa: S105 - what the checks look for


async def _deny_secrets(self: Any, message: Message) -> Deny | None:  # noqa: ARG001
    return Deny("it has a code") if "1234" in message.content else None


async def _end(play: Play, prompt: str = "hello", *, is_streamed: bool = False) -> str:
    """Return what a turn came to: its answer, or the text of the error that it ended with."""
    try:
        return await play.run(prompt, is_streamed=is_streamed)
    except Exception as error:  # noqa: BLE001 - how a framework says it is its own
        return str(error)


@CHECKS.add("refuses a message of the person", "user_message_gate")
async def _a_denied_message_begins_nothing(stage: Stage) -> None:
    """Check that a message which a gate denies does not reach the model, and the person reads why."""
    async with stage.play("done", plugins={"guard": plugin(gate_user_message=_deny_secrets)}) as play:
        told = await _end(play, SECRET)
        expect(not play.requests, "the model was asked although the message was denied")
        expect("it has a code" in told, f"the person was told {told!r}; expected the reason of the gate")
        expect(not play.events_of(UserMessage), "USER_MESSAGE was emitted for a message that was denied")
        expect("1234" not in str(play.history()), "what was denied stands in the history")


@CHECKS.add("withholds a denied answer", "answer", is_streamed=False)
@CHECKS.add("withholds a denied answer of a stream", "answer", "streaming", is_streamed=True)
async def _a_denied_answer(stage: Stage, *, is_streamed: bool) -> None:
    """Check that an answer which a gate denies is neither returned, told nor kept, and the turn ends with it."""
    plugins = {"guard": plugin(gate_answer=_deny_secrets)}
    async with stage.play(SECRET, "again", plugins=plugins) as play:
        told = await _end(play, is_streamed=is_streamed)
        expect("1234" not in told, f"the run returned the answer that was denied: {told!r}")
        expect("it has a code" in told, f"the person was told {told!r}; expected the reason of the gate")
        expect(len(play.requests) == 1, f"the model was asked {len(play.requests)} times; expected once")
        expect(not play.events_of(AssistantMessage), "ASSISTANT_MESSAGE was emitted for an answer that was denied")
        expect("1234" not in play.kept, "the answer that was denied stands in the history")
        expect("it has a code" in play.kept, "the history does not say that an answer was withheld")
        expect(len(play.events_of(AgentEnd)) == 1, "the end of the turn was not told, or twice")
        expect(await play.run("and now?") == "again", "the conversation does not go on")
        play.expect_valid()


@CHECKS.add("runs no call beside a denied answer", "answer")
async def _calls_beside_a_denied_answer(stage: Stage) -> None:
    """Check that text beside tool calls is an answer, and no call of a response with a denied one runs."""
    ran: list[str] = []
    both = Answer(text=SECRET, calls=calls(("c1", "work", "a")).calls)
    plugins = {"guard": plugin(gate_answer=_deny_secrets)}
    async with stage.play(both, "again", plugins=plugins, tools=[tool("work", ran.append)]) as play:
        told = await _end(play)
        expect("it has a code" in told, f"the person was told {told!r}; expected the reason of the gate")
        expect(not ran, "the tool ran although the answer beside its call was denied")
        expect("1234" not in play.kept, "the answer that was denied stands in the history")
        play.expect_valid()


@CHECKS.add("cuts a stream at a denied sentence", "answer", "streaming")
async def _a_denied_sentence(stage: Stage) -> None:
    """Check that of an answer held by sentences nothing is kept that was denied, and the history says that it was cut.

    An adapter may hold it whole all the same; then nothing of it was shown, and nothing is kept.
    """
    granted = GrantSet.of(["gate:answer:sentence"])
    config = PluginConfig(enabled=True, is_decided=True, grants=granted)
    record = PluginRecord.by_code("guard", None, grants=granted, config=config)
    plugins = {"guard": (plugin(gate_answer=_deny_secrets), record)}
    async with stage.play(f"Well then. I say {SECRET}. So there.", plugins=plugins) as play:
        told = await _end(play, is_streamed=True)
        expect("1234" not in told, f"the run returned what was denied: {told!r}")
        expect(len(play.requests) == 1, f"the model was asked {len(play.requests)} times; expected once")
        expect("it has a code" in play.kept, "the history does not say that the answer was cut")
        said = [event.content.strip() for event in play.events_of(AssistantMessage)]
        expect(said in ([], ["Well then."]), f"ASSISTANT_MESSAGE has {said}; expected what was allowed, 'Well then.'")
        expect(not said or "Well then." in play.kept, "what was shown before the deny does not stand in the history")
        expect("1234" not in play.kept, "what was denied stands in the history")
        play.expect_valid()


@CHECKS.add("returns what transforms made of an answer", "answer_transform", is_streamed=False)
@CHECKS.add("streams what transforms made of an answer", "answer_transform", "streaming", is_streamed=True)
async def _answers_may_change(stage: Stage, *, is_streamed: bool) -> None:
    """Check that what transforms made of an answer is returned, told and kept, and nothing else."""

    async def change(self: Any, message: Message) -> Replace[Message]:  # noqa: ARG001
        return Replace(evolve(message, content=message.content.replace("1234", "****")))

    async with stage.play(SECRET, plugins={"redact": plugin(transform_answer=change)}) as play:
        said = await play.run(is_streamed=is_streamed)
        wanted = SECRET.replace("1234", "****")
        expect(said == wanted, f"the run returned {said!r}; transforms made {wanted!r} of it")
        found = [event.content for event in play.events_of(AssistantMessage)]
        expect(found == [wanted], f"ASSISTANT_MESSAGE has {found}; transforms made {wanted!r} of it")
        expect(wanted in play.kept and "1234" not in play.kept, "the history has not what was made of the answer")


def _never(times: int) -> Any:
    """Return a gate that does not let the agent stop, so many times."""
    # One count for all runs of the check: the class is made once.
    left = [Deny("the tests have not run")] * times

    async def decide(self: Any, stop: Stop) -> Deny | None:  # noqa: ARG001
        return left.pop() if left else None

    return plugin(gate_stop=decide)


@CHECKS.add("goes on when a gate does not let it stop", "stop")
async def _a_denied_stop(stage: Stage) -> None:
    """Check that the agent goes on in the same turn with the reason as the plugin's message, which is kept."""
    async with stage.play("done", "tested", plugins={"tester": _never(1)}) as play:
        said = await play.run()
        expect(said == "tested", f"the run returned {said!r}; expected what came after the denied stop, 'tested'")
        expect("[plugin tester] the tests have not run" in play.requests[-1].text, "the model was not told the reason")
        expect(len(play.events_of(AgentEnd)) == 1, "the turn ended more than once")
        expect("[plugin tester] the tests have not run" in play.kept, "the message does not stand in the history")
        play.expect_valid()


@CHECKS.add("stops in the end", "stop")
async def _a_stop_at_the_limit(stage: Stage) -> None:
    """Check that a gate which never lets the agent stop sends it on three times, and not for ever."""
    async with stage.play("1", "2", "3", "4", "5", plugins={"tester": _never(9)}) as play:
        said = await play.run()
        expect(said == "4", f"the run returned {said!r}; expected the answer after three denied stops, '4'")
        play.expect_valid()
