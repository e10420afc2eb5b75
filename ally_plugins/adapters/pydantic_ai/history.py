"""The framework's messages as plugins see them, and plugins' messages as the framework keeps them.

A plugin's message is a part of a request, whatever its role, since between two steps only requests may come; its
identity is in the part's metadata, which stays when the framework joins requests and when a history is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import singledispatch
from typing import Any

from pydantic_ai.messages import (
    BinaryContent,
    CachePoint,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryFeedbackPart,
    SpeechPart,
    SystemPromptPart,
    TextContent,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)

from ally_plugins.adapters.kit.kept_messages import MARK, kept_data, kept_message, text_beside
from ally_plugins.contract.tools.recorded_calls import recorded_call
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import Message, ToolCall
from ally_plugins.contract.values.shown import media

__all__ = ["MARK", "convert", "messages_of_part", "prompt_text", "request_for", "spoken", "text_of", "with_text"]


def request_for(message: Message) -> ModelRequest:
    """Return a plugin's message as a request of the framework's, marked as the plugin's towards the model."""
    kept = {MARK: kept_data(message)}
    if message.role == "system":
        return ModelRequest(parts=[SystemPromptPart(message.text_for_model, metadata=kept)])
    # In a list: a plain text has no metadata, and the plugin's identity would be lost.
    text = TextContent(message.text_for_model, metadata=kept)
    return ModelRequest(parts=[UserPromptPart([text])])


def convert(message: ModelMessage) -> Iterable[Message]:
    """Return the messages that one of the framework's holds, without ids but those of plugins' messages."""
    if isinstance(message, ModelResponse):
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        text = text_of(message)
        # A response of thoughts alone is no message for plugins.
        if text or calls:
            timestamp = int(message.timestamp.timestamp() * 1000)
            tool_calls: Any = [call_of_part(call) for call in calls]
            yield Message(role="assistant", content=text, tool_calls=tool_calls, timestamp=timestamp)
        return
    for part in message.parts:
        yield from messages_of_part(part)


def text_of(response: ModelResponse) -> str:
    """Return what the model said to the person, without thoughts."""
    return "".join(part.content for part in response.parts if isinstance(part, TextPart))


def call_of_part(call: ToolCallPart) -> ToolCall:
    """Return a call as plugins read it in the conversation."""
    return recorded_call(call.tool_name, call.args or {}, call.tool_call_id)


@singledispatch
def messages_of_part(_part: object) -> Iterable[Message]:
    """Return the message that a part of a request is; none for a part without content."""
    return ()


@messages_of_part.register
def _(part: SystemPromptPart) -> Iterable[Message]:
    return [kept_message((part.metadata or {}).get(MARK), part.content) or Message(role="system", content=part.content)]


@messages_of_part.register
def _(part: UserPromptPart) -> Iterable[Message]:
    timestamp = int(part.timestamp.timestamp() * 1000)
    if isinstance(part.content, str):
        return [Message(role="user", content=part.content, timestamp=timestamp)]
    # One alone: together with others it is the person's prompt, whatever its metadata.
    kept = _kept_in(part.content[0]) if len(part.content) == 1 else None
    return [kept or Message(role="user", content=_joined(part.content), timestamp=timestamp)]


@messages_of_part.register
def _(part: SpeechPart) -> Iterable[Message]:
    return [Message(role="user", content=_joined(spoken(part)))]


@messages_of_part.register
def _(part: ToolReturnPart) -> Iterable[Message]:
    return [Message(role="tool", content=part.model_response_str(), tool_call_id=part.tool_call_id)]


@messages_of_part.register
def _(part: RetryFeedbackPart) -> Iterable[Message]:
    return [Message(role="user", content=part.model_response())]


def spoken(part: SpeechPart) -> list[UserContent]:
    """Return what the person has spoken in a realtime session as content: its words, else the audio."""
    if part.transcript is not None:
        return [part.transcript]
    return [part.audio] if part.audio is not None else []


def _kept_in(item: UserContent) -> Message | None:
    if isinstance(item, TextContent) and isinstance(item.metadata, dict):
        return kept_message(item.metadata.get(MARK), item.content)
    return None


def prompt_text(prompt: str | Sequence[UserContent] | None) -> str | None:
    """Return the text of a prompt, None when there is none; what is not text (an image) is described by a line."""
    return prompt if prompt is None or isinstance(prompt, str) else _joined(prompt)


def _joined(items: Sequence[UserContent]) -> str:
    return "\n".join(item_text(item) for item in items if not isinstance(item, CachePoint))


def item_text(item: Any) -> str:
    """Return the text of one piece of content; what is not text (an image) is described as JSON."""
    if isinstance(item, str):
        return item
    return item.content if isinstance(item, TextContent) else encode(media_of(item)).decode()


def media_of(item: Any) -> dict[str, Any]:
    """Return what is shown of content that is not text: its kind, and its digest or where it lies."""
    if isinstance(item, BinaryContent):
        kinds = ("image", "audio", "video", "document")
        kind = next((kind for kind in kinds if getattr(item, f"is_{kind}", False)), "file")
        return media(kind, item.media_type, item.data) | _names(item, "_identifier")
    where = _names(item, "url", "file_id", "_identifier")
    return {"type": getattr(item, "kind", type(item).__name__), "mediaType": _media_type(item), **where}


def _names(item: Any, *names: str) -> dict[str, str]:
    """Return what names content, where it has it; an identifier that was given is read by the model."""
    return {name.removeprefix("_"): value for name in names if isinstance(value := getattr(item, name, None), str)}


def _media_type(item: Any) -> str | None:
    try:
        return str(item.media_type)
    except (AttributeError, ValueError):  # a URL need not show its media type
        return None


def with_text(prompt: str | Sequence[UserContent] | None, text: str) -> str | list[UserContent]:
    """Return a prompt with another text in place of all of its own; what is not text is kept.

    The lines that describe what is not text are for plugins only, and are left out.
    """
    if prompt is None or isinstance(prompt, str):
        return text
    kept = [item for item in prompt if not isinstance(item, (str, TextContent))]
    described = [item_text(item) for item in kept if not isinstance(item, CachePoint)]
    return [text_beside(text, described), *kept]
