"""The conversation of a replayed session: its newest messages in memory, all of it in the `--out` file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO, Final

from attrs import define, field

from ally_plugins.contract.values.codec import ascii_json, encode
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import Message
from ally_plugins.host.sessions.memory import Conversation

__all__ = ["WINDOW", "RecordedConversation", "message_line", "writer_of"]

WINDOW: Final = 4_000
"""Messages that plugins can still read. A recording of any size takes constant memory; a model's window holds fewer."""


def message_line(message: Message, recorded_id: str, state: str | None = None) -> bytes:
    """Return a message as a line of `--out`, with its newline."""
    line: dict[str, Any] = {
        "role": message.role,
        "content": message.content,
        "id": message.id,
        "metadata": message.metadata,
        "timestamp": message.timestamp,
        "session": recorded_id,
    }
    if message.tool_calls:
        line["tool_calls"] = [
            {"id": call.call_id, "name": call.tool_name, "arguments": call.arguments} for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        line["tool_call_id"] = message.tool_call_id
    if state is not None:
        line["state"] = state
    return ascii_json(encode(line)) + b"\n"


@define(eq=False)
class RecordedConversation(Conversation):
    """Keeps the newest messages, and calls `on_message` with each. Lives as long as its session."""

    on_message: Callable[[Message], object] | None = field(default=None, kw_only=True)
    window: int = field(default=WINDOW, kw_only=True)

    @override
    def add(self, message: Message) -> bool:
        """Append a message and return whether it is new, as the base does; the oldest go past `window`."""
        if not super().add(message):
            return False
        if self.on_message is not None:
            self.on_message(message)
        if len(self.messages) > self.window:
            self._forget_oldest()
        return True

    def _forget_oldest(self) -> None:
        """Drop the older half. Their ids are dropped too: nothing in a replay delivers a message twice."""
        # Half at once, so that the cost of it is spread over as many messages.
        kept = self.messages[-(self.window // 2) :]
        self._ids.difference_update([message.id for message in self.messages])
        # `replace` adds each one again: they have been written already.
        on_message, self.on_message = self.on_message, None
        self.replace(kept)
        self.on_message = on_message


def writer_of(file: BinaryIO | None, recorded_id: str) -> Callable[[Message], object] | None:
    """Return a function that writes each message to an `--out` file, None without a file."""
    if file is None:
        return None
    return lambda message: file.write(message_line(message, recorded_id, _state_of(message)))


def _state_of(message: Message) -> str | None:
    return "delivered" if message.source_plugin is not None else None
