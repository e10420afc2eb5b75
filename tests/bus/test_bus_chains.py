"""Who led to what: chains of plugins and their limit, sessions that never mix, calls that would wait for themselves."""

# ruff: noqa: ARG001 - hooks and fixtures name what they are given, used or not

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from ally_plugins import (
    HopLimitRefused,
    ReentryRefused,
    ToolCallEnd,
    ToolCallStart,
    UserMessage,
    ValidationRefused,
    action,
    hookimpl,
)
from tests.kit.hosts import make_plugin, new_host
from tests.kit.waiting import go


async def settle(session: Any, rounds: int = 40) -> None:
    """Let plugins answer one another until they are done."""
    for _ in range(rounds):
        await session.drained()


def listen(host: Any) -> list[Any]:
    """Return a list into which every event comes."""
    told: list[Any] = []
    host.stream.subscribe("*", told.append)
    return told


def make_echo(name: str, other: str, chains: list[tuple[str, ...]], refused: list[str]) -> Any:
    """Return a plugin that answers each event of another with one of its own."""

    async def ally_event(self: Any, event: Any) -> None:
        if event.type in {f"{other}:ping", "TOOL_CALL_START"}:
            try:
                await self.ally.emit_event("ping", {"from": name})
                chains.append((*event.origin, name))
            except HopLimitRefused as error:
                refused.append(f"{name} {len(error.chain)}")

    return make_plugin(ally_event=ally_event)


def test_two_plugins_that_answer_each_other_s_events_stop_at_eight() -> None:
    chains: list[tuple[str, ...]] = []
    refused: list[str] = []

    async def main() -> None:
        plugins = {
            "a": make_echo("a", "b", chains, refused),
            "b": make_echo("b", "a", chains, refused),
        }
        async with new_host(plugins=plugins) as host:
            session = host.session("s")
            session.emit(ToolCallStart(tool_name="bash"))
            await settle(session)
            assert max(map(len, chains)) == 8
            assert len(chains) == 16  # both answer the first event, and each answer is answered seven times
            assert sorted(refused) == ["a 9", "b 9"]
            assert all(chain[:2] in {("a", "b"), ("b", "a"), ("a",), ("b",)} for chain in chains)
            assert {plugin.counts.crashes for plugin in host.plugins.values()} == {0}

    go(main())


def test_two_plugins_that_answer_each_other_s_messages_stop_at_eight_and_a_person_starts_afresh() -> None:
    refused: list[str] = []

    def answers(name: str) -> Any:
        async def ally_plugin_message_received(self: Any, event: Any) -> None:
            try:
                await self.ally.add_message("user", f"{name} answers")
            except HopLimitRefused:
                refused.append(name)

        return ally_plugin_message_received

    async def main() -> None:
        plugins = {name: make_plugin(ally_plugin_message_received=answers(name)) for name in ("a", "b")}
        async with new_host(plugins=plugins) as host:
            session = host.session("s")

            async def provoke() -> int:
                await plugins["a"].ally.add_message("user", "hello")
                count = 0
                while messages := await session.safe_point("step"):
                    count += len(messages)
                    await session.drained()
                return count

            assert await provoke() == 8
            assert refused == ["a"]
            # Outside of hooks the longest chain that was lately delivered is assumed, and that one is at its end.
            with pytest.raises(HopLimitRefused):
                await plugins["a"].ally.add_message("user", "hello again")
            session.emit(UserMessage(content="go on"))
            await session.drained()
            assert await provoke() == 8

    go(main())


def test_a_plugin_s_own_events_do_not_lengthen_its_own_chain() -> None:
    async def main() -> None:
        plugin = make_plugin(ally_event=ignore)
        async with new_host(plugins={"p": plugin}) as host:
            session, told = host.session("s"), listen(host)
            for i in range(30):
                await plugin.ally.emit_event("tick", {"n": i})
                await session.drained()
            events = [event for event in told if event.type == "p:tick"]
            assert len(events) == 30
            assert all(event.origin == ("p",) for event in events)

    go(main())


async def ignore(self: Any, event: Any) -> None:
    """Hear everything."""


@pytest.mark.parametrize("way", ["asyncio task", "plugin task", "thread"])
def test_a_loop_through_work_in_the_background_stops_as_well(way: str) -> None:  # noqa: C901 - one plugin, three ways
    """Hooks only queue; what was started in `ally_start` answers, so that no hook is behind the answer."""
    answers: list[str] = []
    refused: list[str] = []

    class Background:
        def __init__(self, ally: Any) -> None:
            self.ally = ally
            self.other = "b" if ally.name == "a" else "a"
            self.queue: asyncio.Queue[Any] = asyncio.Queue()
            self.task: Any = None

        @hookimpl
        async def ally_start(self) -> None:
            if way == "asyncio task":
                self.task = asyncio.create_task(self.answer())

        @hookimpl
        async def ally_event(self, event: Any) -> None:
            if event.type == "SESSION_START" and way == "plugin task":
                self.task = await self.ally.start_task("answer", self.answer())
            if event.type in {f"{self.other}:ping", "TOOL_CALL_START"}:
                if way == "thread":
                    thread = threading.Thread(target=self.answer_blocking)
                    thread.start()
                    await asyncio.to_thread(thread.join)
                else:
                    await self.queue.put(event)

        async def answer(self) -> None:
            while True:
                await self.queue.get()
                try:
                    await self.ally.emit_event("ping", session_id="s")
                    answers.append(self.ally.name)
                except HopLimitRefused:
                    refused.append(self.ally.name)

        def answer_blocking(self) -> None:
            try:
                self.ally.blocking.emit_event("ping", session_id="s")
                answers.append(self.ally.name)
            except HopLimitRefused:
                refused.append(self.ally.name)

        @hookimpl
        async def ally_stop(self) -> None:
            if self.task is not None:
                self.task.cancel()

    async def main() -> None:
        async with new_host(plugins={"a": Background, "b": Background}) as host:
            session = host.session("s")
            await session.drained()
            session.emit(ToolCallStart(tool_name="bash"))
            await settle(session, 60)
            assert len(answers) <= 16
            assert refused
            assert {plugin.counts.crashes for plugin in host.plugins.values()} == {0}

    go(main())


def test_a_task_s_progress_carries_the_chain_that_led_to_the_task() -> None:
    async def job(ally: Any) -> None:
        await ally.task_progress(0.5, "half")

    async def ally_event(self: Any, event: Any) -> None:
        if event.type == "b:go":
            await self.ally.start_task("job", job(self.ally))

    async def main() -> None:
        a, b = make_plugin(ally_event=ally_event), make_plugin()
        async with new_host(plugins={"a": a, "b": b}) as host:
            session, told = host.session("s"), listen(host)
            await b.ally.emit_event("go")
            await settle(session, 5)
            progress = [event for event in told if event.type == "TASK_PROGRESS"]
            assert [(event.state, event.origin) for event in progress] == [
                ("running", ("b", "a")), ("running", ("b", "a")), ("done", ("b", "a")),
            ]  # fmt: skip

    go(main())


def test_an_asyncio_task_of_a_hook_inherits_what_led_to_the_hook() -> None:
    made: list[asyncio.Task[Any]] = []

    async def ally_event(self: Any, event: Any) -> None:
        if event.type == "b:go":
            made.append(asyncio.create_task(self.ally.add_message("user", "later")))

    async def main() -> None:
        a, b = make_plugin(ally_event=ally_event), make_plugin()
        async with new_host(plugins={"a": a, "b": b}) as host:
            session, _ = host.session("s"), host.session("other")
            await b.ally.emit_event("go", session_id="s")
            await session.drained()
            await asyncio.gather(*made)
            (message,) = await session.safe_point()
            assert message.metadata["origin"] == ("b", "a")

    go(main())


def test_what_the_agent_does_after_a_message_carries_its_chain_for_the_step() -> None:
    heard: list[tuple[str, tuple[str, ...]]] = []

    async def ally_event(self: Any, event: Any) -> None:
        heard.append((event.type, event.origin))

    async def main() -> None:
        a, b = make_plugin(ally_event=ally_event), make_plugin()
        async with new_host(plugins={"a": a, "b": b}) as host:
            session = host.session("s")
            await a.ally.add_message("user", "steer")
            await session.safe_point("step")
            session.emit(ToolCallStart(tool_name="bash"))
            await session.safe_point("step")
            session.emit(ToolCallEnd(tool_name="bash"))
            await b.ally.add_message("user", "go on", deliver_as="follow_up")
            await session.safe_point("turn_end")
            session.emit(ToolCallStart(tool_name="one"))
            await session.safe_point("step")
            session.emit(ToolCallStart(tool_name="two"))
            await session.safe_point("turn_end")
            session.emit(ToolCallStart(tool_name="three"))
            await session.drained()

    go(main())
    assert heard == [
        ("SESSION_START", ()),
        ("TOOL_CALL_START", ("a",)),
        ("TOOL_CALL_END", ()),
        ("PLUGIN_MESSAGE_RECEIVED", ("b",)),
        ("TOOL_CALL_START", ("b",)),
        ("TOOL_CALL_START", ("b",)),
        ("TOOL_CALL_START", ()),
        ("SESSION_END", ()),
    ]


@pytest.mark.slow
def test_fifty_sessions_at_once_never_mix() -> None:
    async def ally_tool_call_start(self: Any, event: Any) -> None:
        assert self.ally.session == event.session_id
        await asyncio.sleep(0)
        await self.ally.add_message("user", f"{event.session_id} {event.tool_name}")
        await asyncio.create_task(self.ally.emit_event("seen", {"session": event.session_id}))

    async def ally_gate_tool_call(self: Any, call: Any) -> None:
        await asyncio.sleep(0)
        await self.ally.emit_event("gated", {"session": call.arguments["session"]})

    from ally_plugins import ToolCall

    told: list[Any] = []

    async def one(host: Any, name: str) -> None:
        session = host.session(name)
        for i in range(5):
            session.emit(ToolCallStart(tool_name=f"t{i}"))
            await session.gate_tool_call(ToolCall("bash", {"session": name}))
        await session.drained()
        messages = await session.safe_point("step")
        assert [message.content for message in messages] == [f"{name} t{i}" for i in range(5)]
        own = [e for e in told if e.session_id == name and e.type in {"p:seen", "p:gated"}]
        assert len(own) == 10
        assert {event.data["session"] for event in own} == {name}

    async def main() -> None:
        from ally_plugins.policy.budget import Limits

        plugin = make_plugin(ally_tool_call_start=ally_tool_call_start, ally_gate_tool_call=ally_gate_tool_call)
        async with new_host(plugins={"p": plugin}) as host:
            host.stream.subscribe("*", told.append)
            host.plugins["p"].budget.change_limits(Limits(messages_per_minute=10_000, events_per_minute=10_000))
            await asyncio.gather(*(one(host, f"s{i}") for i in range(50)))
            assert host.plugins["p"].counts.crashes == 0
            assert not host.plugins["p"].counts.refused

    go(main())


def test_outside_an_event_the_session_must_be_named_when_several_are_open() -> None:
    async def main() -> None:
        plugin = make_plugin()
        async with new_host(plugins={"p": plugin}) as host:
            with pytest.raises(ValidationRefused, match="0 sessions are open"):
                await plugin.ally.add_message("user", "hello")
            one = host.session("one")
            await plugin.ally.add_message("user", "the only one")
            two = host.session("two")
            calls = (
                lambda: plugin.ally.add_message("user", "hello"),
                lambda: plugin.ally.emit_event("done"),
                plugin.ally.get_context,
                lambda: plugin.ally.start_task("job", asyncio.sleep(0)),
                lambda: plugin.ally.request_action("compact"),
            )
            for call in calls:
                with pytest.raises(ValidationRefused, match="2 sessions are open"):
                    await call()
            await plugin.ally.add_message("user", "named", session_id="two")
            assert [message.content for message in await one.safe_point()] == ["the only one"]
            assert [message.content for message in await two.safe_point()] == ["named"]
            assert plugin.ally.session is None

    go(main())


# --- calls that would wait for themselves


async def speak(self: Any, *_: Any) -> None:
    await self.ally.add_message("user", f"{self.ally.name} speaks")


def test_a_message_whose_gate_would_wait_for_the_hook_that_sends_it_is_refused_at_once() -> None:
    """A's hook sends; B's gate is asked, and sends too; A's gate would have to be asked, and A's lane is busy."""
    outcomes: list[Any] = []

    async def ally_tool_call_start(self: Any, event: Any) -> None:
        outcomes.append(await self.ally.add_message("user", "from a"))

    async def abstain(self: Any, message: Any) -> None:
        """Be a gate."""

    async def ally_gate_message(self: Any, message: Any) -> None:
        with pytest.raises(ReentryRefused) as refused:
            await self.ally.add_message("user", "from b")
        outcomes.append(refused.value)

    async def main() -> None:
        plugins = {
            "a": make_plugin(ally_tool_call_start=ally_tool_call_start, ally_gate_message=abstain),
            "b": make_plugin(ally_gate_message=ally_gate_message),
        }
        async with new_host(plugins=plugins) as host:
            session = host.session("s")
            session.emit(ToolCallStart(tool_name="bash"))
            async with asyncio.timeout(2):
                await session.drained()
            assert "ally_gate_message of 'a'" in str(outcomes[0])
            assert outcomes[1].state == "pending"
            assert host.plugins["b"].counts.refused == {"reentry": 1}

    go(main())


def test_of_two_gates_that_each_send_a_message_one_is_refused_and_neither_waits_for_the_other() -> None:
    outcomes: dict[str, Any] = {}
    both = asyncio.Barrier(2)

    async def ally_gate_message(self: Any, message: Any) -> None:
        if message.content not in {"from c", "again"}:
            return
        await both.wait()  # so that each holds its own lane when it sends
        try:
            outcomes[self.ally.name] = await self.ally.add_message("user", f"from {self.ally.name}")
        except ReentryRefused as refused:
            outcomes[self.ally.name] = refused

    async def main() -> None:
        gates = {name: make_plugin(ally_gate_message=ally_gate_message) for name in ("a", "b")}
        async with new_host(plugins={**gates, "c": make_plugin()}) as host:
            session, c = host.session("s"), host.plugins["c"].instance.ally
            async with asyncio.timeout(5):
                await c.add_message("user", "from c")
            (refused,) = [each for each in outcomes.values() if isinstance(each, ReentryRefused)]
            assert "would wait for" in str(refused)
            assert "which waits for it" in str(refused)
            (accepted,) = [name for name, each in outcomes.items() if each is not refused]
            assert {message.content for message in await session.safe_point()} == {"from c", f"from {accepted}"}
            assert sum(plugin.counts.refused.get("reentry", 0) for plugin in host.plugins.values()) == 1
            # Nobody waits any more: the next one is asked as ever.
            outcomes.clear()
            await c.add_message("user", "again")
            assert len(outcomes) == 2

    go(main())


def test_an_action_that_would_come_back_to_the_hook_that_asks_for_it_is_refused_at_once() -> None:
    class Acts:
        def __init__(self, ally: Any) -> None:
            self.ally = ally

        @action
        async def speak(self) -> str:
            """Say something."""
            with pytest.raises(ReentryRefused):
                await self.ally.add_message("user", "from the action")
            return "refused"

    answers: list[Any] = []

    async def ally_tool_call_start(self: Any, event: Any) -> None:
        answers.append(await self.ally.request_action("b:speak"))

    async def abstain(self: Any, message: Any) -> None:
        """Be a gate."""

    async def main() -> None:
        a = make_plugin(ally_tool_call_start=ally_tool_call_start, ally_gate_message=abstain)
        async with new_host(plugins={"a": a, "b": Acts}) as host:
            session = host.session("s")
            session.emit(ToolCallStart(tool_name="bash"))
            async with asyncio.timeout(2):
                await session.drained()
            assert answers == ["refused"]

    go(main())


def test_the_last_hook_too_is_not_waited_for_by_what_it_causes() -> None:
    outcomes: list[str] = []

    async def abstain(self: Any, message: Any) -> None:
        """Be a gate."""

    async def ally_gate_message(self: Any, message: Any) -> None:
        try:
            await self.ally.add_message("user", "from b")
        except ReentryRefused:
            outcomes.append("refused")

    async def ally_stop(self: Any) -> None:
        await self.ally.add_message("user", "bye", session_id="s")

    async def main() -> None:
        plugins = {
            "a": make_plugin(ally_stop=ally_stop, ally_gate_message=abstain),
            "b": make_plugin(ally_gate_message=ally_gate_message),
        }
        async with asyncio.timeout(3), new_host(plugins=plugins) as host:
            host.session("s")

    go(main())
    assert outcomes in (["refused"], [])  # b may have stopped before


def test_two_calls_under_one_key_never_wait_for_each_other_through_a_gate() -> None:
    """A's message waits for B's gate, which speaks; A's gate is asked, and sends under the key that is on its way."""

    async def gate_of_a(self: Any, message: Any) -> None:
        with pytest.raises(ReentryRefused):
            await self.ally.add_message("user", "hello", key="k")

    async def gate_of_b(self: Any, message: Any) -> None:
        await self.ally.add_message("user", "b speaks")

    async def main() -> None:
        a, b = make_plugin(ally_gate_message=gate_of_a), make_plugin(ally_gate_message=gate_of_b)
        async with new_host(plugins={"a": a, "b": b}) as host:
            session = host.session("s")
            async with asyncio.timeout(2):
                await a.ally.add_message("user", "hello", key="k")
            assert sorted(message.content for message in await session.safe_point()) == ["b speaks", "hello"]
            assert host.plugins["a"].counts.crashes == host.plugins["b"].counts.crashes == 0

    go(main())
