"""A run and its calls that are cancelled at any of their steps: what began has an end, and nothing runs on."""

# ruff: noqa: ARG001 - hooks name what they are given

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import (
    AgentEnd,
    AgentStart,
    Ask,
    Message,
    PermissionRequest,
    PermissionResponse,
    Replace,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    ToolResult,
    UserMessage,
    evolve,
)
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go

from .bench import KitBench

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ally_plugins import AgentWork

MOST = 300
"""Steps of the loop after which a whole turn must have come to its end by itself."""


PAIRS: tuple[Any, ...] = (
    (AgentStart, AgentEnd),
    (ToolCallStart, ToolCallEnd),
    (PermissionRequest, PermissionResponse),
)


async def change(_: Any, call: ToolCall) -> Any:
    await asyncio.sleep(0)
    return Replace(evolve(call, arguments={"command": "ls -l"}))


async def ask(_: Any, call: ToolCall) -> Any:
    await asyncio.sleep(0)
    return Ask("sure?")


async def louder(_: Any, call: ToolCall, result: ToolResult) -> Any:
    await asyncio.sleep(0)
    return Replace(evolve(result, output=result.output + "!"))


async def shorter(_: Any, message: Message) -> Any:
    await asyncio.sleep(0)
    return Replace(evolve(message, content="hi"))


async def yes(_: Any) -> str:
    await asyncio.sleep(0)
    return "allow"


def played(play: Callable[[AgentWork], Awaitable[Any]], steps: int) -> tuple[KitBench, bool]:
    """Play in a run that is cancelled after some steps of the loop; return the bench, and whether it was."""
    plugin = make_plugin(
        ally_transform_tool_input=change,
        ally_gate_tool_call=ask,
        ally_transform_tool_output=louder,
        ally_transform_user_message=shorter,
    )
    bench = KitBench({"p": plugin}, approve=yes)

    async def main() -> bool:
        async with bench.host:
            work = await bench.kit.open("s", "r", "agent")
            playing = asyncio.ensure_future(play(work))
            for _ in range(steps):
                await asyncio.sleep(0)
            playing.cancel()
            await asyncio.wait([playing])
            assert playing.cancelled() or playing.exception() is None
            await work.close(cause="it was cancelled" if playing.cancelled() else None)
            assert bench.kit.find("s") is None
            return playing.cancelled()

    return bench, go(main())


@pytest.mark.slow
def test_a_turn_that_is_cancelled_at_any_step_tells_an_end_of_all_that_it_has_begun() -> None:
    ran: list[int] = []

    async def tool(call: ToolCall) -> ToolResult:
        ran.append(1)
        await asyncio.sleep(0)
        return ToolResult(success=True, output="done")

    async def turn(work: AgentWork) -> None:
        await work.begin("hello")
        await work.run_tool_call(ToolCall("bash", {"command": "ls"}, "c1"), tool)
        begun = await work.begin_call(ToolCall("bash", {"command": "ls"}, "c2"))
        assert isinstance(begun, ToolCall)
        await work.end_call("c2", await tool(begun))
        await work.safe_point("turn_end")

    seen = set()
    for steps in range(MOST):
        ran.clear()
        bench, is_cancelled = played(turn, steps)
        for begin, end in (
            (AgentStart, AgentEnd),
            (ToolCallStart, ToolCallEnd),
            (PermissionRequest, PermissionResponse),
        ):
            assert len(bench.of(begin)) == len(bench.of(end)), (steps, bench.types)
        ids = [event.call_id for event in bench.of(ToolCallStart)]
        assert len(set(ids)) == len(ids)
        assert len(ran) <= len(ids)
        assert all(event.content == "hi" for event in bench.of(UserMessage))
        assert all(event.output in {"", "done!"} for event in bench.of(ToolCallEnd))
        assert bench.types[-1] == "SESSION_END"
        seen.add(tuple(bench.types))
        if not is_cancelled:
            break
    else:
        raise AssertionError("the turn has not come to its end")
    assert len(seen) > 2  # it was cancelled in several places; how many a turn has depends on how busy the machine is
