"""What the person says meets its gates and transforms wherever it stands in the input of a run."""

# ruff: noqa: ARG001 - hooks are methods

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ally_plugins import Deny, GateRefused, Message, Replace, UserMessage, evolve
from ally_plugins.adapters.kit.kept_messages import MARK
from ally_plugins.adapters.openai_agents.items import item_for
from tests.adapters.openai_agents.scripted import live, requests, texts
from tests.kit.hosts import make_plugin

PLUGINS = item_for(Message(role="user", content="look", id="p1", metadata={"sourcePlugin": "helper"}))


def said(text: str, role: str = "user") -> Any:
    return {"role": role, "content": text}


def guard() -> Any:
    async def ally_gate_user_message(self: Any, message: Message) -> Any:
        return Deny("not so") if "evil" in message.content else None

    return make_plugin(ally_gate_user_message=ally_gate_user_message)


@pytest.mark.parametrize(
    "given",
    [
        [said("evil"), said("good")],
        [said("evil"), said("be kind", "developer")],
        [said("evil"), PLUGINS],
        [{**said("evil"), MARK: PLUGINS[MARK]}],
        [{**said("evil"), MARK: {}}],
        [said("hello"), said("hello", "assistant"), said("evil"), said("hello")],
    ],
    ids=["before another", "before a developer's", "before a plugin's", "marked as a plugin's", "marked", "history"],
)
def test_all_that_the_person_says_since_the_last_answer_is_gated(given: list[Any]) -> None:
    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            agent = bench.agent("done")
            with pytest.raises(GateRefused, match="not so"):
                await bench.plugins.run(agent, given)
            assert not requests(agent)
            assert not bench.of(UserMessage)

    asyncio.run(main())


def test_what_was_answered_and_what_plugins_have_said_is_not_gated() -> None:
    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            given = [said("evil"), said("hm", "assistant"), {**PLUGINS}, said("good")]
            await bench.plugins.run(bench.agent("done"), given)
            assert [each.content for each in bench.of(UserMessage)] == ["good"]

    asyncio.run(main())


def test_a_transform_changes_several_messages_as_one_and_none_before_the_answer() -> None:
    async def ally_transform_user_message(self: Any, message: Message) -> Any:
        return Replace(evolve(message, content=message.content.replace("secret", "***")))

    async def main() -> None:
        redactor = make_plugin(ally_transform_user_message=ally_transform_user_message)
        async with live({"redactor": redactor}) as bench:
            agent = bench.agent("done")
            parts = [{"type": "input_text", "text": "the last"}]
            same = said("a secret")
            given = [same, said("hm", "assistant"), same, {"role": "user", "content": parts}]
            await bench.plugins.run(agent, given)
            assert texts(requests(agent)[0]) == ["user: a secret", "assistant: hm", "user: a ***\nthe last"]

    asyncio.run(main())
