"""secret-guard: redacts credentials in tool input, tool output, messages and answers; denies what it cannot redact.

It says which kind it found, never what. Its hooks are plain functions: searching a large output is work for the
plugin's own thread, not for the host's loop. Its transforms come late, and last of all when the operator makes it
mandatory, so that nothing is put back behind it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ally_plugins import Ally, Deny, Message, Replace, ToolCall, ToolResult, evolve, hookimpl
from ally_plugins_contrib.memory import shown

from .marks import find_kept
from .redacting import find_hidden, redact, redact_all

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SecretGuard"]


class SecretGuard:
    """Remembers nothing: each value is judged by itself."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl(trylast=True)
    def ally_transform_tool_input(self, call: ToolCall) -> Replace[ToolCall] | None:
        arguments = redact(call.arguments)
        if arguments is call.arguments:
            return None
        return Replace(evolve(call, arguments=arguments))

    @hookimpl(trylast=True)
    def ally_transform_tool_output(self, result: ToolResult) -> Replace[ToolResult] | None:
        output, error, data = redact_all(result.output), redact_all(result.error), redact_all(result.data)
        if output == result.output and error == result.error and data is result.data:
            return None
        return Replace(evolve(result, output=output, error=error, data=data))

    @hookimpl(trylast=True)
    def ally_transform_user_message(self, message: Message) -> Replace[Message] | None:
        content = redact_all(message.content)
        if content == message.content:
            return None
        return Replace(evolve(message, content=content))

    @hookimpl(trylast=True)
    def ally_transform_answer(self, message: Message) -> Replace[Message] | None:
        content = _redact_answer(message)
        if content == message.content:
            return None
        return Replace(evolve(message, content=content))

    @hookimpl(trylast=True)
    def ally_transform_plugin_message(self, message: Message) -> Replace[Message] | None:
        content = redact(message.content)
        if content == message.content:
            return None
        return Replace(evolve(message, content=content))

    @hookimpl
    def ally_gate_tool_call(self, call: ToolCall) -> Deny | None:
        return _deny(call.arguments) or _deny_mark(call)

    @hookimpl
    def ally_gate_message(self, message: Message) -> Deny | None:
        return _deny({"content": message.content})

    @hookimpl
    def ally_gate_user_message(self, message: Message) -> Deny | None:
        return _deny_text(message, "what you wrote")

    @hookimpl
    def ally_gate_answer(self, message: Message) -> Deny | None:
        return _deny_text(message, "the answer")


def _redact_answer(message: Message) -> str:
    """Return an answer without credentials; of a structured one the values are looked at, so that it stays JSON."""
    if not message.metadata.get("isStructured"):
        return str(redact_all(message.content))
    value = json.loads(message.content)
    redacted = redact_all(value)
    return message.content if redacted == value else json.dumps(redacted, ensure_ascii=False)


def _deny_text(message: Message, what: str) -> Deny | None:
    """Deny a text with a credential in it: its transform was not granted, has failed, or could not take it out."""
    kind = find_hidden(message.content)
    if kind is None and message.metadata.get("isStructured"):
        kind = find_hidden(json.loads(message.content))  # which may be escaped in the text
    return None if kind is None else Deny(f"{what} holds a credential ({kind})", sensitive=True)


def _deny(values: Mapping[str, Any]) -> Deny | None:
    for name, value in values.items():
        kind = find_hidden({name: value})
        if kind is not None:
            where = f"{shown(name)!r} holds" if find_hidden(name) is None else "the name of an argument is"
            return Deny(
                f"{where} a credential ({kind}) that cannot be redacted without changing what it means; "
                "leave it out, or let the tool read it from its environment",
                sensitive=True,
            )
    return None


def _deny_mark(call: ToolCall) -> Deny | None:
    name = find_kept(call.tool_name, call.arguments)
    if name is None:
        return None
    return Deny(
        f"{shown(name)!r} holds a mark that stands for a credential, and the call would write the mark where the "
        "credential belongs; write a reference to it instead (an environment variable such as ${TOKEN}), change only "
        "the other lines, or ask the person to put it there"
    )
