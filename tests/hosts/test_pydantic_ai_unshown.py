"""What cannot be shown to a plugin or the person as it is: such a call does not run, such a result is withheld."""

# ruff: noqa: ARG001, ARG005 - hooks are methods, and take what their event promises

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import BinaryContent, DeferredToolRequests, ImageUrl, Tool, ToolReturn
from pydantic_ai.messages import ModelRequest, ToolCallPart, ToolReturnPart
from pydantic_ai.tools import DeferredToolResults, ToolDenied

from ally_plugins import (
    AgentKit,
    Ask,
    Decision,
    GateRefused,
    HostError,
    Message,
    PermissionQuestion,
    Replace,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    ToolResult,
    UserMessage,
    evolve,
)
from ally_plugins.contract.values.shown import MAX_SHOWN_BYTES, media
from tests.hosts.scripted import Script, answer, live, returns_of
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go

SECRET = "SECRET123"  # noqa: S105 - what a redactor looks for
IMAGE = BinaryContent(b"\x89PNG\r\n", media_type="image/png")


def nested(depth: int, value: Any = SECRET) -> Any:
    for level in range(depth):
        value = {"k": value} if level % 2 else [value]
    return value


def deep_json(depth: int) -> str:
    return "[" * depth + "]" * depth


UNSHOWN: dict[str, Any] = {
    "NaN": '{"command": "rm -rf /", "more": NaN}',
    "infinity": '{"command": "rm -rf /", "more": 1e999}',
    "minus infinity": '{"command": "rm -rf /", "more": [-Infinity]}',
    "deep": f'{{"command": "rm -rf /", "more": {deep_json(70)}}}',
    "a large number": f'{{"command": "rm -rf /", "more": {2**70}}}',
    "a python value": {"command": "rm -rf /", "more": dt.date(2026, 1, 1)},
    "a python number": {"command": "rm -rf /", "more": {"x": float("nan")}},
    "a python depth": {"command": "rm -rf /", "more": nested(90)},
    "large": {"command": "rm -rf /", "more": "x" * MAX_SHOWN_BYTES},
}


class Shell:
    """A tool that takes anything beside its command, and keeps what it ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def bash(self, command: str, more: Any = None) -> str:
        self.ran.append(command)
        return f"ran {command} with {more}"


class Person:
    """Agrees to whatever is asked, and keeps the questions."""

    def __init__(self) -> None:
        self.asked: list[PermissionQuestion] = []

    async def approve(self, question: PermissionQuestion) -> str:
        self.asked.append(question)
        return "allow"


GUARDS = {
    "a gate": ("ally_gate_tool_call", "gate:tool_call", ()),
    "a transform": ("ally_transform_tool_input", "transform:tool_input", ()),
    "the person": ("ally_tool_call_start", "events:TOOL_CALL_START", ("bash",)),
    "nobody": ("ally_tool_call_start", "events:TOOL_CALL_START", ()),
}


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("arguments", UNSHOWN.values(), ids=UNSHOWN)
def test_a_call_that_cannot_be_shown_does_not_run_whoever_guards_it(arguments: Any, guard: str) -> None:
    hook, grant, sensitive = GUARDS[guard]
    person, shell = Person(), Shell()
    shown: list[Any] = []

    def seen(self: Any, call: ToolCall) -> None:
        shown.append(call.arguments["command"])

    def heard(self: Any, event: ToolCallStart) -> None:
        shown.append(event.arguments.get("command"))

    watching = make_plugin(**{hook: heard if "event" in grant else seen})

    async def main() -> None:
        async with live({"p": watching}, {"p": [grant]}) as bench:
            first, second = ToolCallPart("bash", arguments, "c1"), ToolCallPart("bash", {"command": "ls"}, "c2")
            steps = Script(answer(first), answer(second), "ok")
            agent = bench.agent(steps, tools=[shell.bash], sensitive=sensitive, approve=person.approve)
            result = await agent.run("go")
            assert result.output == "ok"  # the model is told, and goes on
            assert shell.ran == ["ls"]
            for session in bench.host.sessions.values():
                await session.drained()  # what plugins hear, they hear in a thread of their own
            assert shown == ([None, "ls"] if "event" in grant else ["ls"])
            assert [question.call.arguments["command"] for question in person.asked] == ["ls"] * len(sensitive)
            assert "not run: it cannot be shown to gates as it is" in str(
                returns_of(result.all_messages())["c1"].content
            )
            start, end = bench.of(ToolCallStart)[0], bench.of(ToolCallEnd)[0]
            denied = next(each for each in bench.of(Decision) if each.verdict == "deny")
            assert (start.call_id, start.arguments) == ("c1", {})
            assert start.unshown == denied.reason
            assert (end.call_id, end.denied, end.success, end.decision_id) == ("c1", True, False, denied.decision_id)
            assert denied.seq < start.seq < end.seq

    go(main())


@pytest.mark.parametrize("arguments", ['{"command": "rm', "[1]", '"rm"', "", "null"])
def test_arguments_that_are_no_object_fail_the_framework_s_check_and_begin_nothing(arguments: str) -> None:
    shell = Shell()

    async def main() -> None:
        async with live(
            {"p": make_plugin(ally_gate_tool_call=lambda self, call: None)}, {"p": ["gate:tool_call"]}
        ) as bench:
            steps = Script(answer(ToolCallPart("bash", arguments, "c1")), "ok")
            assert (await bench.agent(steps, tools=[shell.bash]).run("go")).output == "ok"
            assert shell.ran == []
            assert bench.of(ToolCallStart) + bench.of(ToolCallEnd) == []

    go(main())


def test_what_the_model_wrote_stays_readable_and_a_later_request_is_shown_whole() -> None:
    requests: list[Any] = []

    def look(self: Any, request: Any) -> None:
        requests.append(request)

    async def main() -> None:
        async with live(
            {"p": make_plugin(ally_transform_model_request=look)}, {"p": ["transform:model_request"]}
        ) as bench:
            written = f'{{"command": "echo {SECRET}", "more": NaN}}'
            steps = Script(answer(ToolCallPart("bash", written, "c1")), "ok", "again")
            agent = bench.agent(steps, tools=[Shell().bash])
            first = await agent.run("go", conversation_id="s")
            await agent.run("more", message_history=first.all_messages(), conversation_id="s")
            for request in requests[1:]:
                (made,) = [message for message in request.messages if message.tool_calls]
                assert made.tool_calls[0].arguments == {"unshown": written}
            said = bench.host.session("s").conversation.messages
            assert [each.tool_calls[0].arguments for each in said if each.tool_calls] == [{"unshown": written}]

    go(main())


def test_a_request_with_a_call_that_is_too_large_to_be_shown_is_not_made() -> None:
    async def main() -> None:
        watching = make_plugin(ally_transform_model_request=lambda self, request: None)
        async with live({"p": watching}, {"p": ["transform:model_request"]}) as bench:
            steps = Script(answer(ToolCallPart("bash", f'{{"command": "{"x" * MAX_SHOWN_BYTES}"}}', "c1")), "ok")
            with pytest.raises(GateRefused, match="a call of 'bash' in it is too large"):
                await bench.agent(steps, tools=[Shell().bash]).run("go")
            assert len(steps.seen) == 1

    go(main())


@pytest.mark.parametrize("settings", [{"extra_body": {"x": float("nan")}}, {"temperature": float("inf")}])
def test_settings_that_cannot_be_shown_are_not_asked_with(settings: Any) -> None:
    async def main() -> None:
        watching = make_plugin(ally_transform_model_request=lambda self, request: None)
        async with live({"p": watching}, {"p": ["transform:model_request"]}) as bench:
            steps = Script("ok")
            with pytest.raises(GateRefused, match="the setting"):
                await bench.agent(steps).run("go", model_settings=settings)
            assert steps.seen == []

    go(main())


# --- results ---


@dataclass
class Row:
    key: str


class Answer(BaseModel):
    rows: list[Row]
    when: dt.date = dt.date(2026, 1, 1)


def redact(self: Any, call: ToolCall, result: ToolResult) -> Any:
    """Redact what is data, as a plugin would that is interested in nothing else."""
    if SECRET in str(result.data):
        return Replace(evolve(result, output="[redacted]", data=None))
    return Replace(evolve(result, output=result.output.replace(SECRET, "[redacted]")))


LEAKS: dict[str, Any] = {
    "80 deep": nested(80),
    "200 deep": nested(200),
    "beside a large number": {"n": 2**70, "k": SECRET},
    "a large text": SECRET + "x" * MAX_SHOWN_BYTES,
    "a dataclass": Row(SECRET),
    "a model": Answer(rows=[Row(SECRET)]),
    "in a set": {SECRET},
    "beside a date": [dt.datetime(2026, 1, 1, tzinfo=dt.UTC), SECRET],
    "beside NaN": {"n": float("nan"), "k": SECRET},
    "beside an image": [SECRET, IMAGE],
    "returned": ToolReturn(nested(80), content=SECRET),
    "in more content": ToolReturn("fine", content=[SECRET, IMAGE]),
}


@pytest.mark.parametrize("value", LEAKS.values(), ids=LEAKS)
def test_a_redactor_sees_what_the_model_would_read_or_nobody_reads_it(value: Any) -> None:
    async def main() -> None:
        redactor = make_plugin(ally_transform_tool_output=redact)
        async with live({"p": redactor}, {"p": ["transform:tool_output"]}) as bench:
            steps = Script(answer(ToolCallPart("look", {}, "c1")), "ok")
            result = await bench.agent(steps, tools=[Tool(lambda: value, name="look")]).run("go")
            parts = [part for message in steps.seen[-1] if isinstance(message, ModelRequest) for part in message.parts]
            read = [part.content for part in parts if isinstance(part, ToolReturnPart)]
            assert SECRET not in str(steps.seen) + str(result.all_messages()) + str(bench.events)
            assert "[redacted]" in str(read) or "the output is withheld: it cannot be shown" in str(read)
            (end,) = bench.of(ToolCallEnd)
            assert end.denied is False

    go(main())


@pytest.mark.parametrize("value", LEAKS.values(), ids=LEAKS)
def test_without_a_transform_a_result_is_what_the_tool_returned(value: Any) -> None:
    async def main() -> None:
        async with live() as bench:
            steps = Script(answer(ToolCallPart("look", {}, "c1")), "ok")
            result = await bench.agent(steps, tools=[Tool(lambda: value, name="look")]).run("go")
            wanted = value.return_value if isinstance(value, ToolReturn) else value
            assert returns_of(result.all_messages())["c1"].content == wanted
            assert bench.of(ToolCallEnd)[0].success

    go(main())


def test_media_in_a_prompt_are_shown_as_what_they_are() -> None:
    seen: list[Message] = []

    def look(self: Any, message: Message) -> Any:
        seen.append(message)
        return Replace(evolve(message, content=message.content.upper().replace("LOOK", "look closely")))

    async def main() -> None:
        async with live(
            {"p": make_plugin(ally_transform_user_message=look)}, {"p": ["transform:user_message"]}
        ) as bench:
            steps = Script("ok")
            await bench.agent(steps).run(["look", IMAGE, ImageUrl("https://example.invalid/a.png")])
            lines = seen[0].content.split("\n")
            assert lines[0] == "look"
            assert f'"sha256":"{media("image", "image/png", IMAGE.data)["sha256"]}"' in lines[1]
            assert '"url":"https://example.invalid/a.png"' in lines[2]
            assert "look closely" in steps.texts()[0]
            assert "\x89PNG" not in bench.of(UserMessage)[0].content

    go(main())


def test_the_lines_that_tell_of_media_do_not_reach_the_model() -> None:
    def polite(self: Any, message: Message) -> Any:
        return Replace(evolve(message, content=f"please {message.content}"))

    async def main() -> None:
        async with live(
            {"p": make_plugin(ally_transform_user_message=polite)}, {"p": ["transform:user_message"]}
        ) as bench:
            steps = Script("ok")
            await bench.agent(steps).run(["look", IMAGE])
            assert steps.texts()[0] == "please look"

    go(main())


# --- the order of a call ---


def test_a_call_whose_question_waits_for_another_run_begins_once_and_ends_once() -> None:
    careful = make_plugin(ally_gate_tool_call=lambda self, call: Ask("it looks odd"))
    shell = Shell()

    async def main() -> None:
        async with live({"careful": careful}, {"careful": ["gate:tool_call"]}) as bench:
            two = answer(ToolCallPart("bash", {"command": "a"}, "c1"), ToolCallPart("bash", {"command": "b"}, "c2"))
            agent = bench.agent(Script(two, "ok"), tools=[shell.bash], output_type=[str, DeferredToolRequests])
            first = await agent.run("go")
            assert isinstance(first.output, DeferredToolRequests)
            assert sorted(str(each.call_id) for each in bench.of(ToolCallStart)) == ["c1", "c2"]
            assert bench.of(ToolCallEnd) == []
            assert shell.ran == []
            answers = DeferredToolResults(approvals={"c1": True, "c2": ToolDenied("rather not")})
            await agent.run(message_history=first.all_messages(), deferred_tool_results=answers)
            assert shell.ran == ["a"]
            assert len(bench.of(ToolCallStart)) == 2
            ends = {each.call_id: (each.success, each.denied) for each in bench.of(ToolCallEnd)}
            assert (len(bench.of(ToolCallEnd)), ends) == (2, {"c1": (True, False), "c2": (False, True)})

    go(main())


def test_a_call_that_goes_on_in_another_host_is_not_begun_again() -> None:
    def careful() -> Any:
        return make_plugin(ally_gate_tool_call=lambda self, call: Ask("it looks odd"))

    shell = Shell()

    async def main() -> None:
        grants = {"careful": ["gate:tool_call"]}
        options: dict[str, Any] = {"tools": [shell.bash], "output_type": [str, DeferredToolRequests]}
        async with live({"careful": careful()}, grants) as bench:
            made = answer(ToolCallPart("bash", {"command": "a"}, "c1"))
            first = await bench.agent(Script(made), **options).run("go")
        async with live({"careful": careful()}, grants) as bench:
            answers = DeferredToolResults(approvals={"c1": True})
            agent = bench.agent(Script("ok"), **options)
            await agent.run(message_history=first.all_messages(), deferred_tool_results=answers)
            assert shell.ran == ["a"]
            assert bench.of(ToolCallStart) == []
            assert [(each.call_id, each.success) for each in bench.of(ToolCallEnd)] == [("c1", True)]

    go(main())


def test_a_preview_that_fails_is_no_denial_and_the_person_is_told() -> None:
    person, shell = Person(), Shell()

    def preview(call: ToolCall) -> Any:
        raise OSError("the disk is gone")

    async def main() -> None:
        async with live() as bench:
            steps = Script(answer(ToolCallPart("bash", {"command": "a"}, "c1")), "ok")
            options: dict[str, Any] = {"sensitive": ["bash"], "approve": person.approve, "preview": preview}
            await bench.agent(steps, tools=[shell.bash], **options).run("go")
            assert shell.ran == ["a"]
            assert [(each.diff, each.no_preview) for each in person.asked] == [
                (None, "the preview failed: OSError: the disk is gone")
            ]

    go(main())


def test_a_call_that_nobody_has_allowed_cannot_be_carried_out() -> None:
    ran: list[str] = []

    async def run(call: ToolCall) -> ToolResult:
        ran.append(call.tool_name)
        return ToolResult(success=True)

    async def main() -> None:
        async with live() as bench, AgentKit(host=bench.host).work("s", "r", "agent") as work:
            await work.begin("go")
            made = ToolCall("bash", call_id="c1")
            with pytest.raises(HostError, match="was not allowed"):
                await work.carry_out(made, run)
            assert (await work.authorize(made)).is_allowed
            with pytest.raises(HostError, match="may run already"):
                await work.authorize(evolve(made, arguments={"command": "rm"}))
            with pytest.raises(HostError, match="was not allowed"):
                await work.carry_out(evolve(made, arguments={"command": "rm"}), run)
            await work.carry_out(made, run)
            with pytest.raises(HostError, match="was not allowed"):
                await work.carry_out(made, run)

    go(main())
    assert ran == ["bash"]


def test_a_call_that_was_allowed_and_never_carried_out_ends_with_its_run() -> None:
    async def main() -> None:
        async with live() as bench:
            async with AgentKit(host=bench.host).work("s", "r", "agent") as work:
                await work.begin("go")
                await work.authorize(ToolCall("bash", call_id="c1"))
            (end,) = bench.of(ToolCallEnd)
            assert (end.success, end.denied, end.error) == (False, False, "not run: the run has ended before")

    go(main())
