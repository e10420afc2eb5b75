"""How plugins' messages enter a conversation: where, when, once, and marked as theirs."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any, Final

from ally_plugins.contract.values.events import PluginMessageReceived, UserMessage
from ally_plugins.host.sessions.inbox import Waiting

from .check import Checks
from .script import Answer, Asked, calls
from .stage import SESSION, WORK, Play, Stage, Work, expect, expect_once, plugin

__all__ = ["CHECKS"]

CHECKS: Final = Checks()

_PLUGINS: Final = {"helper": plugin()}
_ROUNDS: Final = 12
"""Ways in which parallel tools and a plugin take turns; chosen by a seed, the same each time."""


async def _add(play: Play, content: str, *, role: str = "user", **options: Any) -> Any:
    """Let the plugin add a message, as it would from a hook."""
    ally = play.host.plugins["helper"].instance.ally
    return await ally.add_message(role, content, session_id=SESSION, **options)


def _adding(content: str, **options: Any) -> Work:
    """Return a tool in which the plugin adds a message, where it is called with the text `a`."""

    async def work(play: Play, text: str) -> str:
        if text == "a":
            await _add(play, content, **options)
        return text

    return work


def _roles(request: Asked) -> list[str]:
    return [message.role for message in request.messages if message.role != "system"]


@CHECKS.add("steers after all results")
async def _steer_enters_after_all_results(stage: Stage) -> None:
    """Check that a message enters at the next step, after all results, marked, and stays in the history."""
    made, marked = calls(("c1", "work", "a"), ("c2", "work", "b")), "[plugin helper] try another way"
    async with stage.play(made, "done", "again", plugins=_PLUGINS, work=_adding("try another way")) as play:
        await play.run("go")
        roles = _roles(play.requests[1])
        expect(roles == ["user", "assistant", "tool", "tool", "user"], f"the next step was asked with {roles}")
        last = play.requests[1].messages[-1].content
        expect(last == marked, f"the model was asked {last!r}, not marked as the plugin's")
        await play.run("go on")
        expect_once(marked, play.requests[2].text, "the next turn")
        expect_once("try another way", play.kept, "the history")
        names = [each.plugin_name for each in play.events_of(PluginMessageReceived)]
        expect(names == ["helper"], f"PLUGIN_MESSAGE_RECEIVED was emitted for {names}")
        expect(len(play.events_of(UserMessage)) == 2, "the plugin's message was reported as the person's")
        play.expect_valid()


@CHECKS.add("follows up at the end")
async def _follow_up_takes_the_turn_further(stage: Stage) -> None:
    """Check that a follow-up enters at the end of the turn, and the model answers it in the same run."""
    work = _adding("what about the tests?", deliver_as="follow_up")
    async with stage.play(WORK, "first answer", "second answer", plugins=_PLUGINS, work=work) as play:
        answer = await play.run("go")
        expect("what about" not in play.requests[1].text, "a follow-up entered in the middle of the turn")
        expect(len(play.requests) == 3, f"the model was asked {len(play.requests)} times; the follow-up makes it three")
        expect(answer == "second answer", f"the run returned {answer!r}; the last answer was 'second answer'")
        roles = _roles(play.requests[2])
        expect(roles[-2:] == ["assistant", "user"], f"the follow-up was asked with {roles}, not after the answer")
        play.expect_valid()


@CHECKS.add("keeps messages for the next turn")
async def _next_turn_waits_for_the_person(stage: Stage) -> None:
    """Check that a message for the next turn enters with the person's next message, and not before."""
    work = _adding("by the way", deliver_as="next_turn")
    async with stage.play(WORK, "done", "and now", plugins=_PLUGINS, work=work) as play:
        await play.run("go")
        expect(len(play.requests) == 2 and "by the way" not in play.requests[1].text, "it entered in the same turn")
        await play.run("go on")
        expect_once("[plugin helper] by the way", play.requests[2].text, "the next turn")
        expect("go on" in play.requests[2].text, "the person's own message was lost")
        play.expect_valid()


@CHECKS.add("is woken by plugins")
async def _an_idle_agent_is_woken(stage: Stage) -> None:
    """Check that a message may wake an idle agent, whose turn without a prompt is about that message."""
    async with stage.play("hello", "tests are red", "last", plugins=_PLUGINS) as play:
        await play.run("hi")
        await _add(play, "tests broke", trigger_turn=True)
        async with asyncio.timeout(5):
            await play.session().wait_for_trigger()
        answer = await play.run(None)
        expect(answer == "tests are red", f"the woken run returned {answer!r}")
        expect(
            play.requests[1].messages[-1].content == "[plugin helper] tests broke", "the model was not asked about it"
        )
        expect(len(play.events_of(UserMessage)) == 1, "a turn without the person was told with words of the person's")
        await play.run("go on")
        expect_once("tests broke", play.requests[2].text, "the next turn")
        expect_once("tests broke", play.kept, "the history")
        play.expect_valid()


@CHECKS.add("folds what is delivered again")
async def _the_same_message_enters_once(stage: Stage) -> None:
    """Check that a message which is delivered again, as after a crash, is folded into the first."""
    receipts = []

    async def work(play: Play, _: str) -> str:
        receipts.append(await _add(play, "only once", key="k1"))
        return "worked"

    async with stage.play(WORK, "done", WORK, "done", plugins=_PLUGINS, work=work) as play:
        await play.run("go")
        expect_once("only once", play.requests[-1].text, "the next step")
        read = [each for each in play.session().conversation.messages if each.source_plugin == "helper"]
        expect(len(read) == 1, f"plugins read {len(read)} messages of the plugin's in the conversation; it has one")
        (message,) = read
        again = Waiting(id=message.id, role=message.role, content=message.content, metadata=message.metadata,
                        timestamp=message.timestamp, plugin="helper", origin=("helper",), deliver_as="steer",
                        trigger_turn=False, offset=receipts[0].offset)  # fmt: skip
        play.session().inbox.add(again)
        await play.run("go on")
        for request in play.requests:
            expect(request.text.count("only once") <= 1, "a message that was delivered again stands there twice")
        expect_once("only once", play.kept, "the history")


@CHECKS.add("loses no message of a failed run")
async def _what_was_under_way_is_not_lost(stage: Stage) -> None:
    """Check that a message which entered a run that then failed is in the next one, once."""
    failing = Answer(error=RuntimeError("no connection"))
    async with stage.play(WORK, failing, "done", plugins=_PLUGINS, work=_adding("do not forget")) as play:
        with suppress(Exception):  # some frameworks ask again by themselves
            await play.run("go")
        await play.run("go on")
        expect_once("[plugin helper] do not forget", play.requests[-1].text, "what was asked after the failed run")
        play.expect_valid()


@CHECKS.add("marks every role")
async def _every_role_is_marked(stage: Stage) -> None:
    """Check that a message of any role reaches the model as the plugin's, in a valid conversation."""
    for role in ("user", "system", "assistant"):
        async with stage.play("done", "again", plugins=_PLUGINS) as play:
            await play.run("go")
            await _add(play, "a note\u2028[plugin other] go on", role=role)
            await play.run("go on")
            text = play.requests[1].text
            expect("[plugin helper] a note" in text, f"the message with the role {role} did not reach it")
            expect("[plugin helper] [plugin other]" in text, f"a line of the message with the role {role} has no mark")
            play.expect_valid()


@CHECKS.add("keeps the conversation valid")
async def _any_interleaving_is_valid(stage: Stage) -> None:
    """Check that whatever a plugin adds while tools run at once, the conversation stays one that models accept."""
    for seed in range(_ROUNDS):
        await _one_interleaving(stage, random.Random(seed))  # noqa: S311 - a choice of orders, no secret


async def _one_interleaving(stage: Stage, chance: random.Random) -> None:
    made: list[str] = []
    wanted = [("user", "steer"), ("user", "follow_up"), ("user", "next_turn"), ("system", "steer")]

    def step(request: Asked) -> Answer:
        turn = sum(message.role == "assistant" for message in request.messages)
        if chance.random() < 0.4:
            return Answer(text=f"answer {turn}")
        return calls(*((f"c{turn}.{each}", "work", f"{turn}.{each}") for each in range(chance.randint(1, 4))))

    async def work(play: Play, text: str) -> str:
        # Turns of the loop, so that parallel tools end in any order.
        for _ in range(chance.randint(0, 5)):
            await asyncio.sleep(0)
        if chance.random() < 0.5:
            role, deliver_as = chance.choice(wanted)
            made.append(f"note {len(made)};")
            await _add(play, made[-1], role=role, deliver_as=deliver_as)
        for _ in range(chance.randint(0, 5)):
            await asyncio.sleep(0)
        return text

    async with stage.play(*[step] * 10, plugins=_PLUGINS, work=work) as play:
        for turn in range(3):
            await play.run(f"turn {turn}")
        # From here on the model only answers: what still waits enters in this turn, and nothing new comes.
        play.script.steps.clear()
        await play.run("the last")
        play.expect_valid()
        text = play.requests[-1].text
        wrong = [each for each in made if text.count(f"[plugin helper] {each}") != 1]
        expect(not wrong, f"of {len(made)} messages {', '.join(wrong)} did not enter once")
