"""The framework's messages as plugins see them, one for one, and plugins' messages as the framework keeps them.

A plugin's message is a message of the person's to the framework, whatever its role: some models take no other in the
middle of a conversation. Its identity is in `additional_kwargs`, which stays when a history is stored.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

from ally_plugins.adapters.kit.kept_messages import MARK, kept_data, kept_message, text_beside
from ally_plugins.adapters.kit.mending import mended_value, new_call_id
from ally_plugins.contract.tools.recorded_calls import recorded_call
from ally_plugins.contract.values.conversation import Message
from ally_plugins.contract.values.shown import media, shown_text

__all__ = ["CUT", "answered", "convert", "is_persons", "mended", "message_for", "refusal_of", "text_of", "with_text"]

M = TypeVar("M", bound=BaseMessage)

_PERSONS: Final = frozenset({"user", "human"})

CUT: Final = "not run: the turn was interrupted"


def message_for(message: Message) -> HumanMessage:
    """Return a plugin's message as one of the framework's, marked as the plugin's towards the model."""
    return HumanMessage(message.text_for_model, id=message.id, additional_kwargs={MARK: kept_data(message)})


def is_persons(message: BaseMessage) -> bool:
    """Return whether a message is the person's own, and no plugin's."""
    is_users = isinstance(message, HumanMessage) or (isinstance(message, ChatMessage) and message.role in _PERSONS)
    return is_users and _kept(message) is None


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
    mark = message.additional_kwargs.get(MARK)
    return None if mark is None else kept_message(mark, text_of(message))


def text_of(message: BaseMessage) -> str:
    """Return the text of a message, without thoughts and calls; what is no text (an image) is described as JSON."""
    if isinstance(message.content, str) or isinstance(message, AIMessage):
        return shown_text(message.text)  # of a subclass of str, the text itself
    return shown_text("\n".join(_texts(message)))


def refusal_of(message: BaseMessage) -> str:
    """Return why a model refuses, in its words, which stand beside its text; empty where it does not."""
    blocks = message.content if isinstance(message.content, list) else []
    said = [message.additional_kwargs.get("refusal")]
    said += [block.get("refusal") for block in blocks if isinstance(block, dict)]
    return shown_text("\n".join(each for each in said if isinstance(each, str) and each))


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


def with_text(message: M, text: str) -> M:
    """Return a message with another text in place of all of its own; what is not text is kept where it is."""
    if isinstance(message.content, str):
        return message.model_copy(update={"content": text})
    if not isinstance(message, AIMessage):
        text = text_beside(text, _texts(message, without_text=True))
    content: list[Any] = []
    said: Any = {"type": "text", "text": text}
    for block in message.content:
        if not isinstance(block, str) and block.get("type") != "text":
            content.append(block)
        elif said is not None:
            content.append(said if isinstance(block, str) else {**block, **said})
            said = None
    return message.model_copy(update={"content": content if said is None else [said, *content]})


def mended(message: M) -> M:
    """Return a message that can be sent back: its text is UTF-8, and each of its calls has an id of its own."""
    left: dict[str, Any] = {"content": mended_value(message.content)}
    if isinstance(message, AIMessage):
        taken, also = set[str](), set[str]()
        for name in ("tool_calls", "invalid_tool_calls"):
            calls = mended_value(getattr(message, name))
            left[name] = [{**each, "id": new_call_id(each["id"], taken)} if each["id"] else each for each in calls]
        if not isinstance(left["content"], str):  # where a provider's own blocks name the calls again
            left["content"] = [_with_call_id(each, also) for each in left["content"]]
    changed = {name: value for name, value in left.items() if value != getattr(message, name)}
    return message.model_copy(update=changed) if changed else message


def _with_call_id(block: Any, taken: set[str]) -> Any:
    if isinstance(block, str) or block.get("type") not in {"tool_use", "tool_call", "function_call"}:
        return block
    key = "call_id" if "call_id" in block else "id"
    return {**block, key: new_call_id(block[key], taken)} if block.get(key) else block


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
