"""What plugins and the person decide before a tool runs: gates, questions, permissions, previews."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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

from .check import AdapterCheck, needing
from .script import Answer, RawCall, calls
from .stage import Play, Stage, expect, plugin, tool

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import ToolCall

    from .driver import HostTool

__all__ = ["CHECKS"]

_WORK: Final = calls(("c1", "work", "a"))


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
    """An approver that answers what a check tells it, and keeps the questions."""

    def __init__(self, *answers: str, watch: Callable[[], int] = lambda: 0) -> None:
        self.answers = list(answers)
        self.questions: list[Any] = []
        self.ran_before: list[int] = []
        self._watch = watch

    async def __call__(self, question: Any) -> str:
        self.questions.append(question)
        self.ran_before.append(self._watch())
        return self.answers.pop(0)


def _gate(verdict: Any) -> type[Any]:
    async def decide(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        return verdict(call) if callable(verdict) else verdict

    return plugin(gate_tool_call=decide)


async def _deny_reaches_the_model(stage: Stage) -> None:
    """Check that a denied call does not run, and the model is told why, as the call's result."""
    ran = _Ran()
    gates = {"guard": _gate(Deny("not on a Sunday"))}
    async with stage.play(_WORK, "as you like", plugins=gates, tools=[ran.tool()]) as play:
        expect(await play.run() == "as you like", "the run did not go on after a denied call")
        expect(not ran.texts, "a tool ran although a gate had denied it")
        expect("not on a Sunday" in play.result_of("c1"), f"the model was told {play.result_of('c1')!r} of the denial")
        expect([each.verdict for each in play.told(Decision)] == ["deny"], "the decision was not told")
        expect(len(play.told(ToolCallStart)) == 1, "a call that was denied was not told as begun, once")
        _expect_denied(play, "c1", "not on a Sunday", play.told(Decision)[0].decision_id)
        play.expect_valid()


async def _one_of_two_is_denied(stage: Stage) -> None:
    """Check that of calls made at once only the denied one does not run."""
    ran = _Ran()
    gates = {"guard": _gate(lambda call: Deny("not b") if call.arguments["text"] == "b" else Allow())}
    made = calls(("c1", "work", "a"), ("c2", "work", "b"), ("c3", "work", "c"))
    async with stage.play(made, "done", plugins=gates, tools=[ran.tool()]) as play:
        await play.run()
        expect(sorted(ran.texts) == ["a", "c"], f"the tool ran with {ran.texts}; only 'b' was denied")
        expect("not b" in play.result_of("c2"), "the model was not told of the denial")
        expect("worked on a" in play.result_of("c1"), "another call of the same answer was lost")
        play.expect_valid()


def _fails(kind: str) -> type[Any]:
    async def decide(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        if kind == "crashes":
            raise ValueError("a bug in the gate")
        if kind == "hangs":
            await asyncio.sleep(3600)
        return "allow"

    return plugin(gate_tool_call=decide)


async def _gates_fail_closed(stage: Stage) -> None:
    """Check that a gate which crashes, or answers nonsense, denies."""
    for kind in ("crashes", "answers nonsense"):
        ran = _Ran()
        async with stage.play(_WORK, "done", plugins={"guard": _fails(kind)}, tools=[ran.tool()]) as play:
            await play.run()
            expect(not ran.texts, f"a tool ran although its gate {kind}")
            expect("guard" in play.result_of("c1"), f"the model was not told which gate {kind}")


async def _ask_without_a_person(stage: Stage) -> None:
    """Check that a question which nobody is there to answer is a deny."""
    ran = _Ran()
    gates = {"guard": _gate(Ask("is it safe?"))}
    async with stage.play(_WORK, "done", plugins=gates, tools=[ran.tool()]) as play:
        await play.run()
        expect(not ran.texts, "a tool ran although nobody had agreed")
        expect("is it safe?" in play.result_of("c1"), "the model was not told what nobody agreed to")


async def _ask_goes_to_the_person(stage: Stage) -> None:
    """Check that the person is asked with the reason, and who asks; their answer holds."""
    ran, person = _Ran(), _Person("deny", "allow")
    gates = {"guard": _gate(Ask("is it safe?"))}
    again = calls(("c2", "work", "b"))
    async with stage.play(_WORK, again, "done", plugins=gates, tools=[ran.tool()], approve=person) as play:
        await play.run()
        expect(ran.texts == ["b"], f"the tool ran with {ran.texts}; the person denied 'a' and allowed 'b'")
        first = person.questions[0]
        _expect_denied(play, "c1", "is it safe?", play.told(Decision)[0].decision_id)
        expect("is it safe?" in first.reason, f"the person was asked for the reason {first.reason!r}")
        expect(first.asked_by == ("guard",), f"the person was told that {first.asked_by} asks; it was 'guard'")
        expect(first.call.arguments == {"text": "a"}, f"the person was asked about {dict(first.call.arguments)}")
        expect("not" in play.result_of("c1"), "the model was not told that the person did not agree")
        _expect_answers(play, [("c1", "deny"), ("c2", "allow")])


async def _a_sensitive_tool_asks(stage: Stage) -> None:
    """Check that a tool the host marks as sensitive is asked about, once when the answer is `always`."""
    ran = _Ran()
    person = _Person("always", watch=lambda: len(ran.texts))
    again = calls(("c2", "work", "b"))
    async with stage.play(_WORK, again, "done", tools=[ran.tool(is_sensitive=True)], approve=person) as play:
        await play.run()
        expect(ran.texts == ["a", "b"], f"the tool ran with {ran.texts}; the person allowed it always")
        expect(len(person.questions) == 1, f"the person was asked {len(person.questions)} times after 'always'")
        requests = play.told(PermissionRequest)
        expect(bool(requests) and requests[0].call_id == "c1", "PERMISSION_REQUEST was not told, or without its call")
        answer = play.told(PermissionResponse)[0]
        expect((answer.call_id, answer.choice) == ("c1", "always"), "PERMISSION_RESPONSE tells another answer")
        start, end = play.told(ToolCallStart)[0], play.told(ToolCallEnd)[0]
        expect(start.seq < requests[0].seq, "the person was asked about a call that had not begun")
        expect(answer.seq < end.seq, "a call ended before the person had answered")
        expect(person.ran_before == [0], "a tool ran before the person had answered")


async def _an_approver_that_fails(stage: Stage) -> None:
    """Check that a failing approver, and an answer that is none, are a deny."""

    async def broken(_: Any) -> str:
        raise ValueError("the window was closed")

    for approve in (broken, _Person("maybe")):
        ran = _Ran()
        async with stage.play(_WORK, "done", tools=[ran.tool(is_sensitive=True)], approve=approve) as play:
            await play.run()
            expect(not ran.texts, "a tool ran although the person's answer was none")
            expect(bool(play.result_of("c1")), "the model was told nothing")


async def _gates_before_the_person(stage: Stage) -> None:
    """Check that a gate which denies the permission is not overruled, and the person is not asked."""
    ran, person = _Ran(), _Person("allow")

    async def decide(self: Any, request: PermissionRequest) -> Deny:  # noqa: ARG001
        return Deny(f"never {request.tool_name}")

    gates = {"guard": plugin(gate_permission=decide)}
    async with stage.play(_WORK, "done", plugins=gates, tools=[ran.tool(is_sensitive=True)], approve=person) as play:
        await play.run()
        expect(not ran.texts, "a tool ran although a gate had denied the permission")
        expect(not person.questions, "the person was asked what a gate had denied already")
        expect("never work" in play.result_of("c1"), "the model was not told the gate's reason")
        _expect_answers(play, [("c1", "deny")])


async def _a_preview_comes_first(stage: Stage) -> None:
    """Check that DIFF_PREVIEW comes behind the start, before gate, question and tool, and the question has it."""
    ran, person, heard = _Ran(), _Person("allow"), []

    def preview(call: ToolCall) -> DiffPreview:
        return DiffPreview(
            tool_name=call.tool_name, file_path="a.txt", new_content=str(call.arguments["text"]), call_id=call.call_id
        )

    async def begun(self: Any, event: ToolCallStart) -> None:  # noqa: ARG001
        heard.append(f"start {event.call_id}")

    async def see(self: Any, event: DiffPreview) -> None:  # noqa: ARG001
        heard.append(f"preview {event.new_content} {event.call_id}")

    async def decide(self: Any, call: ToolCall) -> Ask:  # noqa: ARG001
        heard.append(f"gate {call.call_id}")
        return Ask("look at it")

    gates = {"guard": plugin(tool_call_start=begun, diff_preview=see, gate_tool_call=decide)}
    async with stage.play(_WORK, "done", plugins=gates, tools=[ran.tool()], approve=person, preview=preview) as play:
        await play.run()
        wanted = ["start c1", "preview a c1", "gate c1"]
        expect(heard == wanted, f"the plugin saw {heard}; expected the start, the preview, then the gate's question")
        diff = person.questions[0].diff
        expect(diff is not None and diff.new_content == "a", "the person was asked without what would change")


async def _the_denied_is_told_once(stage: Stage) -> None:
    """Check that each call has one start and one end, whatever was decided."""
    gates = {"guard": _gate(lambda call: Deny("no") if call.arguments["text"] == "a" else None)}
    made = calls(("c1", "work", "a"), ("c2", "work", "b"))
    async with stage.play(made, "done", plugins=gates, tools=[tool()]) as play:
        await play.run()
        starts = [each.call_id for each in play.told(ToolCallStart)]
        ends = [each.call_id for each in play.told(ToolCallEnd)]
        expect(sorted(map(str, starts)) == ["c1", "c2"], f"the calls {starts} began; expected c1 and c2, once each")
        expect(sorted(map(str, ends)) == ["c1", "c2"], f"the calls {ends} ended; expected c1 and c2, once each")
        denied = [each.call_id for each in play.told(ToolCallEnd) if each.denied]
        expect(denied == ["c1"], f"the calls {denied} were told as denied; only 'c1' was")


async def _what_cannot_be_shown(stage: Stage) -> None:
    """Check that a call whose arguments cannot be shown to a gate does not run, and is told as that."""
    for found in (float("nan"), float("inf"), 2**70, _nested(100)):
        ran = _Ran()
        seen: list[Any] = []

        def decide(call: ToolCall, seen: list[Any] = seen) -> None:
            seen.append(dict(call.arguments))

        made = Answer(calls=(RawCall("work", {"text": "a", "more": found}, "c1"),))
        async with stage.play(made, "done", plugins={"guard": _gate(decide)}, tools=[ran.tool()]) as play:
            await play.run()
            expect(not ran.texts, f"a tool ran although its argument {found!r:.20} cannot be shown to a gate")
            expect(not seen, f"a gate was shown {seen} in the place of arguments that cannot be shown")
            expect("more" in play.result_of("c1"), "the model was not told which argument it was")
            starts = play.told(ToolCallStart)
            expect(
                [dict(each.arguments) for each in starts] == [{}], "the call was not told as begun, without arguments"
            )
            expect(bool(starts[0].unshown), "the start does not say why it has no arguments")
            decision = play.told(Decision)
            expect(
                bool(decision) and decision[0].seq < starts[0].seq, "the call was told as begun before it was denied"
            )
            _expect_denied(play, "c1", "more", decision[0].decision_id)
            play.expect_valid()


def _nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


def _expect_denied(play: Play, call_id: str, reason: str, decision_id: str) -> None:
    ends = [each for each in play.told(ToolCallEnd) if each.call_id == call_id]
    expect(len(ends) == 1, f"the call {call_id!r} ended {len(ends)} times; expected once")
    end = ends[0]
    expect(end.denied and not end.success, f"the denied call {call_id!r} was told as one that ran")
    expect(reason in (end.error or ""), f"its end says {end.error!r}; expected the reason {reason!r}")
    expect(end.decision_id == decision_id, f"its end names the decision {end.decision_id!r}; it was {decision_id!r}")
    expect(end.duration_ms is None, "a call that did not run was told to have taken time")


async def _a_mandatory_plugin(stage: Stage) -> None:
    """Check that a run whose host cannot start says so, rather than run without its plugins."""

    async def fail(self: Any) -> None:  # noqa: ARG001
        raise OSError("no device")

    gates = {"guard": plugin(start=fail, gate_tool_call=_never)}
    ran = _Ran()
    async with stage.play(_WORK, "done", plugins=gates, tools=[ran.tool()]) as play:
        try:
            await play.run()
        except AllyError:
            return
        expect(not ran.texts, "a tool ran although a plugin with a gate could not start")
        expect("guard" in play.result_of("c1"), "the model was not told which plugin denies")


async def _never(self: Any, call: ToolCall) -> Any:
    raise NotImplementedError


def _expect_answers(play: Play, wanted: list[tuple[str, str]]) -> None:
    requests = {each.request_id: each for each in play.told(PermissionRequest)}
    found = []
    for answer in play.told(PermissionResponse):
        request = requests.get(answer.request_id)
        expect(request is not None, f"PERMISSION_RESPONSE answers {answer.request_id!r}, which nobody asked")
        found.append((request.call_id if request is not None else "", answer.choice))
    expect(found == wanted, f"the answers {found} were told; expected {wanted}")


CHECKS: Final[dict[str, AdapterCheck]] = {
    "tells the model of a denial": AdapterCheck(_deny_reaches_the_model),
    "denies one of several": AdapterCheck(_one_of_two_is_denied),
    "tells each call once": AdapterCheck(_the_denied_is_told_once),
    "denies what cannot be shown": AdapterCheck(_what_cannot_be_shown),
    "denies when a gate fails": AdapterCheck(_gates_fail_closed),
    "denies when a gate does not run": AdapterCheck(_a_mandatory_plugin),
    "denies what nobody can answer": AdapterCheck(_ask_without_a_person),
    "asks the person": needing(_ask_goes_to_the_person, "approval"),
    "asks before a sensitive tool": needing(_a_sensitive_tool_asks, "approval"),
    "denies when the person's answer is none": needing(_an_approver_that_fails, "approval"),
    "lets gates decide before the person": needing(_gates_before_the_person, "approval"),
    "previews before anybody decides": needing(_a_preview_comes_first, "approval", "preview"),
}
