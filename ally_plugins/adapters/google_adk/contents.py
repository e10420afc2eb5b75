"""The framework's contents as plugins see them, and the way back: plugins' messages, and what they changed.

A plugin's message is an event of a session with the author `user`; its identity is in the event's custom metadata.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final

from google.adk.events import Event
from google.genai.types import Content, FunctionResponse, Part

from ally_plugins.adapters.kit.kept_messages import MARK, kept_data, kept_message, text_beside
from ally_plugins.adapters.kit.mending import mended_value, new_call_id
from ally_plugins.adapters.kit.weaving import ShownItem, WovenItem, rebuilt
from ally_plugins.contract.tools.recorded_calls import recorded_call
from ally_plugins.contract.tools.returned import changed_value, result_of_value
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import Message, ToolResult
from ally_plugins.contract.values.shown import media, shown_text

__all__ = [
    "content_of",
    "convert",
    "event_of",
    "items_of",
    "mended",
    "result_of",
    "shown_of",
    "text_of",
    "unwoven",
    "value_of",
    "with_text",
]

_ASKING: Final = "adk_request_"
"""How the names of calls begin that the framework makes itself, to ask the person."""


def content_of(message: Message) -> Content:
    """Return a plugin's message as a content of a request."""
    return Content(role="user", parts=[Part(text=message.text_for_model)])


def event_of(message: Message, invocation_id: str) -> Event:
    """Return a plugin's message as an event of a session."""
    marks = {MARK: kept_data(message)}
    return Event(author="user", content=content_of(message), custom_metadata=marks, invocation_id=invocation_id)


def convert(event: Event) -> Iterable[Message]:
    """Return the messages that an event of a session holds, without ids but those of plugins' messages."""
    if event.partial or event.content is None:
        return []
    if (kept := _kept(event)) is not None:
        return [kept]
    return [message for _, message in _items(event.content) if message is not None]


def _kept(event: Event) -> Message | None:
    parts = (event.content.parts if event.content is not None else None) or []
    return kept_message((event.custom_metadata or {}).get(MARK), parts[0].text if len(parts) == 1 else None)


def _items(content: Content) -> list[tuple[list[Part], Message | None]]:
    """Return the parts of a content, each run of them with the message that it is."""
    parts = content.parts or []
    if content.role == "model":
        calls = [part.function_call for part in parts if part.function_call is not None]
        own = [call for call in calls if not (call.name or "").startswith(_ASKING)]
        made = [recorded_call(call.name or "", call.args or {}, call.id) for call in own]
        text = text_of(parts)
        return [(parts, Message(role="assistant", content=text, tool_calls=made) if text or made else None)]
    found: list[tuple[list[Part], Message | None]] = []
    said: list[Part] = []
    for part in parts:
        response = part.function_response
        if response is None:
            said.append(part)
        elif (response.name or "").startswith(_ASKING):
            found.append(([part], None))
        else:
            result = result_of(response.response)
            text = result.output if result.success else result.error or ""
            found.append(([part], Message(role="tool", content=text, tool_call_id=response.id)))
    if said:
        found.append((said, Message(role="user", content=shown_of(said))))
    return found


def text_of(parts: Iterable[Part]) -> str:
    """Return what the model said to the person, without thoughts."""
    return "".join(part.text for part in parts if part.text and not part.thought)


def shown_of(parts: Iterable[Part]) -> str:
    """Return parts as one text; what is no text (an image) is described by a line."""
    return shown_text("\n".join(_line(part) for part in parts))


def _line(part: Part) -> str:
    if part.text is not None:
        return part.text
    blob, file = part.inline_data, part.file_data
    if blob is not None:
        return encode(media("file", blob.mime_type, blob.data or b"")).decode()
    return encode(
        {"type": "file", "mediaType": file.mime_type, "url": file.file_uri} if file else {"type": "part"}
    ).decode()


def with_text(parts: Iterable[Part], text: str) -> list[Part]:
    """Return parts with another text in place of all of theirs, before what is no text; thoughts stay first."""
    kept = [part for part in parts if part.text is None or part.thought]
    thoughts, others = ([part for part in kept if bool(part.thought) is is_thought] for is_thought in (True, False))
    said = text_beside(text, map(_line, others))
    return [*thoughts, *([Part(text=said)] if said else []), *others]


def mended(parts: list[Part]) -> list[Part]:
    """Return parts of an answer that can be sent back: their text is UTF-8, and each call has an id of its own."""
    taken = set[str]()
    found = [_mended_part(part, taken) for part in parts]
    return parts if found == parts else found


def _mended_part(part: Part, taken: set[str]) -> Part:
    call = part.function_call
    if call is not None:
        call_id = new_call_id(call.id, taken) if call.id else call.id
        changed = call.model_copy(update={"args": mended_value(call.args), "id": call_id})
        return part.model_copy(update={"function_call": changed})
    return part if part.text is None else part.model_copy(update={"text": shown_text(part.text)})


# --- results of tools ---


def result_of(value: Any) -> ToolResult:
    """Return a tool's result as plugins are shown it: what the model reads is an object with `result` or `error`."""
    if isinstance(value, dict) and [*value] == ["error"]:
        failure = result_of_value(value["error"])  # as JSON, which the model reads too: `str` may leave things out
        return ToolResult(success=False, error=failure.output, unshown=failure.unshown)
    is_wrapped = isinstance(value, dict) and [*value] == ["result"]
    return result_of_value(value["result"] if is_wrapped else value)


def value_of(before: ToolResult, after: ToolResult) -> dict[str, Any]:
    """Return what the framework is to give the model, as transforms left it."""
    if not after.success:
        return {"error": after.error or "it failed without a reason"}
    made = changed_value(before, after)
    return made if isinstance(made, dict) else {"result": made}


# --- requests to the model ---


def items_of(contents: Iterable[Content], events: Iterable[Event]) -> Iterator[ShownItem]:
    """Yield a request's contents as plugins see them; their messages are known by the text that they have in `events`.

    Each is the role of a content with some of its parts.
    """
    marked: defaultdict[str, list[Message]] = defaultdict(list)
    for event in events:
        if (kept := _kept(event)) is not None:
            marked[kept.text_for_model].insert(0, kept)
    for content in contents:
        for parts, message in _items(content):
            known = marked[message.content] if message is not None and message.role == "user" else None
            yield (content.role, parts), known.pop() if known else message


def unwoven(items: Iterable[WovenItem]) -> list[Content]:
    """Return a request's contents as plugins left them: what follows each other with one role is one content."""
    found: list[Content] = []
    for role, parts in rebuilt(items, _changed, lambda new: ("user", [Part(text=new.text_for_model)])):
        if found and found[-1].role == role:
            found[-1] = Content(role=role, parts=[*(found[-1].parts or ()), *parts])
        else:
            found.append(Content(role=role, parts=list(parts)))
    return found


def _changed(item: tuple[str | None, list[Part]], now: Message) -> tuple[str | None, list[Part]]:
    role, parts = item
    response = parts[0].function_response if now.role == "tool" else None
    if response is None:
        return role, with_text(parts, now.content)
    changed = FunctionResponse(id=response.id, name=response.name, response={"result": now.content})
    return role, [Part(function_response=changed)]
