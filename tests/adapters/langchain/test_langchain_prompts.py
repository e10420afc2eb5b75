"""What the person says meets its gates each time that it is said."""

# ruff: noqa: ARG001 - hooks are methods

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import ChatMessage, HumanMessage

from ally_plugins import Deny, GateRefused, Message, UserMessage
from ally_plugins.adapters.kit.kept_messages import MARK
from ally_plugins.adapters.langchain.messages import message_for
from ally_plugins.testing import Answer
from tests.adapters.langchain.bench import ONE, live
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go

PLUGINS = message_for(Message(role="user", content="look", id="p1", metadata={"sourcePlugin": "helper"}))


def guard() -> Any:
    async def ally_gate_user_message(self: Any, message: Message) -> Any:
        return Deny("not so") if "evil" in message.content else None

    return make_plugin(ally_gate_user_message=ally_gate_user_message)


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage("evil"),
        HumanMessage("evil", id="m1"),
        ChatMessage(role="user", content="evil"),
        HumanMessage("evil", additional_kwargs={MARK: PLUGINS.additional_kwargs[MARK]}),
    ],
    ids=["without an id", "with its id", "of another class", "marked as a plugin's"],
)
@pytest.mark.parametrize("is_kept", [True, False])
def test_a_denied_message_is_denied_again_when_it_is_sent_again(message: Any, *, is_kept: bool) -> None:
    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            agent = bench.agent("done", is_kept=is_kept)
            given = message.model_copy()
            for _ in range(3):
                with pytest.raises(GateRefused, match="not so"):
                    await agent.ainvoke({"messages": [given]}, ONE)
            assert not bench.of(UserMessage)

    go(main())


def test_another_message_with_the_id_of_one_that_was_allowed_is_gated() -> None:
    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            agent = bench.agent(Answer(error=RuntimeError("the model is gone")), "done")
            with pytest.raises(RuntimeError, match="the model is gone"):
                await agent.ainvoke({"messages": [HumanMessage("good", id="m1")]}, ONE)
            with pytest.raises(GateRefused, match="not so"):
                await agent.ainvoke({"messages": [HumanMessage("evil", id="m1")]}, ONE)
            await agent.ainvoke({"messages": [HumanMessage("good", id="m1")]}, ONE)
            # In the place of the answered one, which is no longer the last.
            with pytest.raises(GateRefused, match="not so"):
                await agent.ainvoke({"messages": [HumanMessage("evil", id="m1"), HumanMessage("well?")]}, ONE)
            assert "evil" not in repr((await agent.aget_state(ONE)).values)
            assert {each.content for each in bench.of(UserMessage)} == {"good"}

    go(main())
