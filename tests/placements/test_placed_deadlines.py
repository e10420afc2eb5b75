"""Deadlines in every placement: what is interrupted, what is told, and what follows when that is ignored."""

from __future__ import annotations

import asyncio
from math import inf, nan

import attrs
import pytest

from ally_plugins import GateRefused, ToolCall, ToolCallEnd, ToolCallError
from tests.kit.placements import Placed, look, look_until, records_of
from tests.kit.waiting import go, until

CALL = ToolCall("hang", {"command": "ls"})


def end(name: str) -> ToolCallEnd:
    return ToolCallEnd(tool_name=name)


@pytest.mark.slow
def test_what_is_past_its_deadline_is_interrupted_and_the_plugin_goes_on(placed: Placed) -> None:
    async def main() -> None:
        deadlines = {"gate": 0.4, "transform": 0.4, "ally_tool_call_end": 0.4}
        one = placed("lives:Slow", deadlines=deadlines, transform_on_error="block")
        async with placed.host({"p": one}) as host:
            session, plugin = host.session("s"), host.plugins["p"]
            ruling = await session.gate_tool_call(CALL)
            assert ruling.votes[0].cause == "timeout"
            assert "TimedOut: ally_gate_tool_call did not answer within 0.4 s" in ruling.votes[0].detail
            with pytest.raises(GateRefused, match=r"TimedOut: ally_transform_tool_input did not answer within 0.4 s"):
                await session.transform_tool_input(CALL)
            session.emit(end("hang"))
            session.emit(end("after"))
            await session.drained()
            assert await look(host) == [
                "gate was interrupted", "transform was interrupted", "observer was interrupted", "after",
            ]  # fmt: skip
            assert plugin.counts.crashes == 3
            assert plugin.state == "running"
            crashes = [(r.data["hook"], r.data["event"], r.data["error"]) for r in await records_of(host, "crash")]
            assert [hook for hook, _, _ in crashes] == [
                "ally_gate_tool_call", "ally_transform_tool_input", "ally_tool_call_end",
            ]  # fmt: skip
            assert crashes[2][1] == "s:3"
            assert placed.raised("TimedOut: ally_tool_call_end took longer than 0.4 s") in crashes[2][2]

    go(main())


def test_a_gate_behind_a_stuck_observer_denies_at_its_deadline(placed: Placed) -> None:
    async def main() -> None:
        one = placed("lives:Slow", deadlines={"gate": 0.3, "observe": 1.0})
        async with placed.host({"p": one}) as host:
            session = host.session()
            session.emit(end("hang"))
            first = await session.gate_tool_call(ToolCall("bash"))
            assert first.is_denied
            assert first.votes[0].cause == "timeout"
            await session.drained()
            assert (await session.gate_tool_call(ToolCall("bash"))).is_allowed

    go(main())


@pytest.mark.parametrize("timeout", [nan, inf])
def test_a_caller_whose_timeout_is_no_number_of_seconds_has_the_tools_own(placed: Placed, timeout: float) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("lives:Slow")}) as host:
            host.session()
            with pytest.raises(ToolCallError, match=r"'wait' of 'p' did not return within 0.3 s"):
                await host.call_tool("wait", timeout=timeout)

    go(main())


@pytest.mark.smoke
@pytest.mark.slow
def test_tools_and_actions_have_timeouts_of_their_own(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("lives:Slow")}) as host:
            session = host.session()
            for name in ("wait", "block"):
                with pytest.raises(ToolCallError) as late:
                    await host.call_tool(name)
                assert str(late.value) == f"'{name}' of 'p' did not return within 0.3 s"
                assert late.value.tool == name
            with pytest.raises(ToolCallError, match=r"'wait_action' of 'p' did not return within 0.3 s"):
                await session.request_action("wait_action")
            with pytest.raises(ToolCallError, match=r"'wait_long' of 'p' did not return within 0.2 s"):
                await host.call_tool("wait_long", timeout=0.2)
            calling = asyncio.ensure_future(host.call_tool("wait_long"))
            await look_until(host, lambda seen: seen.count("waits") == 2)
            calling.cancel()
            await asyncio.wait([calling])
            seen = await look_until(host, lambda seen: seen.count("wait_long was interrupted") == 2)
            await look_until(host, lambda seen: "block has ended" in seen)
            assert {"wait was interrupted", "action was interrupted"} <= set(seen)
            assert host.plugins["p"].counts.crashes == 4  # what its caller took back is none

    go(main())


@pytest.mark.parametrize("plugin", ["Swallows", "Blocks"])
def test_a_gate_that_nothing_interrupts_is_the_end_of_its_plugin_or_of_its_process(plugin: str, placed: Placed) -> None:
    async def main() -> None:
        one = placed(f"hooks:{plugin}", deadlines={"gate": 0.3})
        async with placed.host({"p": one}) as host:
            session, p = host.session(), host.plugins["p"]
            stuck = {"Swallows": "ignore", "Blocks": "block"}[plugin]
            ruling = await session.gate_tool_call(ToolCall(stuck))
            assert ruling.is_denied
            assert ruling.votes[0].cause == "timeout"
            await until(lambda: p.state != "running")
            if placed.placement.starts_again:
                assert "exited with code 70" in p.reason
                await until(lambda: p.state == "running")
                assert (await session.gate_tool_call(ToolCall("bash"))).is_allowed
                assert p.counts.crashes == 2  # the timeout, and the end of the process
            else:
                assert p.state == "quarantined"
                assert p.reason.startswith("ally_gate_tool_call ignored its interruption and was abandoned (TimedOut")
                assert p.counts.crashes == 1
                assert p.reason.endswith("let it out with `ally-plugins release p`")

    go(main())


@pytest.mark.slow
def test_an_observer_that_nothing_interrupts_too(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:Swallows", deadlines={"observe": 0.3})}) as host:
            session, p = host.session(), host.plugins["p"]
            session.emit(end("ignore"))
            await until(lambda: p.state != "running")
            if placed.placement.starts_again:
                assert "exited with code 70" in p.reason
                await until(lambda: p.state == "running")
                await host.call_tool("look")
            else:
                assert p.state == "quarantined"
                assert p.reason.startswith("ally_tool_call_end ignored its interruption and was abandoned (TimedOut")

    go(main())


def test_what_swallows_its_interruption_and_ends_goes_on(placed: Placed) -> None:
    async def main() -> None:
        deadlines = {"gate": 0.3, "observe": 0.3}
        async with placed.host({"p": placed("hooks:Swallows", deadlines=deadlines)}) as host:
            session = host.session()
            assert (await session.gate_tool_call(ToolCall("late"))).votes[0].cause == "timeout"
            session.emit(end("late"))
            session.emit(end("after"))
            await session.drained()
            assert await look(host) == ["interrupted", "interrupted", "late", "after"]
            assert (await session.gate_tool_call(ToolCall("bash"))).is_allowed
            assert host.plugins["p"].state == "running"
            assert host.plugins["p"].counts.crashes == 2

    go(main())


def test_a_question_that_is_taken_back_interrupts_the_hook_and_is_no_crash(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("lives:Slow")}) as host:
            session = host.session()
            asking = asyncio.ensure_future(session.gate_tool_call(attrs.evolve(CALL, tool_name="note")))
            await look_until(host, lambda seen: seen == ["asked"])
            asking.cancel()
            await asyncio.wait([asking])
            assert (await session.gate_tool_call(attrs.evolve(CALL, tool_name="bash"))).is_allowed
            assert await look(host) == ["asked", "gate was interrupted"]
            assert host.plugins["p"].counts.crashes == 0

    go(main())
