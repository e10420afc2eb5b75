"""What the person says in a history, as user interfaces give it, meets the gates and transforms of their messages."""

# ruff: noqa: ARG001 - hooks are methods

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SpeechPart,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

from ally_plugins import Deny, GateRefused, Message, Replace, UserMessage, evolve
from tests.hosts.scripted import Script, live
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go

ANSWER = ModelResponse(parts=[TextPart("hm")])
RETURNED = [
    ModelResponse(parts=[ToolCallPart("work", {}, "c1")]),
    ModelRequest(parts=[ToolReturnPart("work", "done", "c1"), UserPromptPart("evil")]),
]


def said(*texts: str) -> ModelRequest:
    return ModelRequest(parts=[UserPromptPart(text) for text in texts])


def guard() -> Any:
    async def ally_gate_user_message(self: Any, message: Message) -> Any:
        return Deny("not so") if "evil" in message.content else None

    return make_plugin(ally_gate_user_message=ally_gate_user_message)


@pytest.mark.parametrize(
    ("history", "prompt"),
    [
        ([said("evil")], None),
        ([said("fine"), ANSWER, said("evil", "good")], None),
        ([said("evil"), said("good")], None),
        ([said("evil")], "good"),
        ([ModelRequest(parts=[UserPromptPart("evil"), SystemPromptPart("be kind")])], None),
        ([said("fine"), *RETURNED], None),
        ([ModelRequest(parts=[SpeechPart(speaker="user", transcript="evil")])], None),
        ([ModelRequest(parts=[SpeechPart(speaker="user", transcript="evil")])], "good"),
    ],
    ids=[
        "alone",
        "with another",
        "before another",
        "before the prompt",
        "before a system prompt",
        "behind a result",
        "spoken",
        "spoken before",
    ],
)
def test_what_the_person_says_in_a_history_is_gated_and_a_denied_word_is_kept_nowhere(
    history: Sequence[ModelMessage], prompt: str | None
) -> None:
    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            script = Script("done")
            agent = bench.agent(script)
            with pytest.raises(GateRefused, match="not so"):
                await agent.run(prompt, message_history=history, conversation_id="talk")
            assert not script.seen
            assert not bench.of(UserMessage)
            known = bench.host.session("talk").conversation.messages
            assert not [each for each in known if "evil" in each.content]
            # Said again, it is gated again.
            with pytest.raises(GateRefused, match="not so"):
                await agent.run(prompt, message_history=history, conversation_id="talk")

    go(main())


def test_what_was_answered_is_not_gated_again() -> None:
    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            await bench.agent(Script("done")).run("good", message_history=[said("evil"), ANSWER])
            assert [each.content for each in bench.of(UserMessage)] == ["good"]

    go(main())


def test_a_history_that_a_failed_run_has_left_begins_with_nothing_new() -> None:
    async def main() -> None:
        async with live({"guard": guard()}) as bench:
            agent = bench.agent(Script(ModelHTTPError(500, "model"), "done"))
            history = [said("good")]
            with pytest.raises(ModelHTTPError):
                await agent.run(None, message_history=history, conversation_id="talk")
            result = await agent.run(None, message_history=history, conversation_id="talk")
            assert result.output == "done"
            assert [each.content for each in bench.of(UserMessage)] == ["good"]

    go(main())


@pytest.mark.parametrize("prompt", [None, "and this"])
def test_a_transform_changes_what_the_person_says_in_a_history(prompt: str | None) -> None:
    async def ally_transform_user_message(self: Any, message: Message) -> Any:
        return Replace(evolve(message, content=message.content.replace("secret", "***")))

    image = BinaryContent(b"png", media_type="image/png")
    given: list[ModelMessage] = [ModelRequest(parts=[UserPromptPart(["a secret", image])]), said("a secret too")]

    async def main() -> None:
        redactor = make_plugin(ally_transform_user_message=ally_transform_user_message)
        async with live({"redactor": redactor}) as bench:
            script = Script("done")
            await bench.agent(script).run(prompt, message_history=given)
            texts = ["a ***", "a *** too", *([prompt] if prompt is not None else [])]
            (part,) = (part for each in script.seen[0] for part in each.parts)
            assert isinstance(part, UserPromptPart)
            assert [*part.content][1:] == [image]
            assert script.texts() == ["\n".join(texts)]
            assert [part.content for part in given[1].parts if isinstance(part, UserPromptPart)] == ["a secret too"]

    go(main())
