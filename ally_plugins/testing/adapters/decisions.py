"""What plugins and the person decide before a tool runs: gates, questions, permissions, previews."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.values.errors import AllyError
from ally_plugins.contract.values.events import (
    Decision,
    DiffPreview,
    PermissionRequest,
    PermissionResponse,
    ToolCallEnd,
    ToolCallStart,
)
from ally_plugins.contract.values.verdicts import Allow, Ask, Deny

from .check import Checks
from .script import Answer, RawCall, Step, calls
from .stage import WORK, Play, Stage, expect, plugin, tool

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import ToolCall

    from .driver import HostTool

__all__ = ["CHECKS"]

CHECKS: Final = Checks()

_AGAIN: Final = calls(("c2", "work", "b"))


class _Ran:
    """A tool that notes what it was given."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def tool(self, *, is_sensitive: bool = False) -> HostTool:
        def work(text: str) -> str:
            self.texts.append(text)
            return f"worked on {text}"

        return tool("work", work, is_sensitive=is_sensitive)


class _Person:
    """An approver that answers what a check says, and keeps the questions."""

    def __init__(self, *answers: str, watch: Callable[[], int] = lambda: 0) -> None:
        self.answers = list(answers)
        self.questions: list[Any] = []
        self.ran_before: list[int] = []
        self._watch = watch

    async def __call__(self, question: Any) -> str:
        self.questions.append(question)
        self.ran_before.append(self._watch())
        return self.answers.pop(0)


def _gate(verdict: Any) -> dict[str, type[Any]]:
    """Return a plugin `guard` whose gate of tool calls answers with a verdict, or with what is made of the call."""

    async def decide(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        return verdict(call) if callable(verdict) else verdict

    return {"guard": plugin(gate_tool_call=decide)}


def _crash(_: ToolCall) -> Any:
    raise ValueError("a bug in the gate")


async def _broken(_: Any) -> str:
    raise ValueError("the window was closed")


async def _undecided(_: Any) -> str:
    return "maybe"


_ASKS: Final = _gate(Ask("is it safe?"))


@asynccontextmanager
async def _nothing_runs(
    stage: Stage, plugins: Mapping[str, Any], says: str, *, made: Step = WORK, is_sensitive: bool = False, **setup: Any
) -> AsyncGenerator[Play]:
    """Play a run whose call `c1` must not run, and expect that the model is told why."""
    ran = _Ran()
    tools = [ran.tool(is_sensitive=is_sensitive)]
    async with stage.play(made, "as you like", plugins=plugins, tools=tools, **setup) as play:
        answer = await play.run()
        expect(
            answer == "as you like", f"the run returned {answer!r} after a call that was not allowed; it had to go on"
        )
        expect(not ran.texts, f"the tool ran with {ran.texts}; nobody had allowed it")
        play.expect_result("c1", says)
        yield play


@CHECKS.add("denies when a gate fails", cases=[{"plugins": _gate(_crash)}, {"plugins": _gate("allow")}], says="guard")
@CHECKS.add("denies what nobody can answer", cases=[{"plugins": _ASKS}], says="is it safe?")
@CHECKS.add(
    "denies when the person's answer is none",
    "approval",
    cases=[{"plugins": {}, "is_sensitive": True, "approve": person} for person in (_broken, _undecided)],
    says="",
)
async def _what_nobody_allows(stage: Stage, *, cases: Sequence[Mapping[str, Any]], says: str) -> None:
    """Check that a call does not run where the gate or the person gives no answer that allows it."""
    for case in cases:
        async with _nothing_runs(stage, says=says, **case):
            pass


@CHECKS.add("tells the model of a denial")
async def _deny_reaches_the_model(stage: Stage) -> None:
    """Check that a denied call does not run, and the model is told why, as the call's result."""
    async with _nothing_runs(stage, _gate(Deny("not on a Sunday")), "not on a Sunday") as play:
        expect([each.verdict for each in play.events_of(Decision)] == ["deny"], "the decision was not emitted")
        play.expect_calls("c1")
        _expect_denied(play, "c1", "not on a Sunday", play.events_of(Decision)[0].decision_id)
        play.expect_valid()


@CHECKS.add("lets gates decide before the person", "approval")
async def _gates_before_the_person(stage: Stage) -> None:
    """Check that a gate which denies the permission is not overruled, and the person is not asked."""
    person = _Person("allow")

    async def decide(self: Any, request: PermissionRequest) -> Deny:  # noqa: ARG001
        return Deny(f"never {request.tool_name}")

    gates = {"guard": plugin(gate_permission=decide)}
    async with _nothing_runs(stage, gates, "never work", is_sensitive=True, approve=person) as play:
        expect(not person.questions, "the person was asked what a gate had denied already")
        _expect_answers(play, [("c1", "deny")])


@CHECKS.add("denies what cannot be shown")
async def _what_cannot_be_shown(stage: Stage) -> None:
    """Check that a call whose arguments cannot be shown to a gate does not run, and is reported as that."""
    # What JSON does not have, what our codec would change, and what is nested deeper than values may be.
    for value in (float("nan"), float("inf"), 2**70, _nested(100)):
        seen: list[Any] = []
        made = Answer(calls=(RawCall("work", {"text": "a", "more": value}, "c1"),))
        async with _nothing_runs(stage, _gate(lambda call, seen=seen: seen.append(call)), "more", made=made) as play:
            expect(not seen, f"a gate was shown {seen} in the place of arguments that cannot be shown")
            starts = play.events_of(ToolCallStart)
            expect(
                [dict(each.arguments) for each in starts] == [{}], "the call was not reported as begun, without them"
            )
            expect(bool(starts[0].unshown), "the start does not say why it has no arguments")
            decision = play.events_of(Decision)
            is_first = bool(decision) and decision[0].seq < starts[0].seq
            expect(is_first, "the call was reported as begun before it was denied")
            _expect_denied(play, "c1", "more", decision[0].decision_id)
            play.expect_valid()


def _nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


@CHECKS.add("denies when a gate does not run")
async def _a_mandatory_plugin(stage: Stage) -> None:
    """Check that a run whose host cannot start says so, rather than run without its plugins."""

    async def fail(self: Any) -> None:  # noqa: ARG001
        raise OSError("no device")

    async def never(self: Any, call: ToolCall) -> Any:
        raise NotImplementedError

    ran = _Ran()
    gates = {"guard": plugin(start=fail, gate_tool_call=never)}
    async with stage.play(WORK, "done", plugins=gates, tools=[ran.tool()]) as play:
        try:
            await play.run()
        except AllyError:
            return
        expect(not ran.texts, "a tool ran although a plugin with a gate could not start")
        play.expect_result("c1", "guard")


@CHECKS.add("denies one of several")
async def _one_of_two_is_denied(stage: Stage) -> None:
    """Check that of calls made at once only the denied one does not run."""
    ran = _Ran()
    gates = _gate(lambda call: Deny("not b") if call.arguments["text"] == "b" else Allow())
    made = calls(("c1", "work", "a"), ("c2", "work", "b"), ("c3", "work", "c"))
    async with stage.play(made, "done", plugins=gates, tools=[ran.tool()]) as play:
        await play.run()
        expect(sorted(ran.texts) == ["a", "c"], f"the tool ran with {ran.texts}; only 'b' was denied")
        play.expect_result("c2", "not b")
        play.expect_result("c1", "worked on a")
        play.expect_valid()


@CHECKS.add("tells each call once")
async def _each_call_is_reported_once(stage: Stage) -> None:
    """Check that each call has one start and one end, whatever was decided."""
    gates = _gate(lambda call: Deny("no") if call.arguments["text"] == "a" else None)
    made = calls(("c1", "work", "a"), ("c2", "work", "b"))
    async with stage.play(made, "done", plugins=gates, tools=[tool()]) as play:
        await play.run()
        play.expect_calls("c1", "c2")
        denied = [each.call_id for each in play.events_of(ToolCallEnd) if each.denied]
        expect(denied == ["c1"], f"the calls {denied} were reported as denied; only 'c1' was")


@CHECKS.add("asks the person", "approval")
async def _ask_goes_to_the_person(stage: Stage) -> None:
    """Check that the person is asked with the reason, and who asks; their answer holds."""
    ran, person = _Ran(), _Person("deny", "allow")
    async with stage.play(WORK, _AGAIN, "done", plugins=_ASKS, tools=[ran.tool()], approve=person) as play:
        await play.run()
        expect(ran.texts == ["b"], f"the tool ran with {ran.texts}; the person denied 'a' and allowed 'b'")
        first = person.questions[0]
        _expect_denied(play, "c1", "is it safe?", play.events_of(Decision)[0].decision_id)
        expect("is it safe?" in first.reason, f"the person was asked for the reason {first.reason!r}")
        expect(first.asked_by == ("guard",), f"the person was told that {first.asked_by} asks; it was 'guard'")
        expect(first.call.arguments == {"text": "a"}, f"the person was asked about {dict(first.call.arguments)}")
        play.expect_result("c1", "not")
        _expect_answers(play, [("c1", "deny"), ("c2", "allow")])


@CHECKS.add("asks before a sensitive tool", "approval")
async def _a_sensitive_tool_asks(stage: Stage) -> None:
    """Check that a tool the host marks as sensitive is asked about, once when the answer is `always`."""
    ran = _Ran()
    person = _Person("always", watch=lambda: len(ran.texts))
    async with stage.play(WORK, _AGAIN, "done", tools=[ran.tool(is_sensitive=True)], approve=person) as play:
        await play.run()
        expect(ran.texts == ["a", "b"], f"the tool ran with {ran.texts}; the person allowed it always")
        expect(len(person.questions) == 1, f"the person was asked {len(person.questions)} times after 'always'")
        requests = play.events_of(PermissionRequest)
        expect(
            bool(requests) and requests[0].call_id == "c1", "PERMISSION_REQUEST was not emitted, or without its call"
        )
        answer = play.events_of(PermissionResponse)[0]
        expect((answer.call_id, answer.choice) == ("c1", "always"), "PERMISSION_RESPONSE has another answer")
        start, end = play.events_of(ToolCallStart)[0], play.events_of(ToolCallEnd)[0]
        expect(start.seq < requests[0].seq, "the person was asked about a call that had not begun")
        expect(answer.seq < end.seq, "a call ended before the person had answered")
        expect(person.ran_before == [0], "a tool ran before the person had answered")


@CHECKS.add("previews before anybody decides", "approval", "preview")
async def _a_preview_comes_first(stage: Stage) -> None:
    """Check that DIFF_PREVIEW comes behind the start, before gate, question and tool, and the question has it."""
    ran, person, seen = _Ran(), _Person("allow"), []

    def preview(call: ToolCall) -> DiffPreview:
        return DiffPreview(
            tool_name=call.tool_name, file_path="a.txt", new_content=str(call.arguments["text"]), call_id=call.call_id
        )

    async def begun(self: Any, event: ToolCallStart) -> None:  # noqa: ARG001
        seen.append(f"start {event.call_id}")

    async def see(self: Any, event: DiffPreview) -> None:  # noqa: ARG001
        seen.append(f"preview {event.new_content} {event.call_id}")

    async def decide(self: Any, call: ToolCall) -> Ask:  # noqa: ARG001
        seen.append(f"gate {call.call_id}")
        return Ask("look at it")

    gates = {"guard": plugin(tool_call_start=begun, diff_preview=see, gate_tool_call=decide)}
    async with stage.play(WORK, "done", plugins=gates, tools=[ran.tool()], approve=person, preview=preview) as play:
        await play.run()
        wanted = ["start c1", "preview a c1", "gate c1"]
        expect(seen == wanted, f"the plugin saw {seen}; expected the start, the preview, then the gate's question")
        diff = person.questions[0].diff
        expect(diff is not None and diff.new_content == "a", "the person was asked without what would change")


def _expect_denied(play: Play, call_id: str, reason: str, decision_id: str) -> None:
    ends = [each for each in play.events_of(ToolCallEnd) if each.call_id == call_id]
    expect(len(ends) == 1, f"the call {call_id!r} ended {len(ends)} times; expected once")
    end = ends[0]
    expect(end.denied and not end.success, f"the denied call {call_id!r} was reported as one that ran")
    expect(reason in (end.error or ""), f"its end says {end.error!r}; expected the reason {reason!r}")
    expect(end.decision_id == decision_id, f"its end names the decision {end.decision_id!r}; it was {decision_id!r}")
    expect(end.duration_ms is None, "the end of a call that did not run has a duration")


def _expect_answers(play: Play, wanted: list[tuple[str, str]]) -> None:
    requests = {each.request_id: each for each in play.events_of(PermissionRequest)}
    found = []
    for answer in play.events_of(PermissionResponse):
        request = requests.get(answer.request_id)
        expect(request is not None, f"PERMISSION_RESPONSE answers {answer.request_id!r}, which nobody asked")
        found.append((request.call_id if request is not None else "", answer.choice))
    expect(found == wanted, f"the answers {found} were emitted; expected {wanted}")
