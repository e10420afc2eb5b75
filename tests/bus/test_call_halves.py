"""A tool call in two halves: what may run, and what the model sees of it; and the second half that never comes."""

# ruff: noqa: ARG001 - hooks and fixtures name what they are given

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import (
    ArgumentsError,
    Ask,
    BlockingHost,
    Deny,
    Event,
    HostError,
    Replace,
    SessionEnd,
    ToolCall,
    ToolResult,
    evolve,
)
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go

if TYPE_CHECKING:
    from ally_plugins.host.sessions.session import Session

CALL = ToolCall("bash", {"command": "ls"}, "c1")
DONE = ToolResult(success=True, output="done")
TOLD = {"TOOL_CALL_START", "TOOL_CALL_END", "SESSION_END"}


@asynccontextmanager
async def opened(**hooks: Callable[..., Any]) -> AsyncGenerator[tuple[Session, list[Any]]]:
    """Run a session with one plugin of these hooks; what is emitted of calls is in the list."""
    told: list[Event] = []
    async with new_host({"p": make_plugin(**hooks)}, has_person=True) as host:
        host.stream.subscribe("*", lambda event: told.append(event) if event.type in TOLD else None)
        yield host.session("s"), told


def ends(told: list[Any]) -> list[tuple[Any, ...]]:
    return [(each.success, each.denied, each.error) for each in told if each.type == "TOOL_CALL_END"]


async def longer(_: Any, call: ToolCall) -> Any:
    return Replace(evolve(call, arguments={"command": "ls -l"}))


async def louder(_: Any, call: ToolCall, result: ToolResult) -> Any:
    return Replace(evolve(result, output=result.output + "!"))


async def deny(_: Any, call: ToolCall) -> Any:
    return Deny("not today")


def test_the_first_half_returns_the_final_call_and_the_second_what_transforms_made_of_its_result() -> None:
    async def main() -> None:
        async with opened(ally_transform_tool_input=longer, ally_transform_tool_output=louder) as (session, told):
            final = await session.begin_call(CALL)
            assert final == evolve(CALL, arguments={"command": "ls -l"})
            assert [each.type for each in told] == ["TOOL_CALL_START"]
            assert told[0].arguments == {"command": "ls -l"}
            result = await session.end_call("c1", DONE)
            assert (result.success, result.output) == (True, "done!")
            assert (told[1].type, told[1].output, told[1].error) == ("TOOL_CALL_END", "done!", None)
            assert told[1].duration_ms > 0

    go(main())


def test_a_refusal_is_the_result_of_both_halves_whatever_the_agent_reports() -> None:
    async def main() -> None:
        async with opened(ally_gate_tool_call=deny) as (session, told):
            refusal = await session.begin_call(CALL)
            assert isinstance(refusal, ToolResult)
            assert refusal.error == "not run: p: not today"
            assert await session.end_call("c1", DONE) == refusal  # the agent has run it all the same
            assert ends(told) == [(False, True, refusal.error)]
            with pytest.raises(HostError, match="'c1' is not open"):
                await session.end_call("c1", DONE)

    go(main())


@pytest.mark.parametrize("answer", [True, False])
def test_the_person_is_asked_in_the_first_half(answer: bool) -> None:  # noqa: FBT001 - the case
    async def ask(_: Any, call: ToolCall) -> Any:
        return Ask("sure?")

    async def asked(*_: Any) -> bool:
        return answer

    async def main() -> None:
        async with opened(ally_gate_tool_call=ask) as (session, _):
            begun = await session.begin_call(CALL, ask=asked)
            assert isinstance(begun, ToolCall) is answer

    go(main())


def test_arguments_that_fail_their_check_begin_no_call() -> None:
    def check(arguments: Any) -> None:
        raise ArgumentsError("the command is bad", tool="bash")

    async def main() -> None:
        async with opened() as (session, told):
            begun = await session.begin_call(CALL, check=check)
            assert isinstance(begun, ToolResult)
            assert begun.error == "not run: the command is bad"
            assert told == []
            assert isinstance(await session.begin_call(CALL), ToolCall)  # the model tries again under the same id

    go(main())


def test_no_result_is_taken_of_a_call_that_no_gate_was_asked_about() -> None:
    async def main() -> None:
        async with opened() as (session, told):
            with pytest.raises(HostError, match="'c1' is not open; end only what was let run, once"):
                await session.end_call("c1", DONE)
            await session.begin_call(CALL)
            await session.end_call("c1", DONE)
            with pytest.raises(HostError, match="'c1' is not open"):
                await session.end_call("c1", DONE)  # a second time
            assert len(ends(told)) == 1

    go(main())


def test_no_result_is_taken_of_a_call_whose_gate_still_thinks() -> None:
    reached, may_answer = asyncio.Event(), asyncio.Event()

    async def slow(_: Any, call: ToolCall) -> None:
        reached.set()
        await may_answer.wait()

    async def main() -> None:
        async with opened(ally_gate_tool_call=slow) as (session, told):
            beginning = asyncio.ensure_future(session.begin_call(CALL))
            await reached.wait()
            with pytest.raises(HostError, match="'c1' is not open"):
                await session.end_call("c1", DONE)
            with pytest.raises(HostError, match="'c1' may run already, or is being decided"):
                await session.begin_call(CALL)
            may_answer.set()
            assert await beginning == CALL
            assert (await session.end_call("c1", DONE)).success
            assert len(told) == 2

    go(main())


def test_a_gate_that_is_too_slow_or_gone_denies_and_nothing_may_run() -> None:
    async def stuck(_: Any, call: ToolCall) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        plugins = {"p": setup(make_plugin(ally_gate_tool_call=stuck), deadlines={"gate": 0.05})}
        async with new_host(plugins) as host:
            session = host.session("s")
            begun = await session.begin_call(CALL)
            assert isinstance(begun, ToolResult)
            assert "ally_gate_tool_call did not answer within 0.05 s" in (begun.error or "")
        gone = {"p": setup(make_plugin(ally_gate_tool_call=stuck), state="quarantined", reason="it crashed")}
        async with new_host(gone) as host:
            begun = await host.session("s").begin_call(CALL)
            assert isinstance(begun, ToolResult)
            assert "it crashed" in (begun.error or "")

    go(main())


@pytest.mark.parametrize(
    ("hook", "wanted"),
    [("ally_transform_tool_input", []), ("ally_gate_tool_call", [(False, False, "interrupted")])],
)
def test_a_first_half_that_is_cancelled_leaves_nothing_that_may_run(hook: str, wanted: list[Any]) -> None:
    reached = asyncio.Event()

    async def stuck(_: Any, call: ToolCall) -> None:
        reached.set()
        await asyncio.Event().wait()

    async def main() -> None:
        async with opened(**{hook: stuck}) as (session, told):
            beginning = asyncio.ensure_future(session.begin_call(CALL))
            await reached.wait()
            beginning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await beginning
            with pytest.raises(HostError, match="'c1' is not open"):
                await session.end_call("c1", DONE)
            assert ends(told) == wanted
            assert len(told) == 2 * len(wanted)  # the start too

    go(main())


def test_a_second_half_that_is_cancelled_ends_the_call_as_interrupted() -> None:
    reached = asyncio.Event()

    async def stuck(_: Any, call: ToolCall, result: ToolResult) -> None:
        reached.set()
        await asyncio.Event().wait()

    async def main() -> None:
        async with opened(ally_transform_tool_output=stuck) as (session, told):
            await session.begin_call(CALL)
            ending = asyncio.ensure_future(session.end_call("c1", DONE))
            await reached.wait()
            ending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await ending
            assert ends(told) == [(False, False, "interrupted")]

    go(main())


@pytest.mark.parametrize("kind", ["turn_end", "turn_start"])
def test_a_call_whose_result_never_comes_is_ended_with_its_turn(kind: Any) -> None:
    async def main() -> None:
        async with opened() as (session, told):
            await session.begin_call(CALL)
            await session.safe_point("step")
            assert ends(told) == []
            await session.safe_point(kind)
            assert ends(told) == [(False, False, "its result never came: the turn has ended")]
            with pytest.raises(HostError, match="'c1' is not open"):
                await session.end_call("c1", DONE)  # too late: plugins were told that nothing came

    go(main())


@pytest.mark.parametrize("by", ["close", "stop", "event"])
def test_a_call_whose_result_never_comes_is_ended_before_its_session(by: str) -> None:
    async def main() -> list[Any]:
        async with opened() as (session, told):
            await session.begin_call(CALL)
            if by == "close":
                await session.close()
            elif by == "event":
                session.emit(SessionEnd(reason="over"))
        return told

    told = go(main())
    assert [each.type for each in told] == ["TOOL_CALL_START", "TOOL_CALL_END", "SESSION_END"]
    assert ends(told) == [(False, False, "its result never came: the session has ended")]


def test_a_call_that_is_closed_while_its_gate_thinks_may_not_run() -> None:
    reached, may_answer = asyncio.Event(), asyncio.Event()

    async def slow(_: Any, call: ToolCall) -> None:
        reached.set()
        await may_answer.wait()

    async def main() -> None:
        async with opened(ally_gate_tool_call=slow) as (session, told):
            beginning = asyncio.ensure_future(session.begin_call(CALL))
            await reached.wait()
            await session.safe_point("turn_end")
            may_answer.set()
            begun = await beginning
            assert isinstance(begun, ToolResult)
            assert begun.error == "not run: the call was closed before it was decided"
            assert ends(told) == [(False, False, "not run: the turn has ended")]

    go(main())


def test_what_is_reported_as_no_result_is_no_success() -> None:
    async def main() -> None:
        async with opened() as (session, told):
            await session.begin_call(CALL)
            text: Any = "done"
            result = await session.end_call("c1", text)
            assert result.error == "the tool returned str; expected a ToolResult"
            assert ends(told) == [(False, False, result.error)]

    go(main())


def test_a_call_without_an_id_goes_by_its_tools_name() -> None:
    async def main() -> None:
        async with opened() as (session, _):
            await session.begin_call(ToolCall("bash"))
            assert (await session.end_call("bash", DONE)).success

    go(main())


def test_both_halves_are_plain_functions_of_a_blocking_host(no_leaks: None) -> None:
    def ask(*_: Any) -> bool:
        threads.append(threading.current_thread().name)
        return True

    async def asks(_: Any, call: ToolCall) -> Any:
        return Ask("sure?")

    threads: list[str] = []
    plugins = {"p": make_plugin(ally_gate_tool_call=asks)}
    with BlockingHost("test", home=None, discover=False, plugins=plugins, has_person=True) as host:
        session = host.session("s")
        assert session.begin_call(CALL, ask=ask) == CALL
        assert session.end_call("c1", DONE) == DONE
    assert threads != ["ally-host"]
