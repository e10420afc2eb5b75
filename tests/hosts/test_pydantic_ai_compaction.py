"""Shortening a live conversation: when, who may stop it, what survives, and what is told."""

# ruff: noqa: ARG001 - hooks are methods, and take what their event promises

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Ask, CompactionComplete, CompactionStart, Deny, HostError, PermissionResponse
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from tests.hosts.scripted import Script, live
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage


def keep_last(messages: list[ModelMessage]) -> list[ModelMessage]:
    return messages[-1:]


async def talk(agent: Any, *prompts: str, **options: Any) -> Any:
    history: list[ModelMessage] = []
    result = None
    for prompt in prompts:
        result = await agent.run(prompt, message_history=history, conversation_id="s1", **options)
        history = result.all_messages()
    return result


def test_a_full_window_is_shortened_before_the_model_is_asked_again() -> None:
    async def main() -> None:
        async with live() as bench:
            steps = Script("one " * 50, "two", "three")
            agent = bench.agent(steps, context_window=110, compact=keep_last, compact_at=80)
            result = await talk(agent, "hello", "again")
            assert steps.texts() == ["again"]
            (start,), (end,) = bench.of(CompactionStart), bench.of(CompactionComplete)
            assert start.seq < end.seq
            assert (end.old_context_usage or 0) > 80 > (end.new_context_usage or 100)
            assert (end.threshold, end.strategy, end.error) == (80, "keep_last", None)
            said = [message.content for message in bench.host.sessions["s1"].conversation.messages]
            assert said == ["again", "two"]
            assert len(result.all_messages()) == 2
            assert len({message.id for message in bench.host.sessions["s1"].conversation.messages}) == 2

    go(main())


def test_what_plugins_add_in_answer_survives() -> None:
    async def rescue(self: Any, event: CompactionStart) -> None:
        await self.ally.add_message("user", "the goal is X")

    async def main() -> None:
        may = {"p": ["events:*", "add_message:user"]}
        async with live({"p": make_plugin(ally_compaction_start=rescue)}, may) as bench:
            steps = Script("one", "two")
            agent = bench.agent(steps, compact=keep_last)
            plugins = AllyPlugins(bench.host, compact=keep_last)
            first = await agent.run("hello", conversation_id="s1")
            plugins.compact("s1")
            await agent.run("again", message_history=first.all_messages())
            assert steps.texts() == ["again", "[plugin p] the goal is X"]

    go(main())


def test_a_plugin_that_may_asks_for_it() -> None:
    puppet = make_plugin()

    async def main() -> None:
        async with live({"p": puppet}, {"p": ["request_action:compact"]}) as bench:
            steps = Script("one", "two")
            agent = bench.agent(steps, compact=keep_last)
            first = await agent.run("hello", conversation_id="s1")
            assert puppet.ally.supports("compact")
            assert await puppet.ally.request_action("compact", {"reason": "it is long"}) == {"scheduled": True}
            await agent.run("again", message_history=first.all_messages())
            assert steps.texts() == ["again"]
            assert len(bench.of(CompactionComplete)) == 1

    go(main())


@pytest.mark.parametrize(("verdict", "approve", "happens"), [
    (Deny("not now"), None, False),
    (Ask("really?"), None, False),
    (Ask("really?"), "deny", False),
    (Ask("really?"), "allow", True),
    (None, None, True),
])  # fmt: skip
def test_a_permission_gate_may_stop_it(verdict: Any, approve: str | None, happens: Any) -> None:
    seen: list[Any] = []

    def gate(self: Any, request: Any) -> Any:
        seen.append((request.tool_name, request.arguments["requested_by"]))
        return verdict

    async def answer(question: Any) -> str:
        return str(approve)

    async def main() -> None:
        async with live({"p": make_plugin(ally_gate_permission=gate)}, {"p": ["gate:permission"]}) as bench:
            steps = Script("one", "two")
            options: dict[str, Any] = {"compact": keep_last, "approve": answer if approve else None}
            agent = bench.agent(steps, **options)
            first = await agent.run("hello", conversation_id="s1")
            AllyPlugins(bench.host, **options).compact("s1")
            await agent.run("again", message_history=first.all_messages())
            assert (len(bench.of(CompactionStart)) == 1) is happens
            assert (steps.texts() == ["again"]) is happens
            assert seen == [("compact", "person")]
            assert [event.choice for event in bench.of(PermissionResponse)] == ([approve] if approve else [])

    go(main())


@pytest.mark.parametrize("way", ["raises", "empty", "no list"])
def test_one_that_fails_is_told_and_the_conversation_goes_on_as_it_is(way: str) -> None:
    tried: list[bool] = []

    def broken(messages: list[ModelMessage]) -> Any:
        tried.append(True)
        if way == "raises":
            raise OSError("the summary model is down")
        return [] if way == "empty" else None

    async def main() -> None:
        async with live() as bench:
            steps = Script("one " * 50, "two", "three")
            agent = bench.agent(steps, context_window=110, compact=broken, compact_at=80)
            await talk(agent, "hello", "again", "more")
            assert len(steps.texts()) == 5
            assert len(tried) == 1
            (end,) = bench.of(CompactionComplete)
            expected = "OSError: the summary model is down" if way == "raises" else "the compaction returned"
            assert (end.error, expected in str(end.error_message)) == (True, True)

    go(main())


def test_without_a_way_to_do_it_nobody_is_promised_it() -> None:
    puppet = make_plugin()

    async def main() -> None:
        async with live({"p": puppet}, {"p": ["request_action:compact"]}) as bench:
            with pytest.raises(HostError, match=r"give AllyPlugins\(compact=...\)"):
                AllyPlugins(bench.host).compact("s1")
            assert not puppet.ally.supports("compact")

    go(main())
