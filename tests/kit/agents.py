"""What tests of several adapters give an agent: a call of its scripted model, and plugins that guard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ally_plugins import Deny, Message, ToolCall
from ally_plugins.testing import AdapterDriver, Answer
from ally_plugins.testing.adapters.script import RawCall, calls
from ally_plugins.testing.adapters.stage import Stage, tool
from tests.kit.hosts import make_plugin


def call(call_id: str, name: str, **arguments: Any) -> Answer:
    """Return an answer of the model that calls one tool."""
    return Answer(calls=(ToolCall(name, arguments, call_id),))


def gate(decide: Any) -> dict[str, Any]:
    """Return a plugin `guard` that decides by the call, and keeps what it has seen in `seen`."""

    async def ally_gate_tool_call(self: Any, call: ToolCall) -> Any:
        self.seen.append((call.tool_name, dict(call.arguments)))
        return decide(call)

    return {"guard": make_plugin(ally_gate_tool_call=ally_gate_tool_call)}


def withholding(word: str) -> Any:
    """Return a plugin that denies each answer with this word."""

    async def ally_gate_answer(_self: Any, message: Message) -> Deny | None:
        return Deny("it has a code") if word in message.content else None

    return make_plugin(ally_gate_answer=ally_gate_answer)


async def expect_text_is_mended(driver: AdapterDriver, argument: str = "a \udc00") -> None:
    """Check that a lone surrogate of the model's or a tool's, which no request could carry, is U+FFFD in what is kept.

    `argument` is the one of its call, for a framework that refuses such a call itself.
    """
    odd = Answer(text="said \ud800", calls=(RawCall("work", {"text": argument}, "c1"),))
    ran: list[str] = []

    def work(text: str) -> str:
        ran.append(text)
        return "worked \udfff"

    async with Stage(driver).play(odd, "found \ud800", "again", tools=[tool("work", work)]) as play:
        await play.run("go")
        await play.run("go on")
        assert ran == ["a \ufffd"]
        for messages in (play.requests[-1].messages, play.history()):
            "".join(_texts(messages)).encode()  # raises for a lone surrogate
            assert {"said \ufffd", "a \ufffd", "worked \ufffd", "found \ufffd"} <= set(_texts(messages))
        play.expect_valid()


def _texts(messages: Sequence[Message]) -> list[str]:
    given = [str(value) for message in messages for call in message.tool_calls for value in call.arguments.values()]
    return [*(message.content for message in messages), *given]


async def expect_ids_are_told_apart(driver: AdapterDriver) -> None:
    """Check that two calls of one response with one id have ids of their own, and both run."""
    ran: list[str] = []

    def work(text: str) -> str:
        ran.append(text)
        return text

    made = calls(("c1", "work", "a"), ("c1", "work", "b"))
    async with Stage(driver).play(made, "done", "again", tools=[tool("work", work)]) as play:
        await play.run("go")
        await play.run("go on")
        assert sorted(ran) == ["a", "b"]
        play.expect_calls("c1", "c1-2")
        assert (play.result_of("c1"), play.result_of("c1-2")) == ("a", "b")
        play.expect_valid()
