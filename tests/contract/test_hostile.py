"""A plugin that does its worst hurts nobody else: the others hear every event in time, and the host ends clean."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ally_plugins import Event, ThoughtComplete, ToolCall, ToolCallStart, tool
from ally_plugins.contract.values.errors import (
    BudgetRefused,
    HopLimitRefused,
    RefusedError,
    SessionError,
    ToolCallError,
)
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go

CALL = ToolCall("bash", {"command": "ls"}, "c1")


def start(number: int = 0) -> ToolCallStart:
    return ToolCallStart(tool_name="bash", arguments={"n": number})


async def note(self: Any, event: Event) -> None:
    self.seen.append(event.seq)


# --- what it may do in a hook ---


async def raises(self: Any, event: Event) -> None:  # noqa: ARG001
    raise ValueError("broken")


async def exits(self: Any, event: Event) -> None:  # noqa: ARG001
    sys.exit(1)


def exits_in_thread(self: Any, event: Event) -> None:  # noqa: ARG001
    sys.exit(1)


async def sleeps(self: Any, event: Event) -> None:  # noqa: ARG001
    await asyncio.sleep(3600)


async def swallows(self: Any, event: Event) -> None:  # noqa: ARG001
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


def blocks_its_thread(self: Any, event: Event) -> None:  # noqa: ARG001
    while not self.ally.settings.get("never") and not RELEASE.wait(0.01):
        pass


async def floods_the_bus(self: Any, event: Event) -> None:  # noqa: ARG001
    for number in range(5000):
        try:
            await self.ally.emit_event("noise", {"n": number})
        except BudgetRefused:
            await asyncio.sleep(0)


def floods_from_its_thread(self: Any, event: Event) -> None:  # noqa: ARG001
    for number in range(500):
        try:
            self.ally.blocking.add_message("user", f"noise {number}")
        except RefusedError:
            continue


async def makes_tasks(self: Any, event: Event) -> None:  # noqa: ARG001
    async def forever() -> None:
        await asyncio.sleep(3600)

    for _ in range(100):
        await self.ally.start_task("more", forever())


RELEASE = threading.Event()
WORST = [
    raises, exits, exits_in_thread, sleeps, swallows, blocks_its_thread, floods_the_bus, floods_from_its_thread,
    makes_tasks,
]  # fmt: skip


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("worst", WORST, ids=lambda function: function.__name__)
def test_others_hear_every_event_within_a_few_turns_of_the_loop_whatever_one_does(worst: Any) -> None:
    RELEASE.clear()

    async def main() -> int:
        bad = setup(make_plugin(ally_tool_call_start=worst), deadlines={"observe": 0.1, "stop": 0.1})
        given = {"bad": bad, "good": make_plugin(ally_tool_call_start=note)}
        async with new_host(given) as host:
            session = host.session()
            good = host.plugins["good"].instance
            most = 0
            for number in range(20):
                turns = 0
                session.emit(start(number))
                while len(good.seen) < number + 1:
                    await asyncio.sleep(0)
                    turns += 1
                most = max(most, turns)
            assert good.seen == sorted(set(good.seen))
            assert len(good.seen) == 20
        return most

    try:
        assert go(main()) < 20
    finally:
        RELEASE.set()


def test_a_flood_is_refused_beyond_its_budget_and_does_not_count_as_crashes() -> None:
    async def flood(self: Any, event: Event) -> None:  # noqa: ARG001
        for _ in range(50):
            await self.ally.add_message("user", "noise")

    async def main() -> None:
        async with new_host({"p": setup(make_plugin(ally_tool_call_start=flood))}) as host:
            session = host.session()
            for number in range(10):
                session.emit(start(number))
            await session.drained()
            bad = host.plugins["p"]
            assert (bad.state, bad.counts.crashes, bad.counts.refused["budget"]) == ("running", 0, 10)
            assert bad.counts.messages <= 31

    go(main())


def test_two_plugins_that_set_each_other_off_are_stopped_by_the_length_of_the_chain() -> None:
    refused: Counter[str] = Counter()

    async def echo(self: Any, event: Any) -> None:
        self.seen.append(len(event.origin))
        try:
            await self.ally.emit_event("echo", {"n": event.seq})
        except HopLimitRefused:
            refused[self.ally.name] += 1

    async def main() -> list[int]:
        hooks = {"ally_plugin_event_emitted": echo, "ally_tool_call_start": echo}
        async with new_host({"ping": make_plugin(**hooks), "pong": make_plugin(**hooks)}) as host:
            session = host.session()
            session.emit(start())
            for _ in range(20):
                await session.drained()
            return [*host.plugins["ping"].instance.seen, *host.plugins["pong"].instance.seen]

    lengths = go(main())
    assert max(lengths) == 8
    assert sum(refused.values()) > 0


def test_nobody_receives_what_its_own_call_caused_and_others_do() -> None:
    async def speak(self: Any, event: Event) -> None:  # noqa: ARG001
        await self.ally.emit_event("said", {"n": 1})

    async def hear(self: Any, event: Event) -> None:
        self.seen.append((event.type, event.origin))

    async def main() -> Any:
        given = {
            "author": make_plugin(ally_tool_call_start=speak, ally_plugin_event_emitted=hear, ally_event=hear),
            "other": make_plugin(ally_event=hear),
        }
        async with new_host(given) as host:
            session = host.session()
            session.emit(start())
            await session.drained()
            await session.drained()
            return host.plugins["author"].instance.seen, host.plugins["other"].instance.seen

    author, other = go(main())
    assert [kind for kind, _ in author] == ["SESSION_START", "TOOL_CALL_START", "SESSION_END"]
    assert ("author:said", ("author",)) in other
    assert ("PLUGIN_EVENT_EMITTED", ("author",)) in other


def test_a_hook_whose_gate_would_wait_for_itself_is_refused_at_once() -> None:
    async def gate(self: Any, message: Any) -> None:  # noqa: ARG001
        await self.ally.add_message("user", "and I say")  # which asks the other gate, whose hook waits for this one

    async def speak(self: Any, event: Event) -> None:  # noqa: ARG001
        await self.ally.add_message("user", "hello")

    async def main() -> Any:
        given = {
            "a": make_plugin(ally_tool_call_start=speak, ally_gate_message=gate),
            "b": make_plugin(ally_gate_message=gate),
        }
        async with new_host(given) as host:
            session = host.session()
            before = time.monotonic()
            session.emit(start())
            await session.drained()
            return time.monotonic() - before, host.plugins["b"].counts.refused, host.plugins["a"].counts.refused

    elapsed, b_refused, a_refused = go(main())
    assert elapsed < 10  # the deadline of a gate is fifteen seconds
    assert b_refused["reentry"] == 1
    assert a_refused["gate"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("kind", ["tool", "task"])
def test_a_tool_or_task_that_swallows_cancellation_does_not_keep_the_program_from_ending(kind: str) -> None:
    @tool
    async def stubborn(self: Any) -> None:
        """Never end."""
        await swallows(self, start())

    async def starts_stubborn(self: Any, event: Event) -> None:
        await self.ally.start_task("stubborn", swallows(self, event))

    async def main() -> None:
        async with new_host({"p": make_plugin(stubborn=stubborn, ally_tool_call_start=starts_stubborn)}) as host:
            session = host.session()
            if kind == "tool":
                with pytest.raises(ToolCallError, match="did not return within"):
                    await host.call_tool("stubborn", timeout=0.05)
            else:
                session.emit(start())
                await session.drained()

    before = time.monotonic()
    go(main())
    assert time.monotonic() - before < 10  # else it ends with the test


# --- emit ---


def test_an_event_may_be_emitted_in_any_thread_and_in_a_plugins_own_hook() -> None:
    async def main() -> None:
        sessions: list[Any] = []

        async def emit_more(self: Any, event: Event) -> None:  # noqa: ARG001
            sessions[0].emit(ThoughtComplete(thinking="from a hook"))

        def emit_in_thread(self: Any, event: Event) -> None:  # noqa: ARG001
            sessions[0].emit(ThoughtComplete(thinking="from a thread"))

        given = {
            "a": make_plugin(ally_tool_call_start=emit_more),
            "b": make_plugin(ally_tool_call_start=emit_in_thread),
            "c": make_plugin(ally_thought_complete=note),
        }
        async with new_host(given) as host:
            sessions.append(host.session())
            await asyncio.to_thread(sessions[0].emit, start())
            for _ in range(3):
                await sessions[0].drained()
            assert len(host.plugins["c"].instance.seen) == 2

    go(main())


def test_emit_after_close_is_an_error_of_the_host_author_and_reaches_nobody() -> None:
    async def main() -> None:
        async with new_host({"p": make_plugin(ally_tool_call_start=note)}) as host:
            session = host.session("s1")
            await session.close()
            with pytest.raises(SessionError, match="'s1' is closed"):
                session.emit(start())
            assert host.plugins["p"].instance.seen == []
        with pytest.raises(SessionError):
            session.emit(start())

    go(main())


def test_a_thread_that_emits_after_the_loop_is_gone_hurts_nobody() -> None:
    kept: list[Any] = []

    async def main() -> None:
        host = new_host({"p": make_plugin(ally_tool_call_start=note)})
        await host.start()
        kept.extend([host, host.session()])

    go(main())
    host, session = kept
    session.emit(start())
    host.journal.close_blocking()  # the end of a program does it


# --- nothing stays ---


def descriptors() -> set[str]:
    folder = Path("/proc/self/fd")
    return {link.name for link in folder.iterdir()} if folder.exists() else set()


@pytest.mark.usefixtures("short_grace")
def test_a_host_that_has_ended_leaves_no_task_thread_or_descriptor(tmp_path: Path) -> None:
    @tool
    def answer(self: Any) -> str:  # noqa: ARG001
        """Answer."""
        return "42"

    async def gate(self: Any, call: ToolCall) -> None: ...

    async def main() -> Any:
        tasks = asyncio.all_tasks()
        hooks = {"ally_tool_call_start": lambda self, event: None, "ally_gate_tool_call": gate}  # noqa: ARG005
        given = {
            "sync": make_plugin(**hooks, answer=answer),
            "async": make_plugin(ally_tool_call_start=note),
            "slow": setup(make_plugin(ally_tool_call_start=sleeps), deadlines={"observe": 0.05}),
            "tasks": make_plugin(ally_tool_call_start=makes_tasks),
        }
        async with new_host(given, home=tmp_path) as host:
            session = host.session()
            session.emit(start())
            await session.gate_tool_call(CALL)
            await host.call_tool("answer")
            await session.drained()
        return asyncio.all_tasks() - tasks

    threads, open_before = set(threading.enumerate()), descriptors()
    assert go(main()) == set()
    for thread in set(threading.enumerate()) - threads:
        thread.join(2)  # a worker ends by itself a moment after its last word
        assert not thread.is_alive()
    assert descriptors() - open_before == set()


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.soak)])
def test_hosts_one_after_the_other_leave_nothing_behind(count: int) -> None:
    hosts: weakref.WeakSet[Any] = weakref.WeakSet()
    instances: weakref.WeakSet[Any] = weakref.WeakSet()
    sync, loop_hook = make_plugin(ally_tool_call_start=lambda self, event: None), make_plugin(ally_tool_call_start=note)  # noqa: ARG005

    async def one() -> None:
        async with new_host({"a": sync, "b": loop_hook}) as host:
            hosts.add(host)
            instances.update(p.instance for p in host.plugins.values())
            session = host.session()
            session.emit(start())
            await session.drained()
            await session.close()

    async def main() -> None:
        for _ in range(count):
            await one()

    before, open_before = threading.active_count(), len(descriptors())
    go(main(), 60)
    del sync.ally, loop_hook.ally  # the last handle, which such a class keeps for tests
    gc.collect()
    assert (len(hosts), len(instances)) == (0, 0)
    assert len(descriptors()) <= open_before
    deadline = time.monotonic() + 2
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
