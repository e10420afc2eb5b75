"""The framework's messages as plugins see them, one for one, and plugins' messages as the framework keeps them.

A plugin's message is a message of the person's to the framework, whatever its role: some models take no other in the
middle of a conversation. Its identity is in `additional_kwargs`, which stays when a history is stored.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable, Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from ally_plugins.adapters.kit.kept_messages import MARK, kept_data, kept_message, text_beside
from ally_plugins.adapters.kit.mirror import recorded_call
from ally_plugins.adapters.kit.weaving import Weaver, refuse_cut_call
from ally_plugins.contract.values.conversation import Message
from ally_plugins.contract.values.shown import media, shown_text

__all__ = ["View", "answered", "convert", "is_persons", "message_for", "text_of", "with_text"]


def message_for(message: Message) -> HumanMessage:
    """Return a plugin's message as one of the framework's, marked as the plugin's towards the model."""
    return HumanMessage(message.text_for_model, id=message.id, additional_kwargs={MARK: kept_data(message)})


def is_persons(message: BaseMessage) -> bool:
    """Return whether a message is the person's own, and no plugin's."""
    return isinstance(message, HumanMessage) and _kept(message) is None


def convert(message: BaseMessage) -> Iterable[Message]:
    """Return the message that one of the framework's is, without an id but that of a plugin's message."""
    if isinstance(message, AIMessage):
        made = [*message.tool_calls, *message.invalid_tool_calls]
        calls: Any = [recorded_call(call["name"] or "", call["args"] or {}, call["id"]) for call in made]
        yield Message(role="assistant", content=text_of(message), tool_calls=calls)
    elif isinstance(message, ToolMessage):
        yield Message(role="tool", content=text_of(message), tool_call_id=message.tool_call_id)
    elif isinstance(message, SystemMessage):
        yield Message(role="system", content=text_of(message))
    else:
        yield _kept(message) or Message(role="user", content=text_of(message))


def _kept(message: BaseMessage) -> Message | None:
    """Return the plugin's message that one of the framework's is, None when it is not one (histories are stored)."""
    return kept_message(message.additional_kwargs.get(MARK))


def text_of(message: BaseMessage) -> str:
    """Return the text of a message, without thoughts and calls; what is no text (an image) is described as JSON."""
    if isinstance(message.content, str) or isinstance(message, AIMessage):
        return shown_text(str(message.text))
    return shown_text("\n".join(_texts(message)))


def _texts(message: BaseMessage, *, without_text: bool = False) -> Iterable[str]:
    for block in message.content_blocks:
        if block["type"] == "text":
            if not without_text:
                yield block["text"]
        else:
            yield _described(block)


def _described(block: Any) -> str:
    """Return what is shown of content that is not text: its kind, and its digest or where it lies."""
    shown: Any = {name: value for name, value in block.items() if name != "id"}
    if isinstance(data := block.get("base64"), str):
        try:
            content = b64decode(data)
        except ValueError:
            content = data.encode(errors="replace")
        shown = media(block["type"], block.get("mime_type"), content)
    return json.dumps(shown, default=repr, ensure_ascii=False)


def with_text(message: BaseMessage, text: str) -> BaseMessage:
    """Return a message with another text in place of all of its own; what is not text is kept."""
    if isinstance(message.content, str):
        return message.model_copy(update={"content": text})
    left = text_beside(text, _texts(message, without_text=True))
    kept = [block for block in message.content if isinstance(block, dict) and block.get("type") != "text"]
    return message.model_copy(update={"content": [{"type": "text", "text": left}, *kept]})


def answered(messages: Sequence[BaseMessage]) -> tuple[list[BaseMessage], list[str]]:
    """Return a history in which each call has a result, and the ids of those that had none, since a run was cut."""
    made: list[BaseMessage] = []
    given_up: list[str] = []
    waiting: dict[str, str] = {}
    for message in (*messages, None):
        if isinstance(message, ToolMessage):
            waiting.pop(message.tool_call_id, None)
        elif waiting:
            made += [ToolMessage(CUT, name=name, tool_call_id=key, status="error") for key, name in waiting.items()]
            given_up += waiting
            waiting = {}
        if isinstance(message, AIMessage):
            waiting = {call["id"] or "": call["name"] for call in message.tool_calls}
        if message is not None:
            made.append(message)
    return made, given_up


CUT: Final = "not run: the turn was interrupted"


class View:
    """The messages of one request as plugins see them, and the way back. Raises GateRefused where one is too large."""

    def __init__(self, messages: Sequence[BaseMessage], session_id: str) -> None:
        for message in messages:
            for call in [*message.tool_calls, *message.invalid_tool_calls] if isinstance(message, AIMessage) else ():
                refuse_cut_call(call["name"] or "", call["args"])
        items = ((original, shown) for original in messages for shown in convert(original))
        self._weaver = Weaver(items, session_id)
        self.messages = self._weaver.messages

    def with_messages(self, after: Iterable[Message]) -> list[BaseMessage]:
        """Return the framework's messages as plugins' transforms left them."""
        return [_as_left(*woven) for woven in self._weaver.woven(after)]


def _as_left(original: BaseMessage | None, shown: Message | None, message: Message) -> BaseMessage:
    if original is None or shown is None:
        return message_for(message)
    if message.content == shown.content:
        return original
    return message_for(message) if message.source_plugin is not None else with_text(original, message.content)
