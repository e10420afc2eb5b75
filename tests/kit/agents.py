"""What tests of several adapters give an agent: a call of its scripted model, and plugins that guard."""

from __future__ import annotations

from typing import Any

from ally_plugins import Deny, Message, ToolCall
from ally_plugins.testing import Answer
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
