"""A gate that waits for nothing answers in the turn of the loop in which it is asked; it is its lane's all the same."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from ally_plugins import Allow, Deny, Host, ToolCall, ToolCallStart
from ally_plugins.runtime.lanes.dispatch import HookCall
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go, until

CALL = ToolCall("bash", {"command": "ls"}, "c1")
WHOSE: ContextVar[str] = ContextVar("whose", default="nobody's")


async def allow(self: Any, call: ToolCall) -> Allow:  # noqa: ARG001
    return Allow()


async def ask(host: Host, call: ToolCall = CALL) -> tuple[list[Any], int]:
    """Ask the gates of a host; return their votes, and how many turns the loop has taken meanwhile."""
    dispatcher = host.services.dispatcher
    hook = HookCall(hook="ally_gate_tool_call", session_id=host.session("s").id)
    turns, loop = 0, asyncio.get_running_loop()

    def count() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(count)

    loop.call_soon(count)
    return await dispatcher.ask(hook, dispatcher.participants(hook), lambda _: (call, None)), turns


async def settled(host: Host) -> None:
    """Wait until the lanes sleep."""
    await host.session("s").drained()
    await until(lambda: not any(lane.is_busy for lane in host.services.lanes()))


def test_gates_that_wait_for_nothing_answer_in_the_turn_in_which_they_are_asked() -> None:
    async def main() -> None:
        async with new_host({name: make_plugin(ally_gate_tool_call=allow) for name in ("p", "q")}) as host:
            await settled(host)
            votes, turns = await ask(host)
            assert ([vote.verdict for vote in votes], turns) == ([Allow(), Allow()], 0)

    go(main())


def test_a_gate_comes_after_the_events_that_its_plugin_observes_and_not_after_those_of_others() -> None:
    async def observe(self: Any, event: ToolCallStart) -> None:  # noqa: ARG001
        self.seen.append("start")

    async def gate(self: Any, call: ToolCall) -> None:  # noqa: ARG001
        self.seen.append("gate")

    async def main() -> None:
        both = make_plugin(ally_gate_tool_call=gate, ally_tool_call_start=observe)
        async with new_host({"p": both, "q": make_plugin(ally_gate_tool_call=gate)}) as host:
            await settled(host)
            seen = [host.plugins[name].instance.seen for name in ("p", "q")]
            host.session("s").emit(ToolCallStart(tool_name="bash"))
            await ask(host)
            assert seen == [["start", "gate"], ["gate"]]

    go(main())


def test_the_first_step_of_a_gate_runs_in_the_task_and_context_of_its_lane() -> None:
    async def gate(self: Any, call: ToolCall) -> None:  # noqa: ARG001
        self.seen.append((asyncio.current_task().get_name(), WHOSE.get()))  # type: ignore[union-attr]
        WHOSE.set("the gate's")

    async def main() -> None:
        async with new_host({"p": make_plugin(ally_gate_tool_call=gate)}) as host:
            await settled(host)
            WHOSE.set("the caller's")
            caller = asyncio.current_task()
            for _ in range(2):
                await ask(host)
                assert asyncio.current_task() is caller
                assert WHOSE.get() == "the caller's"
            seen = host.plugins["p"].instance.seen
            assert seen == [("ally-lane-p", "nobody's"), ("ally-lane-p", "the gate's")]

    go(main())


def test_what_a_gate_began_in_its_first_step_interrupts_the_gate_and_not_who_has_asked() -> None:
    async def gate(self: Any, call: ToolCall) -> Deny:  # noqa: ARG001
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(3600)
        except TimeoutError:
            await asyncio.sleep(0)
            return Deny("late")
        raise AssertionError

    async def main() -> None:
        async with new_host({"p": make_plugin(ally_gate_tool_call=gate)}) as host:
            await settled(host)
            votes, _ = await ask(host)
            assert votes[0].verdict == Deny("late")

    go(main())


@pytest.mark.parametrize("wait", [0, 0.001])
def test_a_gate_goes_on_where_it_waits_and_keeps_what_it_has_awaited(wait: float) -> None:
    async def gate(self: Any, call: ToolCall) -> Deny:  # noqa: ARG001
        before = asyncio.current_task()
        found = await asyncio.sleep(wait, "found")
        third = await asyncio.sleep(wait, "too")
        assert asyncio.current_task() is before
        return Deny(f"{found} {third}")

    async def main() -> None:
        async with new_host({"p": make_plugin(ally_gate_tool_call=gate)}) as host:
            await settled(host)
            votes, turns = await ask(host)
            assert votes[0].verdict == Deny("found too")
            assert turns > 0

    go(main())


def test_a_gate_that_was_begun_is_interrupted_at_its_deadline() -> None:
    async def gate(self: Any, call: ToolCall) -> None:  # noqa: ARG001
        self.seen.append("begun")
        try:
            await asyncio.sleep(3600)
        finally:
            self.seen.append("ended")

    async def main() -> None:
        slow = setup(make_plugin(ally_gate_tool_call=gate), deadlines={"gate": 0.02})
        async with new_host({"p": slow}) as host:
            await settled(host)
            votes, _ = await ask(host)
            assert votes[0].cause == "timeout"
            await settled(host)
            assert host.plugins["p"].instance.seen == ["begun", "ended"]
            assert host.plugins["p"].state == "running"

    go(main())


def test_a_gate_that_is_taken_back_before_its_task_goes_on_is_cancelled_where_it_waits() -> None:
    async def gate(self: Any, call: ToolCall) -> None:  # noqa: ARG001
        self.seen.append("begun")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # what it puts in order may wait
            self.seen.append("in order")
            raise

    async def main() -> None:
        async with new_host({"p": make_plugin(ally_gate_tool_call=gate)}) as host:
            await settled(host)
            lane, seen = host.services.dispatcher.plugins["p"].lane, host.plugins["p"].instance.seen
            assert lane is not None
            future = lane.submit("ally_gate_tool_call", host.plugins["p"].instance.ally_gate_tool_call, (CALL,))
            assert seen == ["begun"]
            future.cancel()
            await settled(host)
            assert seen == ["begun", "in order"]
            assert host.plugins["p"].counts.crashes == 0

    go(main())


def test_what_a_gate_raises_at_once_is_its_crash_and_the_next_one_is_asked() -> None:
    async def gate(self: Any, call: ToolCall) -> Allow:
        self.seen.append(call.tool_name)
        if call.tool_name == "raise":
            raise ValueError("broken")
        return Allow()

    async def main() -> None:
        async with new_host({"p": make_plugin(ally_gate_tool_call=gate)}) as host:
            await settled(host)
            votes, _ = await ask(host, ToolCall("raise"))
            assert (votes[0].cause, votes[0].detail) == ("crash", "ValueError: broken")
            votes, _ = await ask(host)
            assert votes[0].verdict == Allow()
            assert host.plugins["p"].counts.crashes == 1

    go(main())


def test_a_gate_that_cancels_its_task_at_once_is_the_end_of_its_plugin_though_it_answers() -> None:
    async def gate(self: Any, call: ToolCall) -> Allow:  # noqa: ARG001
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        return Allow()

    async def main() -> None:
        async with new_host({"p": make_plugin(ally_gate_tool_call=gate)}) as host:
            await settled(host)
            await ask(host)
            assert host.plugins["p"].state == "quarantined"
            assert "HookCancelled: the hook cancelled the task that it runs in" in host.plugins["p"].reason
            votes, _ = await ask(host)
            assert votes[0].cause == "quarantined"

    go(main())


def test_a_hook_whose_function_returns_another_awaitable_is_awaited_by_its_lane() -> None:
    async def main() -> None:
        async with new_host({"p": make_plugin(ally_gate_tool_call=allow)}) as host:
            await settled(host)
            lane = host.services.dispatcher.plugins["p"].lane
            assert lane is not None
            promised: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            answer = lane.submit("ally_gate_tool_call", lambda: promised)
            assert not answer.done()
            promised.set_result("kept")
            assert await answer == "kept"

    go(main())


def test_a_gate_whose_plugin_is_put_out_amid_its_first_step_gives_no_verdict() -> None:
    async def main() -> None:
        async def gate(self: Any, call: ToolCall) -> Allow:  # noqa: ARG001
            host.services.dispatcher.plugins["p"].lane.abandon()  # type: ignore[union-attr]
            return Allow()

        async with new_host({"p": make_plugin(ally_gate_tool_call=gate)}) as host:
            await settled(host)
            votes, _ = await ask(host)
            assert isinstance(votes[0].verdict, Deny)

    go(main())
