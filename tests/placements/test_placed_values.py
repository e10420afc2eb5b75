"""Values that are large, or that JSON cannot say, and calls that are given up: here placements differ most."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ally_plugins import (
    Context,
    GateRefused,
    Message,
    PermissionRequest,
    ToolCall,
    ToolCallEnd,
    ToolCallError,
    ToolResult,
)
from ally_plugins.contract.values.errors import EventError
from tests.kit.placements import Placed, call, collect_events, look, look_until
from tests.kit.waiting import go

CALL = ToolCall("bash", {"command": "ls"}, "c1")
MEGABYTES = 2 * 1024 * 1024


def test_a_plugin_hears_large_events_and_gives_and_takes_large_values(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Large")}) as host:
            session = host.session()
            session.emit(ToolCallEnd(tool_name="bash", output="x" * MEGABYTES))
            await session.drained()
            assert await look(host) == [MEGABYTES]
            taken = await host.call_tool("take", {"value": "x" * MEGABYTES})
            assert taken.data["length"] == MEGABYTES
            deep: Any = "deepest"
            for _ in range(60):
                deep = [deep]
            assert (await host.call_tool("take", {"value": deep})).data["type"] in {"list", "tuple"}
            many = list(range(150_000))
            assert (await host.call_tool("take", {"value": many})).data["length"] == len(str(many))
            half = ToolResult(True, "x" * 500_000)  # noqa: FBT003
            assert len((await session.transform_tool_output(CALL, half)).output) == 500_001
            assert len((await host.call_tool("give", {"characters": 500_000})).output) == 500_000
            assert host.plugins["p"].counts.crashes == 0

    go(main())


def test_what_a_plugin_says_is_bounded_by_its_placement(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Large")}) as host:
            session = host.session()
            whole = ToolResult(True, "x" * MEGABYTES)  # noqa: FBT003
            if placed.placement.bounds_what_is_said:
                with pytest.raises(GateRefused, match="what it made of it is too large for it to send"):
                    await session.transform_tool_output(CALL, whole)
                with pytest.raises(ToolCallError, match=r"'give' of 'p' failed with BudgetRefused: .* takes 1048576"):
                    await host.call_tool("give", {"characters": MEGABYTES})
                assert host.plugins["p"].counts.crashes == 0  # refused, as what is larger than a budget
            else:
                assert len((await session.transform_tool_output(CALL, whole)).output) == MEGABYTES + 1
                assert len((await host.call_tool("give", {"characters": MEGABYTES})).output) == MEGABYTES
            assert (await host.call_tool("give", {"characters": 5})).output == "xxxxx"  # it goes on
            assert host.plugins["p"].state == "running"

    go(main())


@pytest.mark.parametrize("characters", [100_000, MEGABYTES])
def test_a_call_with_too_much_is_refused(characters: int, placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Large")}, actions=["compact"]) as host:
            host.session()
            refused = (await host.call_tool("say", {"characters": characters})).data
            assert [each["raised"] for each in refused] == ["BudgetRefused"] * 3
            budgets = [each["budget"] for each in refused]
            if characters == MEGABYTES and placed.placement.bounds_what_is_said:
                assert set(budgets) == {"frame_bytes"}
            else:
                assert budgets == ["message_bytes", "event_bytes", "arguments_bytes"]
            assert host.plugins["p"].state == "running"

    go(main())


@pytest.mark.parametrize("how", ["object", "bytes", "nan", "keys", "set"])
def test_what_json_cannot_say_is_no_result(how: str, placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Large")}) as host:
            error = EventError if placed.placement.keeps_python_values else ToolCallError
            with pytest.raises(error):
                await host.call_tool("give_odd", {"how": how})
            assert host.plugins["p"].counts.crashes == (0 if placed.placement.keeps_python_values else 1)
            assert host.plugins["p"].state == "running"

    go(main())


def test_numbers_and_text_that_the_wire_cannot_carry(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Large")}) as host:
            text = (await host.call_tool("take", {"value": "a\ud800b"})).data
            if placed.placement.keeps_python_values:
                number = (await host.call_tool("take", {"value": 2**70})).data
                assert (number["type"], text["repr"]) == ("int", "'a\\ud800b'")
                assert number["length"] == len(str(2**70))
            else:
                assert text["repr"] == "'a?b'"
                with pytest.raises(
                    ToolCallError, match=r"arguments\.value is an integer of 71 bits; expected 64 at most"
                ):
                    await host.call_tool("take", {"value": 2**70})
            assert host.plugins["p"].counts.crashes == 0
            for number in (2**64 - 1, -(2**63)):
                assert (await host.call_tool("take", {"value": number})).data["repr"] == str(number)


def test_an_integer_over_64_bits_in_what_a_plugin_returns_is_refused_with_its_place(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Large")}) as host:
            if placed.placement.keeps_python_values:
                with pytest.raises(EventError, match="data is a whole number of 71 bits"):
                    await host.call_tool("give_odd", {"how": "big"})
            else:
                with pytest.raises(ToolCallError, match="cannot be sent: result is an integer of 71 bits"):
                    await host.call_tool("give_odd", {"how": "big"})
            assert host.plugins["p"].state == "running"

    go(main())


def test_a_conversation_with_such_an_integer_neither_stops_the_gates_nor_those_who_read_it(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller"), "judge": placed("hooks:Judges")}) as host:
            session = host.session("s")
            session.conversation.add(Message(role="user", content="hello", metadata={"n": 2**70}))
            ruling = await session.gate_tool_call(ToolCall("allow"))
            assert [vote.cause for vote in ruling.votes] == ["verdict"]
            read = await call(host, "get_context", ["messages"], session_id="s")
            assert str(2**70) in read["returned"]["value"]

    go(main())

    go(main())


def test_what_a_plugin_is_shown_cannot_be_changed(placed: Placed) -> None:
    data = {"list": [1], "dict": {}}

    async def main() -> None:
        async with placed.host({"p": placed("chains:Spoils")}) as host:
            session = host.session("s")
            session.conversation.add(Message(role="user", content="hello", metadata=data))
            session.emit(ToolCallEnd(tool_name="x", result=data))
            await session.gate_tool_call(ToolCall("bash", data))
            await session.transform_tool_output(CALL, ToolResult(True, "out", data=data))  # noqa: FBT003
            await session.gate_permission(PermissionRequest(request_id="r", tool_name="bash", arguments=data))
            raised = ["FrozenInstanceError", "TypeError", "TypeError", "AttributeError"]
            assert await look(host) == [
                [what, *raised] for what in ("event", "call", "message", "result", "request")
            ]  # fmt: skip
            assert host.plugins["p"].counts.crashes == 0

    go(main())


def test_without_a_grant_a_gate_sees_an_empty_context(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:Judges", ["tools", "gate:tool_call"])}) as host:
            await host.session("s", focus="/home").gate_tool_call(CALL)
            assert (await look(host))[0][2] == repr(Context(session_id="s"))

    go(main())


@pytest.mark.parametrize("how", ["give_up", "give_up_in_thread"])
def test_a_call_that_its_plugin_gives_up_is_taken_back(how: str, placed: Placed) -> None:
    async def main() -> None:
        plugins = {"p": placed("calls:GivesUp"), "judge": placed("calls:HangsOnMessages")}
        async with placed.host(plugins) as host:
            host.session("s")
            assert (await host.call_tool(how)).output == "gave up"
            await look_until(host, lambda seen: seen == ["asked", "interrupted"], "judge")
            assert host.journal.pending("s") == []
            assert host.plugins["p"].budget.in_flight == 0
            assert {plugin.counts.crashes for plugin in host.plugins.values()} == {0}

    go(main())


def test_tools_run_at_once_and_outside_the_lane(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Meets")}) as host:
            session = host.session()
            met = await asyncio.gather(host.call_tool("meet"), host.call_tool("meet"))
            assert [result.output for result in met] == ["met", "met"]
            waiting = asyncio.ensure_future(host.call_tool("wait"))
            await asyncio.sleep(0)
            session.emit(ToolCallEnd(tool_name="x"))
            assert (await waiting).output == "waited"

    go(main())


def test_the_persons_interruption_is_no_plugins_to_make(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("calls:Interrupts")}) as host:
            ruling = await host.session().gate_tool_call(CALL)
            assert ruling.is_denied
            assert ruling.votes[0].cause == "crash"
            assert "KeyboardInterrupt" in ruling.reason

    if placed.placement.shares_the_hosts_loop:
        with pytest.raises(KeyboardInterrupt):
            go(main())
    else:
        go(main())


def test_the_states_of_a_life(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:HearsAll", ["tools"])}) as host:
            events = collect_events(host)
            host.session("s")
        states = [event.state for event in events if event.type == "PLUGIN_STATE"]
        assert states == (["stopped"] if placed.placement.shares_the_hosts_loop else ["stopping", "stopped"])

    go(main())
