"""How the hooks of a plugin are run in every placement: one at a time, each under a deadline of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ally_plugins import ToolCall, ToolCallEnd
from tests.kit.placements import Placed, look, look_until, records_of
from tests.kit.waiting import go, until


def end(name: str, **extra: Any) -> ToolCallEnd:
    return ToolCallEnd(tool_name=name, extra=extra)


def gone(placed: Any, plugin: Any) -> bool:
    """Say whether a plugin has come to the end that its placement has for what cannot be interrupted."""
    if placed.placement.starts_again:
        return "exited with code 70" in plugin.reason
    return bool(plugin.state == "quarantined")


def test_each_hook_of_an_event_has_a_deadline_of_its_own(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("running:TwoHooks", deadlines={"observe": 0.5})}) as host:
            session = host.session("s")
            session.emit(end("fine"))
            await session.drained()
            assert await look(host) == [2]
            assert host.plugins["p"].counts.crashes == 0

    go(main())


@pytest.mark.slow
def test_the_hook_after_one_that_swallowed_its_interruption_has_its_whole_time(placed: Placed) -> None:
    async def main() -> None:
        deadlines = {"ally_tool_call_end": 0.2, "observe": 30.0}
        async with placed.host({"p": placed("running:TwoHooks", deadlines=deadlines)}) as host:
            session = host.session("s")
            session.emit(end("swallow", long=True))  # longer than the grace of the hook before it
            await session.drained()
            assert await look(host) == [2]
            assert (host.plugins["p"].state, host.plugins["p"].counts.crashes) == ("running", 1)

    go(main())


def test_after_an_interruption_that_was_swallowed_the_next_hook_is_not_cancelled_in_its_place(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("running:Groups", deadlines={"observe": 0.3})}) as host:
            session = host.session("s")
            session.emit(end("swallow"))
            session.emit(end("group"))
            await session.drained()
            assert await look(host) == ["swallowed", "group", "timeout"]
            assert (host.plugins["p"].state, host.plugins["p"].counts.crashes) == ("running", 1)

    go(main())


def test_a_crash_is_recorded_under_the_hook_that_was_called(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("running:General", deadlines={"ally_event": 30.0})}) as host:
            session = host.session("s")
            session.emit(end("bash"))
            await session.drained()
            assert [record.data["hook"] for record in await records_of(host, "crash")] == ["ally_event"]

    go(main())


def test_a_slow_def_hook_delays_only_the_events_after_it(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("running:InThread", deadlines={"observe": 0.6})}) as host:
            session = host.session("s")
            for name in ("slow", "fine", "slow", "slow", "fine"):  # together longer than one may take
                session.emit(end(name))
            ruling = await session.gate_tool_call(ToolCall("bash"))
            assert ruling.is_allowed
            assert await look(host) == [
                ["slow", 2], ["fine", 3], ["slow", 4], ["slow", 5], ["fine", 6], "asked", "answered",
            ]  # fmt: skip
            assert (host.plugins["p"].state, host.plugins["p"].counts.crashes) == ("running", 0)

    go(main())


@pytest.mark.slow
def test_a_def_hook_past_its_deadline_in_the_middle_of_a_batch_is_told_with_its_event(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("running:InThread", deadlines={"observe": 0.5})}) as host:
            session, p = host.session("s"), host.plugins["p"]
            for name in ("fine", "slow", "block", "fine"):
                session.emit(end(name))
            asking = asyncio.ensure_future(session.gate_tool_call(ToolCall("bash")))
            await until(lambda: gone(placed, p))
            assert (await asking).is_denied
            crash, *_ = await records_of(host, "crash")
            assert (crash.data["hook"], crash.data["event"]) == ("ally_tool_call_end", "s:4")
            assert placed.raised("TimedOut: ally_tool_call_end took longer than 0.5 s") in crash.data["error"]

    go(main())


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cancelled", "HookCancelled: the hook raised CancelledError"),
        ("coroutine", "PluginError: ally_tool_call_end returned a coroutine that nobody awaits"),
    ],
)
def test_a_def_hook_that_ends_as_none_should_is_a_crash_and_the_batch_goes_on(
    how: str, words: str, placed: Placed
) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("running:InThread")}) as host:
            session = host.session("s")
            session.emit(end(how))
            session.emit(end("fine"))
            await session.drained()
            assert await look(host) == [[how, 2], ["fine", 3]]
            (crash,) = await records_of(host, "crash")
            assert placed.raised(words) in crash.data["error"]
            assert host.plugins["p"].state == "running"

    go(main())


@pytest.mark.parametrize("kind", ["observer", "gate"])
def test_a_hook_that_cancels_its_own_task_is_the_end_of_its_plugin_or_of_its_process(kind: str, placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("running:CancelsItself")}) as host:
            session, p = host.session("s"), host.plugins["p"]
            if kind == "gate":
                assert (await session.gate_tool_call(ToolCall("cancel"))).is_denied
            else:
                session.emit(end("bash"))
            await until(lambda: gone(placed, p))
            if placed.placement.starts_again:
                await until(lambda: p.state == "running")
                assert (await session.gate_tool_call(ToolCall("bash"))).is_allowed
            else:
                assert "HookCancelled: the hook cancelled the task that it runs in" in p.reason

    go(main())


def test_a_question_that_is_taken_back_before_its_turn_is_never_asked(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("running:InThread")}) as host:
            session = host.session("s")
            first = asyncio.ensure_future(session.gate_tool_call(ToolCall("slow")))
            await look_until(host, lambda seen: seen == ["asked"])
            second = asyncio.ensure_future(session.gate_tool_call(ToolCall("bash")))
            await asyncio.sleep(0)
            second.cancel()
            assert (await first).is_allowed
            assert (await session.gate_tool_call(ToolCall("bash"))).is_allowed
            assert await look(host) == ["asked", "answered"] * 2
            assert host.plugins["p"].counts.crashes == 0

    go(main())


def test_a_def_gate_that_is_taken_back_may_go_on_to_its_deadline(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("running:InThread", deadlines={"gate": 5.0})}) as host:
            session = host.session("s")
            asking = asyncio.ensure_future(session.gate_tool_call(ToolCall("slow")))
            await look_until(host, lambda seen: seen == ["asked"])
            asking.cancel()
            await asyncio.wait([asking])
            assert (await session.gate_tool_call(ToolCall("bash"))).is_allowed
            await look_until(host, lambda seen: seen == ["asked", "answered", "asked", "answered"])
            assert (host.plugins["p"].state, host.plugins["p"].counts.crashes) == ("running", 0)

    go(main())


@pytest.mark.slow
def test_a_gate_that_ignores_that_it_was_taken_back_is_the_end_too(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("running:Groups")}) as host:
            session, p = host.session("s"), host.plugins["p"]
            asking = asyncio.ensure_future(session.gate_tool_call(ToolCall("ignore")))
            await look_until(host, lambda seen: seen == ["asked"])
            asking.cancel()
            await asyncio.wait([asking])
            await until(lambda: gone(placed, p))
            if not placed.placement.starts_again:
                assert "TakenBack: ally_gate_tool_call was taken back" in p.reason

    go(main())
