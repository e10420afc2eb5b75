"""Who led to what, in every placement: chains, causes, the hop limit, and calls that would wait for themselves."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from typing import Any

import pytest

from ally_plugins import (
    ThoughtComplete,
    ToolCall,
    ToolCallEnd,
    ToolCallError,
    ToolCallStart,
    UserMessage,
    hookimpl,
)
from ally_plugins.journal.explanation import explain
from tests.kit.placements import Placed, call, collect_events, look, records_of
from tests.kit.waiting import go


async def settle(session: Any, rounds: int = 40) -> None:
    """Let plugins answer one another until they are done."""
    for _ in range(rounds):
        await session.drained()


@pytest.mark.parametrize("plugin", ["Echoes", "EchoesInThread"])
def test_two_plugins_that_answer_each_other_stop_at_eight(plugin: str, placed: Placed) -> None:
    async def main() -> None:
        plugins = {name: placed(f"chains:{plugin}") for name in "ab"}
        async with placed.host(plugins) as host:
            events = collect_events(host)
            session = host.session("s")
            session.emit(ToolCallStart(tool_name="bash"))
            await settle(session)
            chains = [event.origin for event in events if event.type.endswith(":ping")]
            assert sorted(map(len, chains)) == sorted([*range(1, 9)] * 2)
            assert all(left != right for chain in chains for left, right in pairwise(chain))
            for name in "ab":
                (refused,) = await look(host, name)
                assert (refused["raised"], refused["reason"], refused["plugin"]) == (
                    "HopLimitRefused",
                    "hop_limit",
                    name,
                )
                assert len(refused["chain"]) == 9
                assert refused["text"].startswith(" → ".join(refused["chain"]) + " would be 9 plugins")
            assert {p.counts.crashes for p in host.plugins.values()} == {0}

    go(main())


async def spoken(host: Any, session: Any) -> dict[str, tuple[Any, Any]]:
    """Return by its text the chain and the cause of each message that waits."""
    await settle(session, 3)
    return {
        stored.body["content"]: (tuple(stored.body["metadata"]["origin"]), stored.cause)
        for stored in host.journal.pending(session.id)
    }


def test_what_a_plugin_does_carries_its_cause_and_the_chain_that_led_there(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"speaks": placed("chains:Speaks"), "p": placed("calls:Caller")}
        async with placed.host(plugins) as host:
            events = collect_events(host)
            session = host.session("s")
            end, start, thought = (
                ToolCallEnd(tool_name="x"),
                ToolCallStart(tool_name="x"),
                ThoughtComplete(thinking="?"),
            )
            for event in (end, start, thought):
                session.emit(event)
            await session.drained()
            await session.gate_tool_call(ToolCall("bash", {}, "c1"))
            await session.transform_tool_input(ToolCall("bash", {}, "c2"))
            await host.call_tool("speak", plugin="speaks", session_id="s")
            await host.call_tool("work", plugin="speaks", session_id="s")
            await session.request_action("act")
            found = await spoken(host, session)
            assert {origin for origin, _ in found.values()} == {("speaks",)}
            causes = {text.removeprefix("from a").strip("n "): cause for text, (_, cause) in found.items()}
            (task,) = host.tasks
            (asked,) = await records_of(host, "action")
            assert causes.pop("tool").startswith("c")
            assert causes == {
                "observer": end.id, "thread": start.id, "child": thought.id, "gate": "c1", "transform": "c2",
                "task": task.id, "actio": asked.ref,
            }  # fmt: skip
            await session.safe_point()
            assert events

        async with placed.host(plugins) as host:
            session = host.session("s")
            await call(host, "add_message", "user", "first", session_id="s")
            await session.safe_point("turn_end")  # what follows from it carries its chain
            for event in (ToolCallEnd(tool_name="x"), ToolCallStart(tool_name="x"), ThoughtComplete(thinking="?")):
                session.emit(event)
            await session.drained()
            await session.gate_tool_call(ToolCall("bash", {}, "c1"))
            await session.transform_tool_input(ToolCall("bash", {}, "c2"))
            await session.request_action("act", by="agent")
            found = await spoken(host, session)
            assert {text: origin for text, (origin, _) in found.items()} == dict.fromkeys(found, ("p", "speaks"))
            assert len(found) == 6
            await session.safe_point()
            session.emit(UserMessage(content="hello"))
            session.emit(ToolCallEnd(tool_name="x"))
            await session.drained()
            found = await spoken(host, session)
            assert [origin for origin, _ in found.values()] == [("speaks",)]

    go(main())


def test_what_outlives_its_hook_is_taken_to_react_to_it_or_to_what_came_with_it(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("chains:Lingers")}) as host:
            session = host.session("s")
            await session.drained()
            end, start = ToolCallEnd(tool_name="x"), ToolCallStart(tool_name="x")
            session.emit(end)
            session.emit(start)
            await session.drained()
            assert await look(host) == [start.id]
            await host.call_tool("speak")
            ((_, cause),) = (await spoken(host, session)).values()
            assert cause == (end.id if placed.placement.remembers_each_event else start.id)

    go(main())


def test_a_message_can_be_explained_back_to_what_led_to_it(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"p": placed("chains:SpeaksOnCall"), "judge": placed("hooks:Judges")}
        async with placed.host(plugins) as host:
            session = host.session("s")
            session.emit(ToolCallStart(tool_name="bash", call_id="c1"))
            session.emit(ToolCallEnd(tool_name="bash", call_id="c1"))
            await session.drained()
            (receipt,) = await look(host)
            await session.safe_point()
            await host.journal.flush()
            found = explain(host.journal.reader, receipt["returned"]["id"])
            assert found is not None
            assert found.message is not None
            assert (found.message.plugin, found.message.state) == ("p", "delivered")
            assert [event.type for event in found.causes] == ["TOOL_CALL_START", "TOOL_CALL_END"]
            (decision,) = [r for r in found.related if r.kind == "decision"]
            assert decision.data is not None
            assert [vote["plugin"] for vote in decision.data["votes"]] == ["judge"]
            assert found.message.body is not None
            assert found.message.body["decision"] == decision.ref

    go(main())


class Runs:
    """A host that runs tools for plugins, which asks the gates first."""

    host: Any = None

    @hookimpl
    async def ally_request_action(self, session: Any, request: Any) -> Any:
        ruling = await session.gate_tool_call(ToolCall(request.arguments["name"]))
        return {"is_allowed": ruling.is_allowed}


def test_a_call_that_would_wait_for_the_hook_that_makes_it_is_refused(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"w": placed("chains:Waits"), "p": placed("calls:Caller")}
        async with placed.host(plugins, actions=["run"], implementation=Runs()) as host:
            session = host.session("s")
            session.emit(ToolCallEnd(tool_name="x"))
            await session.drained()
            (refused,) = await look(host, "w")
            assert refused == {
                "raised": "ReentryRefused",
                "text": "ally_gate_tool_call of 'w' would wait for the hook that makes this call; start a task for it, "
                "or make the call from a tool",
                "reason": "reentry",
                "plugin": "w",
            }
            from_a_tool = await host.call_tool("ask", plugin="w", session_id="s")
            assert from_a_tool.data == {"returned": {"is_allowed": True}}
            assert "returned" in await call(host, "add_message", "user", "hello")
            *_, inner = await look(host, "w")
            assert inner["returned"]["state"] == "pending"  # nobody but itself gates messages

    go(main())


def test_a_gate_is_not_asked_while_its_own_message_waits_for_what_asks_it(placed: Placed) -> None:
    """A's hook speaks; B's gate is asked, and speaks too; A's gate would have to be asked, and A is busy."""

    async def main() -> None:
        async with placed.host({"a": placed("chains:Judged"), "b": placed("chains:Judges")}) as host:
            session = host.session("s")
            session.emit(ToolCallEnd(tool_name="speak"))
            await session.drained()
            (said,) = await look(host, "a")
            (refused,) = await look(host, "b")
            assert said["returned"]["state"] == "pending"
            assert (refused["raised"], refused["reason"], refused["plugin"]) == ("ReentryRefused", "reentry", "b")
            assert refused["text"].startswith("ally_gate_message of 'a' would wait for ")
            assert [message.content for message in await session.safe_point()] == ["from a hook"]
            assert host.plugins["b"].counts.refused == {"reentry": 1}
            assert {p.counts.crashes for p in host.plugins.values()} == {0}

    go(main())


def test_an_action_does_not_come_back_to_the_hook_that_asks_for_it(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"a": placed("chains:Judged"), "b": placed("chains:Judges")}) as host:
            session = host.session("s")
            session.emit(ToolCallEnd(tool_name="b"))
            await session.drained()
            (answer,) = await look(host, "a")
            assert answer["returned"]["raised"] == "ReentryRefused"
            assert answer["returned"]["text"].startswith("ally_gate_message of 'a' would wait for ")
            assert await session.safe_point() == ()

    go(main())


class Meeting:
    """A host where two plugins meet."""

    def __init__(self) -> None:
        self.both = asyncio.Barrier(2)

    @hookimpl
    async def ally_request_action(self) -> dict[str, Any]:
        await self.both.wait()
        return {}


def test_of_two_gates_that_each_speak_one_is_refused_and_neither_waits_for_the_other(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"a": placed("chains:Meets"), "b": placed("chains:Meets"), "p": placed("calls:Caller")}
        async with placed.host(plugins, actions=["meet"], implementation=Meeting()) as host:
            session = host.session("s")
            for count in (1, 2):  # after the first time nobody waits any more
                assert "returned" in await call(host, "add_message", "user", "go")
                answers = {name: (await look(host, name))[-1] for name in "ab"}
                (refused,) = [name for name, answer in answers.items() if "raised" in answer]
                (accepted,) = answers.keys() - {refused}
                assert answers[refused]["raised"] == "ReentryRefused"
                assert answers[refused]["text"].startswith(f"ally_gate_message of {accepted!r} would wait for ")
                entered = {message.content for message in await session.safe_point()}
                assert entered == {"go", f"from {accepted}"}
                assert sum(p.counts.refused.get("reentry", 0) for p in host.plugins.values()) == count
            assert {p.counts.crashes for p in host.plugins.values()} == {0}

    go(main())


def test_two_calls_under_one_key_do_not_wait_for_each_other_through_a_gate(placed: Placed) -> None:
    """A's message waits for B's gate, which speaks; A's gate is asked, and speaks under the key that is on its way."""

    async def main() -> None:
        async with placed.host({"a": placed("chains:Repeats"), "b": placed("chains:Judges")}) as host:
            session = host.session("s")
            said = await host.call_tool("speak", plugin="a", session_id="s")
            assert said.data["returned"]["state"] == "pending"
            (of_b,) = await look(host, "b")
            (of_a,) = await look(host, "a")
            assert of_a["raised"] == "ReentryRefused"
            assert of_b["returned"]["state"] == "pending"
            assert sorted(message.content for message in await session.safe_point()) == ["from a gate", "hello"]
            assert {p.counts.crashes for p in host.plugins.values()} == {0}

    go(main())


def relays(placed: Placed, **following: str | None) -> dict[str, Any]:
    return {
        name: placed("chains:Relays", settings={} if after is None else {"next": after})
        for name, after in following.items()
    }


def test_a_circle_of_actions_is_logged_in_one_line_and_is_nobody_s_crash(
    placed: Placed, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with placed.host(relays(placed, a="b", b="c", c="a")) as host:
            session = host.session("s")
            for first in "aba":
                with pytest.raises(ToolCallError) as raised:
                    await session.request_action(f"{first}:relay", {})
                assert str(raised.value).count("failed") == 1
                assert "a → b → c → a" in str(raised.value)
            assert {p.counts.crashes for p in host.plugins.values()} == {0}
            assert {p.state for p in host.plugins.values()} == {"running"}

    caplog.set_level(logging.WARNING)
    go(main())
    (line,) = caplog.messages
    assert line.startswith("request_action of the plugin 'c' was refused: a → b → c → a → b → c → a → b → c would")
    assert not any(record.exc_info for record in caplog.records)


def test_what_an_action_fails_with_is_the_crash_of_its_plugin_alone(
    placed: Placed, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with placed.host(relays(placed, a="b", b="c", c=None)) as host:
            with pytest.raises(ToolCallError) as raised:
                await host.session("s").request_action("a:relay", {})
            assert str(raised.value).startswith(f"'relay' of 'c' failed with {placed.raised('ValueError: a broken')}")
            assert raised.value.plugin == "c"
            assert {name: plugin.counts.crashes for name, plugin in host.plugins.items()} == {"a": 0, "b": 0, "c": 1}

    caplog.set_level(logging.ERROR)
    go(main())
    (line,) = caplog.messages
    assert line.startswith("relay of the plugin 'c' failed: ")
