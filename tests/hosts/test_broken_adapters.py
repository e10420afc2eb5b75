"""The checks for host adapters find what is wrong: the guide's adapter passes, and each way to break it is found.

The adapter is the one of docs/how-to/write-an-adapter.md, taken from that page; each of the broken ones differs from it
in one place. What that page leaves out, streams and compaction, has a whole adapter here, and broken ones of its own.
"""

# Code in the style of the page, which has no types.
# ruff: noqa: ANN001, ANN201, ANN202, ARG002
# mypy: ignore-errors

from __future__ import annotations

import copy
import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from attrs import evolve

from ally_plugins import EVENT_TYPES, EventError, GateRefused, ToolCall, ToolCallStart
from ally_plugins.adapters.kit.answers import AnswerRefused
from ally_plugins.testing import ADAPTER_CHECKS, AdapterDriver, run_adapter_check

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "write-an-adapter.md"
HANGING = 10.0
"""Seconds after which a check is given up here; each is done in a tenth of that."""


def _page() -> Any:
    """Return what the code of the page defines, up to where it begins to check."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    until = next(n for n, block in enumerate(blocks) if "check_adapter" in block)
    module = ModuleType("adapter_of_the_guide")
    sys.modules[module.__name__] = module  # dataclasses look there
    for block in blocks[:until]:
        code = compile(block, str(GUIDE), "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102 - our own page
    return module


page = _page()


class Whole(page.Adapter):
    """The adapter of the page, and what it leaves out."""

    serves = evolve(page.Adapter.serves, events=frozenset(EVENT_TYPES))

    async def around_stream(self, loop, request, ask):
        return await self.around_model(loop, request, ask)

    async def before_model(self, loop, history):
        shorter = await self.work.compacted(history, page.convert)
        if shorter is not None:
            history[:] = shorter
        await super().before_model(loop, history)


def shortened(history):
    """Return the last message of the person, and what came after it."""
    last = max(n for n, entry in enumerate(history) if entry.role == "user" and "ally" not in entry.note)
    return history[last:]


def streaming(loop):
    """Return the loop as it runs when answers are streamed: the framework has another place around those."""
    middleware = copy.copy(loop.middleware)
    middleware.around_model = loop.middleware.around_stream
    return page.Loop(loop.name, partial(in_pieces, loop.model), loop.tools, loop.system, middleware)


async def in_pieces(model, request, show=lambda _: None):
    """Show an answer word by word, and return it."""
    reply = await model(request)
    for word in reply.entry.text.split():
        show(word)
    return reply


class WholeDriver(page.Driver):
    serves = Whole.serves
    lacks = frozenset()
    adapter = Whole

    def make(self, setup):
        made = super().make(setup)
        plugins = made["loop"].middleware
        plugins.kit = evolve(plugins.kit, compact=shortened if setup.can_compact else None)
        return made

    async def run(self, agent, prompt, *, session_id, is_streamed=False):
        used = {**agent, "loop": streaming(agent["loop"])} if is_streamed else agent
        return await super().run(used, prompt, session_id=session_id)


class ClaimsWhatNobodyIsGiven(page.Adapter):
    serves = evolve(page.Adapter.serves, events=frozenset(EVENT_TYPES))


class ClaimsTooLittle(page.Adapter):
    serves = evolve(page.Adapter.serves, gates=frozenset({"message", "permission"}))


class TellsNoStreams(Whole):
    async def around_stream(self, loop, request, ask):
        return await ask(await self.changed(request))


class SaysEachPiece(Whole):
    """Tells each piece of a streamed answer as a message."""

    async def around_stream(self, loop, request, ask):
        return await super().around_stream(loop, request, partial(ask, show=self.work.said))


class ShortensWithoutAsking(Whole):
    """Does what the action `compact` wants by itself: no gate is asked, and nothing told."""

    async def before_model(self, loop, history):
        if self.work.live.compactions.due(None, None):
            history[:] = shortened(history)
        await super().before_model(loop, history)


class ShortensOneTurn(Whole):
    """Goes on in the next turn with the conversation as it was before."""

    async def around_run(self, loop, conversation, history, prompt, go):
        before = list(history)
        said = await super().around_run(loop, conversation, history, prompt, go)
        history[:] = before + [entry for entry in history if all(entry is not old for old in before)]
        return said


class DropsWhatHasToSurvive(Whole):
    """Shortens behind what plugins have added, and drops that with the rest."""

    async def before_model(self, loop, history):
        await super().before_model(loop, history)
        history[:] = [entry for entry in history if "ally" not in entry.note]


class AsksNobody(page.Adapter):
    """Runs tools without asking gates or the person."""

    async def around_call(self, loop, call, go):
        return str(await go(call))


class ShowsSomethingElse(page.Adapter):
    """Shows a call without its arguments where these cannot be shown, and runs it with them."""

    async def around_call(self, loop, call, go):
        try:
            ToolCall(call["name"], call["arguments"], call["id"])
        except EventError:

            async def as_it_was(_):
                return await go(call)

            return await super().around_call(loop, {**call, "arguments": {}}, as_it_was)
        return await super().around_call(loop, call, go)


class CarriesOutWhatWasDenied(page.Adapter):
    async def around_call(self, loop, call, go):
        said = await super().around_call(loop, call, go)
        return str(await go(call)) if said.startswith("not run") else said


class BeginsAfterTheGates(page.Adapter):
    """Tells that a call begins only once it may run."""

    async def around_call(self, loop, call, go):
        held, emit = [], self.work.emit

        def late(event):
            held.append(event) if isinstance(event, ToolCallStart) else emit(event)

        self.work.emit = late
        try:
            said = await super().around_call(loop, call, go)
        finally:
            self.work.emit = emit
        for event in held:
            emit(event)
        return said


class RaisesDenials(page.Adapter):
    async def around_call(self, loop, call, go):
        said = await super().around_call(loop, call, go)
        if said.startswith("not run"):
            raise PermissionError(said)
        return said


class AsksBeforeItTransforms(page.Adapter):
    async def around_call(self, loop, call, go):
        given = ToolCall(call["name"], call["arguments"], call["id"])
        outcome = await self.work.authorize(given)
        if not outcome.is_allowed:
            return f"not run: {outcome.reason}"
        final = await self.work.transform_input(given)

        async def run(_):
            return page.ToolResult(success=True, output=await go({**call, "arguments": dict(final.arguments)}))

        return (await self.work.carry_out(final, run)).output


class ForgetsReasons(page.Adapter):
    async def around_call(self, loop, call, go):
        said = await super().around_call(loop, call, go)
        return "not run" if said.startswith("not run") else said


class ChecksNothing(page.Adapter):
    """Runs tools with whatever transforms made of the arguments."""

    async def around_call(self, loop, call, go):
        async def unchecked(call):
            _, function = loop.tools[call["name"]]
            return await function(**call["arguments"])

        return await super().around_call(loop, call, unchecked)


class TellsCallsWithoutIds(page.Adapter):
    async def around_call(self, loop, call, go):
        return await super().around_call(loop, {**call, "id": None}, go)


class HidesWhatToolsRaise(page.Adapter):
    async def around_call(self, loop, call, go):
        async def quiet(call):
            try:
                return await go(call)
            except Exception:  # noqa: BLE001 - that is what is wrong
                return "it did not work"

        return await super().around_call(loop, call, quiet)


class TakesWhatToolsReturnForSuccess(page.Adapter):
    def __init__(self, host: Any, **options: Any) -> None:
        super().__init__(host, **{**options, "tool_failure": None})


class ShowsWhatWasWithheld(page.Adapter):
    """Gives the model the tool's output instead of what transforms made of it."""

    async def around_call(self, loop, call, go):
        kept = []

        async def keep(call):
            kept.append(await go(call))
            return kept[-1]

        said = await super().around_call(loop, call, keep)
        return kept[-1] if kept else said


class DeliversBetweenResults(page.Adapter):
    """Puts messages into the history as soon as a call has ended."""

    async def around_run(self, loop, conversation, history, prompt, go):
        self.history = history
        return await super().around_run(loop, conversation, history, prompt, go)

    async def around_call(self, loop, call, go):
        said = await super().around_call(loop, call, go)
        self.history += [page.entry_for(message) for message in await self.work.safe_point("step")]
        return said


class DeliversNothing(page.Adapter):
    async def before_model(self, loop, history):
        self.work.follow(history, page.convert)


class StopsAtTheEnd(page.Adapter):
    async def at_end(self, history):
        return False


class FollowsUpAtOnce(page.Adapter):
    """Takes each step for the end of a turn."""

    async def before_model(self, loop, history):
        await super().before_model(loop, history)
        await self.at_end(history)


class LosesThemInTheHistory(page.Adapter):
    """Lets the model read messages, and keeps none of them."""

    async def around_model(self, loop, request, ask):
        request.history = list(request.history)
        reply = await super().around_model(loop, request, ask)
        loop.kept[:] = [entry for entry in loop.kept if "ally" not in entry.note]
        return reply

    async def before_model(self, loop, history):
        loop.kept = history
        await super().before_model(loop, history)


class DoesNotKnowThemAgain(page.Adapter):
    """Reads plugins' messages in the history as the person's."""

    async def before_model(self, loop, history):
        await super().before_model(loop, history)
        for entry in history:
            entry.note.clear()


class OneSessionForAll(page.Adapter):
    async def around_run(self, loop, conversation, history, prompt, go):
        return await super().around_run(loop, "the same", history, prompt, go)


class ASessionForEachRun(page.Adapter):
    async def around_run(self, loop, conversation, history, prompt, go):
        return await super().around_run(loop, page.uuid4().hex, history, prompt, go)


class LosesFailedRuns(page.Adapter):
    """Puts the history back to where it was before a run that failed, and ends the run as one that went well."""

    async def around_run(self, loop, conversation, history, prompt, go):
        before = list(history)
        async with self.kit.work(conversation, page.uuid4().hex, loop.name) as work:
            work.follow(history, page.convert)
            try:
                return await go(await work.begin(prompt))
            except RuntimeError:
                work.follow(history, page.convert)
                history[:] = before
                raise


class LeavesCallsOpen(page.Adapter):
    async def around_run(self, loop, conversation, history, prompt, go):
        try:
            return await super().around_run(loop, conversation, history, prompt, go)
        except BaseException:
            while history and history[-1].role == "tool":
                history.pop()
            raise


class KeepsErrorsToItself(page.Adapter):
    """Ends a failed run as if it had gone well."""

    async def around_run(self, loop, conversation, history, prompt, go):
        async with self.kit.work(conversation, "r", loop.name) as work:
            work.follow(history, page.convert)
            return await go(await work.begin(prompt))


class SwallowsErrors(page.Adapter):
    async def around_run(self, loop, conversation, history, prompt, go):
        try:
            return await super().around_run(loop, conversation, history, prompt, go)
        except RuntimeError:
            return ""


class AsksWhatWasBlocked(page.Adapter):
    async def around_run(self, loop, conversation, history, prompt, go):
        try:
            return await super().around_run(loop, conversation, history, prompt, go)
        except GateRefused:
            return await loop.model(page.Request(loop.system, [page.Entry("user", prompt)], {}))


class AsksInSpiteOfADenial(Whole):
    """Goes on with what was denied as if it had been allowed."""

    async def around_model(self, loop, request, ask):
        kept = []

        async def keep(request):
            reply = await ask(request)
            kept.append(copy.deepcopy(reply))
            return reply

        try:
            return await super().around_model(loop, request, keep)
        except AnswerRefused:
            return kept[-1]


class ShowsAnswersAsTheyWere(Whole):
    """Asks transforms about an answer, and goes on with what the model wrote."""

    async def around_model(self, loop, request, ask):
        answered = self.work.answered

        async def unchanged(text):
            await answered(text)
            return text

        self.work.answered = unchanged
        try:
            return await super().around_model(loop, request, ask)
        finally:
            self.work.answered = answered


class AsksNobodyWhetherToStop(page.Adapter):
    async def at_end(self, history):
        self.work.sent_on = _nothing
        return await super().at_end(history)


async def _nothing(_):
    return ()


class StopsForNobody(page.Adapter):
    """Goes on for as long as gates would have it, and longer."""

    async def at_end(self, history):
        return await super().at_end(history) or len(history) < 20


class IgnoresTransformedPrompts(page.Adapter):
    async def around_run(self, loop, conversation, history, prompt, go):
        async def as_it_was(_):
            return await go(prompt)

        return await super().around_run(loop, conversation, history, prompt, as_it_was)


class CannotBeStopped(page.Adapter):
    async def around_run(self, loop, conversation, history, prompt, go):
        async def unstoppable(prompt):
            self.work.stop = lambda: None
            return await go(prompt)

        return await super().around_run(loop, conversation, history, prompt, unstoppable)


class NeverFollows(page.Adapter):
    async def before_model(self, loop, history):
        history += [page.entry_for(message) for message in await self.work.safe_point("step")]

    async def at_end(self, history):
        return False

    async def around_run(self, loop, conversation, history, prompt, go):
        async with self.kit.work(conversation, page.uuid4().hex, loop.name) as work:
            said = await go(await work.begin(prompt))
            work.end(said)
            return said


class KeepsChangedRequests(page.Adapter):
    """Takes what a transform made of one request for the conversation."""

    async def changed(self, request):
        made = await super().changed(request)
        request.history[:] = made.history
        return made


class ShowsPluginsNoPrompt(page.Adapter):
    async def changed(self, request):
        made = await super().changed(page.Request("", request.history, request.tools))
        return page.Request(request.system + made.system, made.history, made.tools)


class ForgetsSections(page.Adapter):
    async def changed(self, request):
        made = await super().changed(request)
        return page.Request(request.system, made.history, made.tools)


class LeavesTheVolatileInThePrompt(page.Adapter):
    async def changed(self, request):
        made = await super().changed(request)
        added = made.history[len(request.history) :]
        system = "\n\n".join([made.system, *(entry.text for entry in added)])
        return page.Request(system, made.history[: len(request.history)], made.tools)


class AddsToThePrompt(page.Adapter):
    """Changes something without any plugin."""

    async def changed(self, request):
        made = await super().changed(request)
        return page.Request(made.system, [page.Entry("user", "be nice"), *made.history], made.tools)


class CountsWrong(page.Adapter):
    async def around_model(self, loop, request, ask):
        async def ask_twice_as_dear(request):
            reply = await ask(request)
            return page.Reply(reply.entry, reply.thinking, (reply.tokens[0] * 2, reply.tokens[1]))

        return await super().around_model(loop, request, ask_twice_as_dear)


class HidesThoughts(page.Adapter):
    async def around_model(self, loop, request, ask):
        async def thoughtless(request):
            reply = await ask(request)
            return page.Reply(reply.entry, "", reply.tokens)

        return await super().around_model(loop, request, thoughtless)


class SaysNothing(page.Adapter):
    """Does not tell what the model says."""

    async def around_model(self, loop, request, ask):
        self.work.said = lambda _: None
        return await super().around_model(loop, request, ask)


class KeepsTheFirstTools(page.Adapter):
    tools: Any = None

    def more_tools(self, taken):
        if self.tools is None:
            self.tools = super().more_tools(taken)
        return self.tools


class CallsTheirToolsItself(page.Adapter):
    """Lets plugins' tools run without gates."""

    async def around_call(self, loop, call, go):
        return await (super().around_call(loop, call, go) if call["name"] in loop.tools else go(call))


class StopsTheHost(page.Adapter):
    async def around_run(self, loop, conversation, history, prompt, go):
        said = await super().around_run(loop, conversation, history, prompt, go)
        await self.kit.host.stop()
        return said


class StartsNoHost(page.Adapter):
    async def around_run(self, loop, conversation, history, prompt, go):
        if self.kit.host.loop is None:
            return await go(prompt)
        return await super().around_run(loop, conversation, history, prompt, go)


class MarksNoSubAgents(page.Adapter):
    async def around_run(self, loop, conversation, history, prompt, go):
        from ally_plugins.adapters.kit import kit

        token = kit._WORK.set(None)
        try:
            return await super().around_run(loop, conversation, history, prompt, go)
        finally:
            kit._WORK.reset(token)


BROKEN = {
    AsksNobody: ["tells the model of a denial", "denies one of several", "denies when a gate fails",
                 "denies when a gate does not run", "denies what nobody can answer", "asks the person",
                 "asks before a sensitive tool", "denies when the person's answer is none",
                 "lets gates decide before the person", "previews before anybody decides", "tells each call once",
                 "runs transforms in order"],
    ShowsSomethingElse: ["denies what cannot be shown"],
    CarriesOutWhatWasDenied: ["tells the model of a denial", "denies what cannot be shown"],
    BeginsAfterTheGates: ["asks before a sensitive tool", "previews before anybody decides"],
    RaisesDenials: ["tells the model of a denial", "denies one of several"],
    AsksBeforeItTransforms: ["gates what transforms made"],
    ForgetsReasons: ["tells the model of a denial", "denies when a gate fails", "denies what nobody can answer"],
    ChecksNothing: ["checks what transforms made"],
    TellsCallsWithoutIds: ["tells calls with their results"],
    HidesWhatToolsRaise: ["tells of a tool that fails", "offers plugins' tools"],
    TakesWhatToolsReturnForSuccess: ["tells a failure that a tool returns"],
    ShowsWhatWasWithheld: ["runs transforms in order"],
    DeliversBetweenResults: ["steers after all results", "keeps the conversation valid"],
    DeliversNothing: ["steers after all results", "is woken by plugins",
                      "keeps messages for the next turn", "marks every role"],
    StopsAtTheEnd: ["follows up at the end"],
    FollowsUpAtOnce: ["follows up at the end"],
    LosesThemInTheHistory: ["steers after all results", "is woken by plugins"],
    DoesNotKnowThemAgain: ["folds what is delivered again", "loses no message of a failed run"],
    LosesFailedRuns: ["loses no message of a failed run"],
    OneSessionForAll: ["keeps conversations apart"],
    ASessionForEachRun: ["gives plugins the history", "tells what was said"],
    LeavesCallsOpen: ["ends a cancelled run well", "can be interrupted"],
    KeepsErrorsToItself: ["tells of a model that fails"],
    SwallowsErrors: ["tells of a model that fails"],
    AsksWhatWasBlocked: ["begins nothing that is blocked", "refuses a message of the person"],
    AsksInSpiteOfADenial: ["withholds a denied answer", "withholds a denied answer of a stream",
                           "runs no call beside a denied answer", "cuts a stream at a denied sentence"],
    ShowsAnswersAsTheyWere: ["returns what transforms made of an answer",
                             "streams what transforms made of an answer"],
    AsksNobodyWhetherToStop: ["goes on when a gate does not let it stop"],
    StopsForNobody: ["stops in the end"],
    IgnoresTransformedPrompts: ["runs transforms in order"],
    CannotBeStopped: ["can be interrupted"],
    NeverFollows: ["gives plugins the history"],
    KeepsChangedRequests: ["asks the model what transforms made"],
    ShowsPluginsNoPrompt: ["gives plugins its own prompt"],
    LeavesTheVolatileInThePrompt: ["keeps the prompt cache"],
    AddsToThePrompt: ["changes nothing by itself"],
    CountsWrong: ["tells usage and thresholds", "tells what an answer took"],
    HidesThoughts: ["tells thoughts"],
    SaysNothing: ["tells a turn in order", "tells what was said"],
    KeepsTheFirstTools: ["lets plugins' tools come and go"],
    CallsTheirToolsItself: ["gates plugins' tools"],
    StopsTheHost: ["leaves a running host alone"],
    StartsNoHost: ["starts and stops a host"],
    MarksNoSubAgents: ["tells sub-agents"],
    ClaimsWhatNobodyIsGiven: ["serves what it says"],
    ClaimsTooLittle: ["serves what it says"],
    ForgetsSections: ["adds plugins' sections"],
    TellsNoStreams: ["tells a streamed turn in order"],
    SaysEachPiece: ["tells a streamed turn in order"],
    ShortensWithoutAsking: ["tells and survives a compaction", "lets gates stop a compaction"],
    ShortensOneTurn: ["tells and survives a compaction"],
    DropsWhatHasToSurvive: ["tells and survives a compaction"],
}  # fmt: skip
"""What is broken, and the checks that must find it."""


@pytest.mark.parametrize("adapter", BROKEN, ids=lambda adapter: adapter.__name__)
def test_what_is_wrong_with_an_adapter_is_found(adapter: Any) -> None:
    class Driver(WholeDriver if issubclass(adapter, Whole) else page.Driver):
        pass

    Driver.adapter, Driver.serves = adapter, adapter.serves
    for check in BROKEN[adapter]:
        finding = run_adapter_check(check, Driver(), longest=HANGING)
        assert not finding.is_ok, f"{check!r} finds nothing wrong with {adapter.__name__}"


def test_each_check_finds_something() -> None:
    assert {check for checks in BROKEN.values() for check in checks} == set(ADAPTER_CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize("driver", [page.Driver, WholeDriver])
def test_none_finds_anything_wrong_with_the_adapter_of_the_page(driver: Any) -> None:
    for check in ADAPTER_CHECKS:
        assert run_adapter_check(check, driver()).is_ok, check


def test_what_an_adapter_lacks_is_left_out_and_said() -> None:
    finding = run_adapter_check("tells a streamed turn in order", page.Driver())
    assert finding.is_ok
    assert finding.remarks == ("left out: it lacks a run whose answer is streamed",)


def test_checks_of_what_an_adapter_does_not_serve_are_left_out_without_another_word() -> None:
    assert "compaction" not in page.Driver.lacks
    finding = run_adapter_check("tells and survives a compaction", page.Driver())
    assert finding.remarks == ("left out: it lacks the action `compact`, with its events",)


def test_a_driver_cannot_lack_what_its_adapter_serves() -> None:
    class Wrong(page.Driver):
        lacks = frozenset({"thinking"})

    with pytest.raises(ValueError, match="lacks 'thinking' and serves THOUGHT_COMPLETE"):
        run_adapter_check("tells thoughts", Wrong())


def test_a_driver_that_does_not_say_what_is_served_is_found() -> None:
    class Silent(page.Driver):
        serves = None

    finding = run_adapter_check("serves what it says", Silent())
    assert finding.problem == (
        "the adapter of this page does not say what it serves; set `serves` of the driver to that of the adapter"
    )


def test_a_part_that_there_is_not_cannot_be_lacking() -> None:
    class Wrong(page.Driver):
        lacks = frozenset({"steaming"})

    with pytest.raises(ValueError, match="lacks 'steaming'; expected parts out of"):
        run_adapter_check("tells thoughts", Wrong())
    assert issubclass(Wrong, AdapterDriver)
