"""One request's messages as plugins see them, and the way back: what they changed, dropped and added, by message id."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from attrs import evolve
from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolReturnPart,
    UserPromptPart,
    repair_messages,
)

from ally_plugins.adapters.kit.mirror import is_cut
from ally_plugins.contract.values.errors import GateRefused

from .history import convert, messages_of_part, request_for, with_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic_ai.messages import ModelMessage, ModelRequestPart

    from ally_plugins.contract.values.conversation import Message

__all__ = ["RequestView"]


class RequestView:
    """The messages of one request, without the system prompt and parts that are no message (changes of tools).

    Raises GateRefused for a request with a call that is too large to be shown.
    """

    def __init__(self, history: list[ModelMessage], session_id: str) -> None:
        self._history = history
        self._messages: dict[int, Message] = {}
        self._count = 0
        self._session_id = session_id
        _check_calls(history)
        for item in [part for message in history for part in _items(message)]:
            self._add_item(item)
        self.messages = tuple(self._messages.values())

    def _add_item(self, item: Any) -> None:
        if isinstance(item, SystemPromptPart) and not item.metadata:
            return
        for message in convert(item) if isinstance(item, ModelResponse) else messages_of_part(item):
            if not message.id:
                self._count += 1
                message = evolve(message, id=f"{self._session_id}:m{self._count}")  # noqa: PLW2901 - with its id
            self._messages[id(item)] = message

    def with_messages(self, after: Sequence[Message]) -> list[ModelMessage]:
        """Return the history as the messages have it now; it is valid again where whole messages are gone."""
        editor = _HistoryEditor(self._messages, after)
        made = [found for message in self._history if (found := editor.take(message)) is not None]
        return repair_messages(editor.ended(made))


def _check_calls(history: Iterable[ModelMessage]) -> None:
    for message in history:
        for call in message.tool_calls if isinstance(message, ModelResponse) else ():
            if is_cut(call.args):
                text = f"the request cannot be shown to plugins: a call of {call.tool_name!r} in it is too large"
                raise GateRefused(text, plugin=None)


def _items(message: ModelMessage) -> Sequence[Any]:
    return (message,) if isinstance(message, ModelResponse) else message.parts


class _HistoryEditor:
    """Puts what was changed and added into the framework's messages, in one pass."""

    def __init__(self, messages: dict[int, Message], after: Iterable[Message]) -> None:
        original = {message.id for message in messages.values()}
        self._messages = messages
        self._kept: dict[str, Message] = {}
        self._added: defaultdict[str, list[ModelRequestPart]] = defaultdict(list)
        anchor = ""
        for message in after:
            if message.id in original:
                self._kept[message.id] = message
                anchor = message.id
            else:
                self._added[anchor] += request_for(message).parts
        self._carried = self._added[""]

    def take(self, message: ModelMessage) -> ModelMessage | None:
        """Return a message as it is to be sent, None when it is gone."""
        if isinstance(message, ModelResponse):
            return self._response(message)
        parts: list[ModelRequestPart] = []
        for part in message.parts:
            before = self._messages.get(id(part))
            if before is None:
                parts.append(part)
                continue
            parts, self._carried = [*parts, *self._carried], []
            after = self._kept.get(before.id)
            if after is not None:
                parts.append(part if after.content == before.content else _changed(part, after))
                parts += self._added[before.id]
        if not parts:
            return None
        return message if parts == list(message.parts) else dataclasses.replace(message, parts=parts)

    def _response(self, message: ModelResponse) -> ModelMessage | None:
        before = self._messages.get(id(message))
        if before is None:
            return message
        after = self._kept.get(before.id)
        if after is None:
            return None
        self._carried = [*self._carried, *self._added[before.id]]
        if after.content == before.content:
            return message
        parts = [part for part in message.parts if not isinstance(part, TextPart)]
        text = [TextPart(after.content)] if after.content else []
        return dataclasses.replace(message, parts=[*text, *parts])

    def ended(self, messages: list[ModelMessage]) -> list[ModelMessage]:
        """Return the messages with what was added behind the last of them."""
        return [*messages, ModelRequest(parts=self._carried)] if self._carried else messages


def _changed(part: ModelRequestPart, after: Message) -> ModelRequestPart:
    if after.source_plugin is not None:
        return request_for(after).parts[0]
    if isinstance(part, UserPromptPart):
        return dataclasses.replace(part, content=with_text(part.content, after.content))
    if isinstance(part, ToolReturnPart):
        return ToolReturnPart(part.tool_name, after.content, part.tool_call_id, outcome=part.outcome)
    return UserPromptPart(after.content)
