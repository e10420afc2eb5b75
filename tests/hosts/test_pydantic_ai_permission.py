"""Who decides whether a tool runs: transforms, gates, permission gates, the person; and what the model reads of it."""

# ruff: noqa: ARG001, ARG005 - hooks are methods, and take what their event promises

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic_ai import DeferredToolRequests, Tool
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import DeferredToolResults, ToolApproved, ToolDenied

from ally_plugins import (
    Allow,
    Ask,
    Decision,
    Deny,
    DiffPreview,
    PermissionQuestion,
    PermissionRequest,
    PermissionResponse,
    Replace,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    ToolResult,
    UnavailableRefused,
    evolve,
)
from tests.hosts.scripted import Script, answer, live, make_free, returns_of
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go


class Ran:
    """A tool that keeps what it ran with."""

    def __init__(self) -> None:
        self.with_: list[str] = []

    def write(self, path: str, text: str = "") -> str:
        """Write a file."""
        self.with_.append(f"{path}:{text}")
        return f"wrote {path}"


def asking(answer: str, asked: list[PermissionQuestion] | None = None) -> Any:
    async def approve(question: PermissionQuestion) -> str:
        if asked is not None:
            asked.append(question)
        return answer

    return approve


def test_a_deny_is_the_call_s_result_and_the_tool_does_not_run() -> None:
    guard = make_plugin(ally_gate_tool_call=lambda self, call: Deny(f"not {call.arguments['path']}"))

    async def main() -> None:
        async with live({"guard": guard}, {"guard": ["gate:tool_call"]}) as bench:
            ran = Ran()
            steps = Script(answer(ToolCallPart("write", {"path": "/etc"}, "c1")), "sorry")
            result = await bench.agent(steps, tools=[ran.write]).run("go")
            part = returns_of(result.all_messages())["c1"]
            assert (part.outcome, part.content) == ("denied", "not run: guard: not /etc")
            assert ran.with_ == []
            (start,), (end,), (decision,) = bench.of(ToolCallStart), bench.of(ToolCallEnd), bench.of(Decision)
            assert start.arguments == {"path": "/etc"}
            assert (end.denied, end.success, end.error) == (True, False, "not run: guard: not /etc")
            assert (end.decision_id, end.duration_ms) == (decision.decision_id, None)

    go(main())


def test_arguments_and_results_go_through_transforms_and_only_those_are_told() -> None:
    seen: list[ToolCall] = []

    def gate(self: Any, call: ToolCall) -> None:
        seen.append(call)

    changer = make_plugin(
        ally_transform_tool_input=lambda self, call: Replace(
            evolve(call, arguments={"path": "safe/place", "text": "x"})
        ),
        ally_transform_tool_output=lambda self, call, result: Replace(evolve(result, output="[hidden]")),
        ally_gate_tool_call=gate,
    )

    async def main() -> None:
        grants = ["gate:tool_call", "transform:tool_input", "transform:tool_output"]
        async with live({"p": changer}, {"p": grants}) as bench:
            ran = Ran()
            steps = Script(answer(ToolCallPart("write", '{"path": "/etc/secret"}', "c1")), "ok")
            result = await bench.agent(steps, tools=[ran.write]).run("go")
            assert ran.with_ == ["safe/place:x"]
            assert returns_of(result.all_messages())["c1"].content == "[hidden]"
            assert [each.arguments for each in seen] == [{"path": "safe/place", "text": "x"}]
            assert bench.of(ToolCallStart)[0].arguments == {"path": "safe/place", "text": "x"}
            assert bench.of(ToolCallEnd)[0].output == "[hidden]"
            assert "secret" not in str(bench.events)

    go(main())


def test_transformed_arguments_that_do_not_fit_the_schema_are_told_the_model() -> None:
    changer = make_plugin(ally_transform_tool_input=lambda self, call: Replace(evolve(call, arguments={"nope": 1})))

    async def main() -> None:
        async with live({"p": changer}, {"p": ["transform:tool_input"]}) as bench:
            ran = Ran()
            steps = Script(answer(ToolCallPart("write", {"path": "a"}, "c1")), "ok")
            result = await bench.agent(steps, tools=[ran.write]).run("go")
            assert returns_of(result.all_messages())["c1"].outcome == "retried"
            assert ran.with_ == []

    go(main())


def test_a_withheld_output_reaches_nobody() -> None:
    def broken(self: Any, call: ToolCall, result: ToolResult) -> Any:
        raise ValueError("cannot redact")

    redactor = make_free(make_plugin(ally_transform_tool_output=broken), "transform:tool_output", on_error="block")

    async def main() -> None:
        async with live({"p": redactor}) as bench:
            steps = Script(answer(ToolCallPart("look", {}, "c1")), "ok")
            result = await bench.agent(steps, tools=[Tool(lambda: "top secret", name="look")]).run("go")
            part = returns_of(result.all_messages())["c1"]
            assert part.outcome == "failed"
            assert "withheld" in str(part.content)
            assert "top secret" not in str(result.all_messages()) + str(bench.events)

    go(main())


@pytest.mark.parametrize("choice", ["allow", "deny", "always", "nonsense"])
def test_a_gate_that_asks_has_the_person_asked(choice: str) -> None:
    careful = make_plugin(ally_gate_tool_call=lambda self, call: Ask("it looks odd"))
    asked: list[PermissionQuestion] = []

    async def main() -> None:
        async with live({"careful": careful}, {"careful": ["gate:tool_call"]}) as bench:
            ran = Ran()
            again = answer(ToolCallPart("write", {"path": "b"}, "c2"))
            steps = Script(answer(ToolCallPart("write", {"path": "a"}, "c1")), again, "ok")
            await bench.agent(steps, tools=[ran.write], approve=asking(choice, asked)).run("go")
            assert bool(ran.with_) is (choice in {"allow", "always"})
            assert len(asked) == (1 if choice == "always" else 2)
            question = asked[0]
            assert (question.reason, question.asked_by) == ("careful: it looks odd", ("careful",))
            assert (question.request.path, question.request.options) == ("a", ("allow", "deny", "always"))
            request, response = bench.of(PermissionRequest)[0], bench.of(PermissionResponse)[0]
            assert request.request_id == response.request_id
            assert request.call_id == response.call_id == "c1"
            assert response.choice == ("deny" if choice == "nonsense" else choice)

    go(main())


def test_without_a_person_a_question_is_a_deny() -> None:
    careful = make_plugin(ally_gate_tool_call=lambda self, call: Ask("it looks odd"))

    async def main() -> None:
        async with live({"careful": careful}, {"careful": ["gate:tool_call"]}) as bench:
            ran = Ran()
            steps = Script(answer(ToolCallPart("write", {"path": "a"}, "c1")), "ok")
            result = await bench.agent(steps, tools=[ran.write]).run("go")
            assert "no person is present" in str(returns_of(result.all_messages())["c1"].content)
            assert ran.with_ == []

    go(main())


def test_a_sensitive_tool_asks_and_a_granted_waiver_answers_for_the_person() -> None:
    waiver = make_plugin(ally_gate_permission=lambda self, request: Allow())
    asked: list[PermissionQuestion] = []

    async def main(*grants: str) -> list[str]:
        async with live({"p": waiver}, {"p": grants}) as bench:
            ran = Ran()
            steps = Script(answer(ToolCallPart("write", {"path": "a"}, "c1")), "ok")
            options = {"sensitive": {"write": "high"}, "approve": asking("deny", asked)}
            await bench.agent(steps, tools=[ran.write], **options).run("go")
            assert bench.of(PermissionRequest)[0].sensitivity == "high"
            return ran.with_

    assert go(main("gate:permission")) == []
    assert len(asked) == 1
    assert go(main("gate:permission", "gate:waive")) == ["a:"]
    assert len(asked) == 1


def test_a_permission_gate_refuses_before_the_person_is_asked() -> None:
    refuser = make_plugin(ally_gate_permission=lambda self, request: Deny("policy"))
    asked: list[PermissionQuestion] = []

    async def main() -> None:
        async with live({"p": refuser}, {"p": ["gate:permission"]}) as bench:
            ran = Ran()
            steps = Script(answer(ToolCallPart("write", {"path": "a"}, "c1")), "ok")
            options = {"sensitive": ["write"], "approve": asking("allow", asked)}
            result = await bench.agent(steps, tools=[ran.write], **options).run("go")
            assert (asked, ran.with_) == ([], [])
            assert returns_of(result.all_messages())["c1"].content == "not run: p: policy"
            assert [event.choice for event in bench.of(PermissionResponse)] == ["deny"]

    go(main())


def test_a_tool_that_the_framework_marks_goes_through_the_same_flow() -> None:
    changer = make_plugin(
        ally_transform_tool_input=lambda self, call: Replace(evolve(call, arguments={"path": "safe"}))
    )
    asked: list[PermissionQuestion] = []

    async def main(choice: str) -> tuple[list[str], Any]:
        async with live({"p": changer}, {"p": ["transform:tool_input"]}) as bench:
            ran = Ran()
            steps = Script(answer(ToolCallPart("write", {"path": "a"}, "c1")), "ok")
            tools = [Tool(ran.write, requires_approval=True)]
            result = await bench.agent(steps, tools=tools, approve=asking(choice, asked)).run("go")
            assert [event.type for event in bench.events if event.type.startswith("PERMISSION")] == [
                "PERMISSION_REQUEST",
                "PERMISSION_RESPONSE",
            ]
            return ran.with_, returns_of(result.all_messages())["c1"].outcome

    assert go(main("allow")) == (["safe:"], "success")
    assert go(main("deny")) == ([], "denied")
    assert [question.call.arguments for question in asked] == [{"path": "safe"}] * 2


@pytest.mark.parametrize("verdict", [True, ToolApproved(), False])
@pytest.mark.parametrize("mark", ["marked", "unmarked"])
def test_with_nobody_to_ask_the_question_waits_for_another_run(verdict: Any, mark: str) -> None:
    careful = make_plugin(ally_gate_tool_call=lambda self, call: Ask("it looks odd"))

    async def main() -> None:
        async with live({"careful": careful}, {"careful": ["gate:tool_call"]}) as bench:
            ran = Ran()
            steps = Script(answer(ToolCallPart("write", {"path": "a"}, "c1"), ToolCallPart("look", {}, "c2")), "ok")
            tools = [Tool(ran.write, requires_approval=mark == "marked"), Tool(lambda: "tree", name="look")]
            agent = bench.agent(steps, tools=tools, output_type=[str, DeferredToolRequests])
            first = await agent.run("go")
            assert isinstance(first.output, DeferredToolRequests)
            assert {part.tool_call_id for part in first.output.approvals} == {"c1", "c2"}
            assert (ran.with_, bench.of(PermissionResponse)) == ([], [])
            answers = DeferredToolResults(approvals={"c1": verdict, "c2": ToolDenied("no")})
            result = await agent.run(message_history=first.all_messages(), deferred_tool_results=answers)
            assert result.output == "ok"
            assert bool(ran.with_) is (verdict is not False)
            choices = {event.call_id: event.choice for event in bench.of(PermissionResponse)}
            assert choices == {"c1": "allow" if ran.with_ else "deny", "c2": "deny"}
            asked = {event.request_id for event in bench.of(PermissionRequest)}
            assert asked == {event.request_id for event in bench.of(PermissionResponse)}

    go(main())


def test_a_preview_comes_before_the_gate_and_the_person_with_the_call_s_id() -> None:
    diffs: list[DiffPreview] = []

    async def keep(self: Any, event: DiffPreview) -> None:
        diffs.append(event)

    def gate(self: Any, call: ToolCall) -> Any:
        (diff,) = [diff for diff in diffs if diff.call_id == call.call_id]
        return Deny("it empties the file") if not diff.new_content else None

    guard = make_plugin(ally_diff_preview=keep, ally_gate_tool_call=gate)
    asked: list[PermissionQuestion] = []

    async def preview(call: ToolCall) -> DiffPreview | None:
        await asyncio.sleep(0)
        text = str(call.arguments.get("text", ""))
        return DiffPreview(tool_name=call.tool_name, file_path="f", old_content="old", new_content=text)

    async def main() -> None:
        async with live({"p": guard}, {"p": ["gate:tool_call", "events:DIFF_PREVIEW"]}) as bench:
            ran = Ran()
            two = answer(
                ToolCallPart("write", {"path": "a"}, "c1"), ToolCallPart("write", {"path": "b", "text": "new"}, "c2")
            )
            options = {"sensitive": ["write"], "approve": asking("allow", asked), "preview": preview}
            await bench.agent(Script(two, "ok"), tools=[ran.write], **options).run("go")
            assert ran.with_ == ["b:new"]
            assert [question.diff.new_content for question in asked if question.diff is not None] == ["new"]
            order = [event.type for event in bench.events if event.call_id == "c2"]
            assert order == [
                "TOOL_CALL_START",
                "DIFF_PREVIEW",
                "DECISION",
                "PERMISSION_REQUEST",
                "PERMISSION_RESPONSE",
                "TOOL_CALL_END",
            ]

    go(main())


def test_questions_of_parallel_calls_are_asked_one_at_a_time() -> None:
    at_once, most = 0, 0

    async def approve(_question: PermissionQuestion) -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        for _ in range(10):
            await asyncio.sleep(0)
        at_once -= 1
        return "allow"

    async def main() -> None:
        async with live() as bench:
            ran = Ran()
            three = answer(*(ToolCallPart("write", {"path": str(n)}, f"c{n}") for n in range(3)))
            await bench.agent(Script(three, "ok"), tools=[ran.write], sensitive=["write"], approve=approve).run("go")
            assert sorted(ran.with_) == ["0:", "1:", "2:"]
            assert most == 1

    go(main())


def test_an_approver_that_fails_is_a_deny_and_the_run_goes_on() -> None:
    async def approve(_question: PermissionQuestion) -> str:
        raise OSError("the terminal is gone")

    async def main() -> None:
        async with live() as bench:
            ran = Ran()
            steps = Script(answer(ToolCallPart("write", {"path": "a"}, "c1")), "ok")
            agent = bench.agent(steps, tools=[ran.write], sensitive=["write"], approve=approve)
            result = await agent.run("go")
            part = returns_of(result.all_messages())["c1"]
            assert (result.output, part.outcome, ran.with_) == ("ok", "denied", [])

    go(main())


def test_a_sub_agent_asks_as_the_agent_that_called_it_does() -> None:
    careful = make_plugin(ally_gate_tool_call=lambda self, call: Ask("odd") if call.tool_name == "write" else None)
    asked: list[PermissionQuestion] = []

    async def main() -> None:
        async with live({"careful": careful}, {"careful": ["gate:tool_call"]}) as bench:
            ran = Ran()

            async def delegate() -> str:
                return str((await inner.run("write it")).output)

            inner = bench.agent(Script(answer(ToolCallPart("write", {"path": "a"}, "i1")), "done"), tools=[ran.write])
            outer = bench.agent(
                Script(answer(ToolCallPart("delegate", {}, "c1")), "done"),
                tools=[delegate],
                approve=asking("allow", asked),
            )
            await outer.run("go")
            assert ran.with_ == ["a:"]
            (question,) = asked
            (request,), (response,) = bench.of(PermissionRequest), bench.of(PermissionResponse)
            assert (request.agent_id, request.parent_id) == (response.agent_id, response.parent_id)
            assert (question.request.parent_id, question.call.agent_id) == ("c1", request.agent_id)
            assert request.agent_id is not None

    go(main())


def test_a_plugins_own_question_goes_to_the_approver_of_the_run_and_to_nobody_between_runs() -> None:
    asked: list[PermissionQuestion] = []

    async def choose(question: PermissionQuestion) -> str:
        asked.append(question)
        return str(question.request.options[-1])

    puppet = make_plugin()

    async def main() -> None:
        async with live({"p": puppet}, {"p": ["ask"]}) as bench:
            answers: list[str] = []

            async def look() -> str:
                """Look."""
                answers.append(await puppet.ally.ask("which one?", ["left", "right"]))
                return "seen"

            steps = Script(answer(ToolCallPart("look", {}, "c1")), "ok")
            await bench.agent(steps, tools=[look], approve=choose).run("go", conversation_id="s1")
            assert answers == ["right"]
            (question,) = asked
            assert question.plugin_question is not None
            assert (question.asked_by, question.reason) == (("p",), "[plugin p] which one?")
            with pytest.raises(UnavailableRefused, match="nobody is there to be asked"):
                await puppet.ally.ask("which one?", ["left", "right"])
            assert len(asked) == 1

    go(main())


def test_a_question_that_is_open_when_the_turn_ends_is_taken_from_the_person() -> None:
    was_asked, taken_away = asyncio.Event(), asyncio.Event()

    async def think(_: PermissionQuestion) -> str:
        was_asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            taken_away.set()
        return ""

    puppet = make_plugin()

    async def main() -> None:
        async with live({"p": puppet}, {"p": ["ask"]}) as bench:
            open_: list[asyncio.Task[str]] = []

            async def look() -> str:
                """Look."""
                open_.append(asyncio.create_task(puppet.ally.ask("which one?", ["left", "right"])))
                await was_asked.wait()
                return "seen"

            steps = Script(answer(ToolCallPart("look", {}, "c1")), "ok")
            await bench.agent(steps, tools=[look], approve=think).run("go", conversation_id="s1")
            with pytest.raises(UnavailableRefused, match="the agent's turn ended before the person answered"):
                await open_[0]
            assert taken_away.is_set()

    go(main())


def test_an_approver_that_only_knows_calls_answers_no_question_of_a_plugin() -> None:
    puppet = make_plugin()

    async def main() -> None:
        async with live({"p": puppet}, {"p": ["ask"]}) as bench:
            refused: list[str] = []

            async def look() -> str:
                """Look."""
                with pytest.raises(UnavailableRefused) as raised:
                    await puppet.ally.ask("which one?", ["left", "right"])
                refused.append(str(raised.value))
                return "seen"

            steps = Script(answer(ToolCallPart("look", {}, "c1")), "ok")
            await bench.agent(steps, tools=[look], approve=asking("allow")).run("go", conversation_id="s1")
            assert refused == ["the person chose none of the choices"]

    go(main())
