from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest

from ally_plugins.contract.values.errors import TimedOut
from ally_plugins.contract.values.events import PluginEvent, TodoUpdate, ToolCallEnd, ToolCallStart
from ally_plugins.contract.values.scope import current_scope
from ally_plugins.policy.permissions import GrantSet
from tests.durable.rig import Heard, ends
from tests.kit.waiting import go, until


def test_a_durable_event_comes_as_it_was_emitted(rig_in_memory: Any) -> None:
    async def main() -> None:
        async with rig_in_memory() as host:
            ear = Heard()
            scopes: list[Any] = []

            async def hook(event: Any) -> None:
                scopes.append(current_scope("p"))
                ear.note(event)

            await host.inline(ally_tool_call_end=hook)
            sent = ToolCallEnd(tool_name="bash", success=False, output="x", call_id="c1", duration_ms=1.5)
            host.emit(ToolCallStart(tool_name="bash"), sent, origin=("other",))
            (event,) = await ear.take(1)
            assert event == sent
            assert (event.seq, event.timestamp, event.id) == (2, 1_000_002, "s:2")
            assert (event.session_id, event.origin, event.turn_id) == ("s", ("other",), "s:t1")
            assert (scopes[0].session_id, scopes[0].origin, scopes[0].cause_id) == ("s", ("other",), "s:2")

    go(main())


def test_a_new_subscription_begins_at_the_end_of_the_journal(rig: Any) -> None:
    async def main() -> None:
        async with rig() as host:
            host.emit(*ends(5))
            ear = Heard()
            await host.inline(ally_tool_call_end=ear.hook)
            host.emit(*ends(3))
            await ear.take(3)
            assert ear.ids == ["s:6", "s:7", "s:8"]

    go(main())


def test_nothing_is_missing_and_nothing_comes_twice_across_restarts_of_the_host(rig: Any) -> None:
    async def main() -> None:
        ear = Heard()
        for _ in range(3):
            async with rig() as host:
                host.emit(*ends(50))
                await host.inline(ally_tool_call_end=ear.hook)
                host.emit(*ends(50))
                await ear.take(50 if host.seqs["s"] == 100 else 150)
                host.emit(*ends(50))  # nobody waits for these: they come now, or after the restart
        async with rig() as host:
            await host.inline(ally_tool_call_end=ear.hook)
            host.emit(*ends(1))
            while ear.ids[-1:] != [f"s:{host.seqs['s']}"]:
                await ear.take(1)
        assert ear.ids == [f"s:{number}" for number in range(51, 452)]

    go(
        main(),
    )


def test_what_was_emitted_while_the_plugin_was_not_there_is_heard_from_every_session(rig: Any) -> None:
    async def main() -> None:
        ear = Heard()
        async with rig() as host:
            await host.inline(ally_tool_call_end=ear.hook)
        async with rig() as host:
            host.emit(*ends(2), session="a")
            host.emit(*ends(2), session="b")
        async with rig() as host:
            await host.inline(ally_tool_call_end=ear.hook)
            await ear.take(4)
            assert sorted(ear.ids) == ["a:1", "a:2", "b:1", "b:2"]

    go(main())


def test_a_hook_that_crashes_is_reported_and_its_event_does_not_come_again(rig: Any) -> None:
    async def main() -> None:
        ear = Heard()

        async def poisoned(event: Any) -> None:
            ear.note(event)
            if event.seq == 2:
                raise ValueError("poison")

        async with rig() as host:
            await host.inline(ally_tool_call_end=poisoned)
            host.emit(*ends(3))
            await ear.take(3)
            assert [(crash.hook, str(crash.error), crash.event.id) for crash in host.crashes] == [
                ("ally_tool_call_end", "poison", "s:2")
            ]
        async with rig() as host:
            await host.inline(ally_tool_call_end=poisoned)
            host.emit(*ends(1))
            await ear.take(1)
            assert ear.ids == ["s:1", "s:2", "s:3", "s:4"]

    go(main())


def test_a_hook_that_is_too_late_is_a_crash_and_the_next_event_comes(rig_in_memory: Any) -> None:
    async def main() -> None:
        ear = Heard()

        async def slow(event: Any) -> None:
            ear.note(event)
            if event.seq == 1:
                await asyncio.Event().wait()

        async with rig_in_memory() as host:
            plugin = await host.inline(ally_tool_call_end=slow)
            plugin.options = attrs.evolve(plugin.options, deadlines={"observe": 0.05})
            host.emit(*ends(2))
            await ear.take(2)
            assert [type(crash.error) for crash in host.crashes] == [TimedOut]

    go(main())


@pytest.mark.slow
def test_an_event_whose_hook_runs_when_the_host_stops_comes_again(rig: Any) -> None:
    async def main() -> None:
        ear = Heard()
        stuck = True

        async def hook(event: Any) -> None:
            ear.note(event)
            if stuck and event.seq == 2:
                await asyncio.Event().wait()

        async with rig() as host:
            await host.inline(ally_tool_call_end=hook)
            host.emit(*ends(3))
            await ear.take(2)
        stuck = False
        async with rig() as host:
            await host.inline(ally_tool_call_end=hook)
            await ear.take(2)
            assert ear.ids == ["s:1", "s:2", "s:2", "s:3"]
            assert host.crashes == []

    go(main())


def test_a_plugin_in_quarantine_gets_the_rest_after_its_release(rig: Any) -> None:
    async def main() -> None:
        ear = Heard()
        is_bad = True

        async def hook(event: Any) -> None:
            ear.note(event)
            if is_bad:
                raise ValueError("bad")

        async with rig() as host:
            plugin = await host.inline(ally_tool_call_end=hook)
            host.emit(*ends(20))
            await ear.take(plugin.crashes.limit)
            await until(lambda: plugin.state == "quarantined")
            heard_before = len(ear.events)
            assert heard_before == plugin.crashes.limit
            is_bad = False
            await host.inline(ally_tool_call_end=hook)
            await ear.take(20 - heard_before)
            assert ear.ids == [f"s:{number}" for number in range(1, 21)]

    go(main())


def test_a_plain_function_is_called_and_both_its_hooks_are(rig_in_memory: Any) -> None:
    async def main() -> None:
        general = Heard()
        own: list[str] = []
        async with rig_in_memory() as host:
            await host.inline(ally_event=general.hook, ally_tool_call_end=lambda event: own.append(event.id))
            host.emit(TodoUpdate(todos=()), *ends(2))
            await general.take(2)
            assert general.ids == own == ["s:2", "s:3"]

    go(main())


def test_a_revoked_grant_counts_for_what_was_emitted_before_too(rig_in_memory: Any) -> None:
    async def main() -> None:
        ear = Heard()
        go_on = asyncio.Event()

        async def hook(event: Any) -> None:
            ear.note(event)
            await go_on.wait()

        async with rig_in_memory() as host:
            plugin = await host.inline(
                types={"TOOL_CALL_END", "TODO_UPDATE"}, ally_tool_call_end=hook, ally_todo_update=hook
            )
            host.emit(*ends(5), TodoUpdate(todos=()))
            await ear.take(1)
            plugin.options = attrs.evolve(plugin.options, grants=GrantSet.of(["events:TODO_UPDATE"]))
            go_on.set()
            await ear.take(1)
            assert ear.ids == ["s:1", "s:6"]

    go(main())


def test_plugins_events_are_heard_by_name_and_never_the_plugins_own(rig_in_memory: Any) -> None:
    async def main() -> None:
        ear = Heard()
        async with rig_in_memory() as host:
            await host.inline(types={"a:one", "b:*", "p:*"}, grants=["events:*"], ally_event=ear.hook)
            host.emit(PluginEvent(event_type="p:mine"), origin=("p",))
            for name in ("a:one", "a:two", "b:one"):
                host.emit(PluginEvent(event_type=name, data={"x": name}), origin=("a",))
            found = await ear.take(2)
            assert [(event.type, event.data["x"]) for event in found] == [("a:one", "a:one"), ("b:one", "b:one")]
            assert ear.ids == ["s:2", "s:4"]

    go(main())


@pytest.mark.slow
def test_a_slow_plugin_gets_ten_thousand_events_in_order(rig: Any) -> None:
    async def main() -> None:
        ear = Heard()

        async def slow(event: Any) -> None:
            await asyncio.sleep(0)
            ear.note(event)

        async with rig() as host:
            await host.inline(ally_tool_call_end=slow)
            for start in range(0, 10_000, 100):
                host.emit(*ends(100, start))
            await ear.take(10_000)
            assert [event.tool_name for event in ear.events] == [f"t{number}" for number in range(10_000)]

    go(main())


def test_a_slow_plugin_delays_no_other(rig_in_memory: Any) -> None:
    async def main() -> None:
        quick, slow, never = Heard(), Heard(), asyncio.Event()

        async def hook(event: Any) -> None:
            slow.note(event)
            await never.wait()

        async with rig_in_memory() as host:
            await host.inline(name="slow", ally_tool_call_end=hook)
            await host.inline(name="quick", ally_tool_call_end=quick.hook)
            host.emit(*ends(600))
            await quick.take(600)
            await slow.take(1)
            assert len(slow.events) == 1
            never.set()
            await slow.take(599)

    go(main())


def test_a_plugin_that_is_started_anew_while_it_still_ends_gets_each_event_once(rig: Any) -> None:
    async def main() -> None:
        ear = Heard()
        called, go_on = asyncio.Event(), asyncio.Event()

        async def hook(event: Any) -> None:
            called.set()
            await go_on.wait()
            ear.note(event)

        async with rig() as host:
            before = await host.inline(ally_tool_call_end=hook)
            host.emit(*ends(1))
            await called.wait()
            ending = asyncio.ensure_future(host.feeds.remove(before))
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(go_on.set)
            await host.inline(ally_tool_call_end=hook)
            await ending
            await host.feeds.remove(before)  # it is the other's by now
            host.emit(*ends(2))
            await ear.take(3)
            assert ear.ids == ["s:1", "s:2", "s:3"]

    go(main())
