"""One tool call, in the order that the contract names, and whatever goes wrong on the way."""

# ruff: noqa: ARG001 - hooks and fixtures name what they are given, used or not

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest

from ally_plugins import (
    Allow,
    ArgumentsError,
    Ask,
    Deny,
    DiffPreview,
    EventError,
    Replace,
    ToolCall,
    ToolCallError,
    ToolResult,
)
from tests.kit.hosts import make_plugin, new_host
from tests.kit.waiting import go


def watcher(order: list[str], verdict: Any = None) -> Any:
    """Return a plugin that notes when it is asked, and changes what goes in and out."""

    async def ally_transform_tool_input(self: Any, call: ToolCall) -> Any:
        order.append(f"input {call.arguments['command']}")
        return Replace(attrs.evolve(call, arguments={"command": f"{call.arguments['command']} -l"}))

    async def ally_gate_tool_call(self: Any, call: ToolCall) -> Any:
        order.append(f"gate {call.arguments['command']}")
        return verdict

    async def ally_transform_tool_output(self: Any, call: ToolCall, result: ToolResult) -> Any:
        order.append(f"output {result.output}")
        return Replace(attrs.evolve(result, output=f"{result.output}!"))

    return make_plugin(
        ally_transform_tool_input=ally_transform_tool_input,
        ally_gate_tool_call=ally_gate_tool_call,
        ally_transform_tool_output=ally_transform_tool_output,
    )


class Agent:
    """The host's side: notes what it is asked to do, in order."""

    def __init__(self, order: list[str]) -> None:
        self.order = order
        self.agrees = True
        self.error: BaseException | None = None

    async def run(self, call: ToolCall) -> ToolResult:
        self.order.append(f"run {call.arguments['command']}")
        if self.error is not None:
            raise self.error
        return ToolResult(success=True, output="done", data={"n": 1})

    async def ask(self, call: ToolCall, ruling: Any) -> bool:
        self.order.append(f"ask {call.arguments['command']} ({ruling.reason})")
        return self.agrees

    def check(self, arguments: Any) -> None:
        self.order.append(f"check {arguments['command']}")
        if "bad" in arguments["command"]:
            raise ArgumentsError("the command is bad", tool="bash")

    def preview(self, call: ToolCall) -> DiffPreview:
        return DiffPreview(tool_name=call.tool_name, file_path="f", new_content=call.arguments["command"])


CALL = ToolCall("bash", {"command": "ls"}, call_id="c1")


def carry_out(
    *,
    verdict: Any = None,
    person: bool = True,
    call: ToolCall = CALL,
    **change: Any,
) -> tuple[ToolResult, list[str], list[Any]]:
    order: list[str] = []
    told: list[Any] = []
    agent = Agent(order)
    for name, value in change.items():
        setattr(agent, name.removeprefix("agent_"), value)

    def note(event: Any) -> None:
        told.append(event)
        if event.type != "DECISION":
            order.append(event.type)

    async def main() -> ToolResult:
        plugins = {"w": watcher(order, verdict)}
        async with new_host(plugins=plugins, has_person=person) as host:
            session = host.session("s")
            host.stream.subscribe("*", note)
            result: ToolResult = await session.run_tool_call(
                call, agent.run, ask=agent.ask, check=agent.check, preview=agent.preview
            )
            order.append("END")
            return result

    result = go(main())
    return result, order[: order.index("END")], told


@pytest.mark.parametrize("said", ["no", "deny", 1, [False]])
def test_what_is_not_true_is_no_yes_of_the_person(said: Any) -> None:
    result, order, _ = carry_out(verdict=Ask("sure?"), agrees=said)
    assert not result.success
    assert "run ls -l" not in order


def test_all_in_order() -> None:
    result, order, told = carry_out(verdict=Ask("is that wise?"))
    assert order == [
        "input ls",
        "check ls -l",
        "TOOL_CALL_START",
        "DIFF_PREVIEW",
        "gate ls -l",
        "ask ls -l (w: is that wise?)",
        "run ls -l",
        "output done",
        "TOOL_CALL_END",
    ]
    assert (result.success, result.output, result.data) == (True, "done!", {"n": 1})
    by_type = {event.type: event for event in told}
    assert by_type["DIFF_PREVIEW"].new_content == "ls -l"
    assert by_type["TOOL_CALL_START"].arguments == {"command": "ls -l"}
    assert by_type["TOOL_CALL_END"].output == "done!"
    assert by_type["TOOL_CALL_START"].call_id == by_type["TOOL_CALL_END"].call_id == "c1"
    assert by_type["DECISION"].verdict == "ask"


def test_arguments_that_do_not_fit_after_the_transforms_never_reach_a_gate() -> None:
    result, order, _ = carry_out(call=ToolCall("bash", {"command": "bad"}))
    assert order == ["input bad", "check bad -l"]
    assert (result.success, result.error) == (False, "not run: the command is bad")


def test_what_a_gate_denies_does_not_run_and_the_model_is_told_why() -> None:
    result, order, told = carry_out(verdict=Deny("too dangerous"))
    assert order == ["input ls", "check ls -l", "TOOL_CALL_START", "DIFF_PREVIEW", "gate ls -l", "TOOL_CALL_END"]
    assert (result.success, result.error) == (False, "not run: w: too dangerous")
    (decision,), (end,) = ([each for each in told if each.type == kind] for kind in ("DECISION", "TOOL_CALL_END"))
    assert (end.denied, end.success, end.error) == (True, False, result.error)
    assert (end.decision_id, end.duration_ms) == (decision.decision_id, None)


def test_what_the_person_refuses_does_not_run() -> None:
    result, order, told = carry_out(verdict=Ask("sure?"), agrees=False)
    assert "run ls -l" not in order
    assert "the person did not agree" in (result.error or "")
    assert [each.denied for each in told if each.type == "TOOL_CALL_END"] == [True]


def test_a_question_with_no_person_there_is_a_refusal() -> None:
    result, order, _ = carry_out(verdict=Ask("sure?"), person=False)
    assert not result.success
    assert not any(each.startswith(("ask", "run")) for each in order)


def test_a_question_that_nobody_asks_is_a_refusal() -> None:
    result, order, _ = carry_out(verdict=Ask("sure?"), ask=None)
    assert not result.success
    assert not any(each.startswith("run") for each in order)


def test_an_allow_asks_nobody() -> None:
    result, order, _ = carry_out(verdict=Allow())
    assert result.success
    assert not any(each.startswith("ask") for each in order)


@pytest.mark.parametrize(
    "error", [ToolCallError("it broke", tool="bash"), ZeroDivisionError("it broke"), TimeoutError("it broke")]
)
def test_what_a_tool_raises_is_an_answer_to_the_model_and_passes_the_transforms(error: BaseException) -> None:
    result, order, told = carry_out(error=error)
    assert not result.success
    assert "it broke" in (result.error or "")
    assert order[-2:] == ["output ", "TOOL_CALL_END"]
    end = next(event for event in told if event.type == "TOOL_CALL_END")
    assert (end.success, end.error) == (False, result.error)


def test_a_tool_that_returns_something_else_is_an_error_and_has_an_end() -> None:
    async def wrong(call: ToolCall) -> Any:
        return "text"

    result, order, _ = carry_out(agent_run=wrong)
    assert result.error == "the tool returned str; expected a ToolResult"
    assert order[-1] == "TOOL_CALL_END"


def test_the_time_of_a_call_is_the_tools_alone() -> None:
    async def slow(self: Any, call: Any, result: Any) -> None:
        await asyncio.sleep(0.2)

    async def main() -> float:
        plugins = {"p": make_plugin(ally_transform_tool_output=slow)}
        async with new_host(plugins=plugins) as host:
            told: list[Any] = []
            host.stream.subscribe("TOOL_CALL_END", told.append)
            await host.session("s").run_tool_call(CALL, Agent([]).run)
            return float(told[0].duration_ms)

    assert go(main()) < 100


def test_a_preview_that_fails_is_no_denial(caplog: Any) -> None:
    def broken(call: ToolCall) -> DiffPreview:
        raise OSError("the disk is gone")

    result, order, _ = carry_out(agent_preview=broken)
    assert result.success
    assert "gate ls -l" in order
    assert "DIFF_PREVIEW" not in order
    assert "the preview of 'bash' failed; it is decided without one" in caplog.text


def test_an_interruption_while_a_gate_is_asked_ends_the_call_and_runs_nothing() -> None:
    order: list[str] = []
    told: list[Any] = []
    reached = asyncio.Event()

    async def stuck(self: Any, call: ToolCall) -> None:
        reached.set()
        await asyncio.Event().wait()

    async def main() -> None:
        async with new_host(plugins={"p": make_plugin(ally_gate_tool_call=stuck)}) as host:
            host.stream.subscribe("TOOL_CALL_END", told.append)
            call = asyncio.create_task(host.session("s").run_tool_call(CALL, Agent(order).run))
            await reached.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    go(main())
    assert order == []
    assert [(each.success, each.denied, each.error) for each in told] == [(False, False, "interrupted")]


def test_a_call_that_nobody_can_be_shown_is_refused_and_told_as_that() -> None:
    async def main() -> list[Any]:
        async with new_host(plugins={"p": make_plugin()}) as host:
            told: list[Any] = []
            host.stream.subscribe("*", told.append)
            session = host.session("s")
            with pytest.raises(EventError) as caught:
                ToolCall("bash", {"command": "rm -rf /", "wait": float("nan")})
            result = await session.refuse_call("bash", str(caught.value), call_id="c1", agent_id="a", parent_id="c0")
            assert not result.success
            assert "wait is nan" in (result.error or "")
            return [each for each in told if each.type != "SESSION_START"]

    decision, start, end = go(main())[:3]
    assert (decision.verdict, decision.call_id) == ("deny", "c1")
    assert (start.arguments, start.call_id, start.agent_id, start.parent_id) == ({}, "c1", "a", "c0")
    assert "wait is nan" in start.unshown
    assert (end.denied, end.decision_id, end.parent_id) == (True, decision.decision_id, "c0")


@pytest.mark.parametrize("where", ["run", "output"])
def test_an_interruption_ends_the_call_with_an_event_wherever_it_comes(where: str) -> None:
    told: list[Any] = []
    reached = asyncio.Event()

    async def stuck(*_: Any) -> Any:
        reached.set()
        await asyncio.Event().wait()

    async def fine(call: ToolCall) -> ToolResult:
        return ToolResult(success=True)

    async def main() -> None:
        plugin = make_plugin(ally_transform_tool_output=stuck_hook) if where == "output" else make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            session = host.session("s")
            host.stream.subscribe("*", told.append)
            call = asyncio.create_task(session.run_tool_call(CALL, stuck if where == "run" else fine))
            await reached.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            ends = [(event.success, event.error) for event in told if event.type == "TOOL_CALL_END"]
            assert ends == [(False, "interrupted")]

    async def stuck_hook(self: Any, call: Any, result: Any) -> None:
        await stuck()

    go(main())


def test_a_transform_that_blocks_withholds_the_output() -> None:
    from ally_plugins import PluginRecord
    from ally_plugins.catalog.home.config import PluginConfig
    from ally_plugins.policy.permissions import GrantSet

    async def ally_transform_tool_output(self: Any, call: Any, result: Any) -> Any:
        raise ZeroDivisionError("cannot redact")

    async def fine(call: ToolCall) -> ToolResult:
        return ToolResult(success=True, output="the password")

    async def main() -> None:
        config = PluginConfig(enabled=True, is_decided=True, grants=GrantSet.everything(), transform_on_error="block")
        record = PluginRecord.by_code("p", grants=GrantSet.everything(), config=config)
        plugin = make_plugin(ally_transform_tool_output=ally_transform_tool_output)
        told: list[Any] = []
        async with new_host(plugins={"p": (plugin, record)}) as host:
            session = host.session("s")
            host.stream.subscribe("TOOL_CALL_END", told.append)
            result = await session.run_tool_call(CALL, fine)
            assert not result.success
            assert "password" not in repr(result)
            assert "the output is withheld" in (result.error or "")
            assert "password" not in repr(told)

    go(main())
