"""The framework's messages as plugins see them, one for one, and plugins' messages as the framework keeps them.

A plugin's message is a message of the person's to the framework, whatever its role: some models take no other in the
middle of a conversation. Its identity is in `additional_kwargs`, which stays when a history is stored.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable, Sequence
from typing import Any, Final

from attrs import evolve
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from ally_plugins.adapters.kit.mirror import UNSHOWN, is_cut, recorded_call
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.conversation import Message
from ally_plugins.contract.values.errors import EventError, GateRefused
from ally_plugins.contract.values.shown import media, shown_text

__all__ = ["View", "answered", "convert", "is_persons", "message_for", "text_of", "with_text"]

MARK: Final = "ally_plugins"


def message_for(message: Message) -> HumanMessage:
    """Return a plugin's message as one of the framework's, marked as the plugin's towards the model."""
    kept = {"id": message.id, "role": message.role, "content": message.content, "metadata": thaw(message.metadata)}
    return HumanMessage(message.text_for_model, id=message.id, additional_kwargs={MARK: kept})


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
    kept = message.additional_kwargs.get(MARK)
    if not isinstance(kept, dict):
        return None
    texts, metadata = [kept.get("id"), kept.get("role"), kept.get("content")], kept.get("metadata")
    if not all(isinstance(text, str) for text in texts) or not isinstance(metadata, dict):
        return None
    try:
        return Message(id=kept["id"], role=kept["role"], content=kept["content"], metadata=metadata)
    except EventError:
        return None


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
    lines = text.split("\n")
    for line in _texts(message, without_text=True):
        if line in lines:
            lines.remove(line)
    kept = [block for block in message.content if isinstance(block, dict) and block.get("type") != "text"]
    return message.model_copy(update={"content": [{"type": "text", "text": "\n".join(lines)}, *kept]})


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

    def __init__(self, messages: Iterable[BaseMessage], session_id: str) -> None:
        self._originals: dict[str, tuple[BaseMessage, Message]] = {}
        for number, original in enumerate(messages, 1):
            for message in convert(original):
                for call in message.tool_calls:
                    if UNSHOWN in call.arguments and is_cut(str(original)):
                        text = (
                            f"the request cannot be shown to plugins: a call of {call.tool_name!r} in it is too large"
                        )
                        raise GateRefused(text, plugin=None)
                shown = message if message.id else evolve(message, id=f"{session_id}:m{number}")
                self._originals[shown.id] = original, shown
        self.messages = tuple(shown for _, shown in self._originals.values())

    def with_messages(self, after: Iterable[Message]) -> list[BaseMessage]:
        """Return the framework's messages as plugins' transforms left them."""
        return [self._as_left(message) for message in after]

    def _as_left(self, message: Message) -> BaseMessage:
        original, shown = self._originals.get(message.id, (None, None))
        if original is None or shown is None:
            return message_for(message)
        if message.content == shown.content:
            return original
        return message_for(message) if message.source_plugin is not None else with_text(original, message.content)
