"""What the person says meets its gates and transforms wherever the framework is given it."""

# ruff: noqa: ARG001 - hooks are methods

from __future__ import annotations

from typing import Any

import pytest

from ally_plugins import Deny, GateRefused, Message, Replace, UserMessage, evolve
from ally_plugins.testing import Answer
from tests.adapters.strands.scripted import live
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go

CALL = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "c1", "name": "work", "input": {}}}]}
RESULT = {"toolResult": {"toolUseId": "c1", "status": "success", "content": [{"text": "done"}]}}


def said(*texts: str, role: str = "user") -> Any:
    return {"role": role, "content": [{"text": text} for text in texts]}


def guard() -> Any:
    async def ally_gate_user_message(self: Any, message: Message) -> Any:
        return Deny("not so") if "evil" in message.content else None

    return make_plugin(ally_gate_user_message=ally_gate_user_message)


@pytest.mark.parametrize(
    ("history", "given"),
    [
        ([], [said("evil"), said("good")]),
        ([], [said("evil"), said("Sure: ", role="assistant")]),
        ([said("evil")], None),
        ([said("evil")], "good"),
        ([said("go"), CALL, {"role": "user", "content": [RESULT, {"text": "evil"}]}], None),
        ([said("go"), CALL], [{"role": "user", "content": [RESULT, {"text": "evil"}]}]),
    ],
    ids=["before another", "with an answer begun", "history", "history before", "beside a result", "beside one given"],
)
def test_all_that_the_person_says_since_the_last_answer_is_gated(history: list[Any], given: Any) -> None:
    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            agent = bench.agent("done")
            agent.messages.extend(history)
            with pytest.raises(GateRefused, match="not so"):
                await agent.invoke_async(given)
            assert "evil" not in str(agent.messages[len(history) :])
            assert not bench.of(UserMessage)

    go(main())


def test_what_was_answered_or_begun_with_is_not_gated_again() -> None:
    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            agent = bench.agent(Answer(error=RuntimeError("the model is gone")), "done", "again")
            agent.messages.extend([said("evil"), said("well", role="assistant")])
            with pytest.raises(RuntimeError, match="the model is gone"):
                await agent.invoke_async("good")
            await agent.invoke_async()
            await agent.invoke_async()
            assert [each.content for each in bench.of(UserMessage)] == ["good"]

    go(main())


def test_a_transform_changes_several_messages_as_one() -> None:
    async def ally_transform_user_message(self: Any, message: Message) -> Any:
        return Replace(evolve(message, content=message.content.replace("secret", "***")))

    async def main() -> None:
        redactor = make_plugin(ally_transform_user_message=ally_transform_user_message)
        async with live({"redactor": redactor}) as bench:
            agent = bench.agent("done")
            agent.messages.append(said("a secret"))
            await agent.invoke_async([said("another secret"), said("the last")])
            texts = [block.get("text") for entry in agent.messages for block in entry["content"]]
            assert texts == ["a ***\nanother ***\nthe last", "done"]

    go(main())
