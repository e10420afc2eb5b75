"""The framework's messages as plugins see them, and the way back: plugins' messages, and what they changed.

A message of the framework is a list of blocks: a message of ours is one or several of them. A plugin's message is a
block of text in one of the person's, whatever its role, since roles have to alternate; its identity is in the metadata
of that message, which the framework stores and never sends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.adapters.kit.kept_messages import MARK, kept_data, kept_message, text_beside
from ally_plugins.adapters.kit.weaving import rebuilt
from ally_plugins.contract.tools.recorded_calls import recorded_call
from ally_plugins.contract.tools.returned import changed_value
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import Message, ToolResult
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.shown import media, shown_data, shown_text

if TYPE_CHECKING:
    from strands.types.content import Message as Entry

    from ally_plugins.adapters.kit.weaving import ShownItem, WovenItem

__all__ = [
    "behind",
    "convert",
    "pieces",
    "result_of",
    "said_last",
    "shown_of",
    "text_of",
    "unwoven",
    "with_result",
    "with_text",
]

_MEDIA: Final = frozenset({"image", "document", "video", "audio"})


def behind(history: Sequence[Any], messages: Sequence[Message]) -> list[Any]:
    """Return a history with plugins' messages behind all that stands there, in its last message if that is a person's.

    What is given stays as it is. In one request alone the marks do no harm: no model is sent them.
    """
    if not messages:
        return list(history)
    is_open = bool(history) and history[-1]["role"] == "user"
    last: Any = history[-1] if is_open else {"role": "user", "content": []}
    metadata, texts = last.get("metadata") or {}, [{"text": message.text_for_model} for message in messages]
    custom = {**(metadata.get("custom") or {}), MARK: [*_kept(last), *map(kept_data, messages)]}
    made = {**last, "content": [*last["content"], *texts], "metadata": {**metadata, "custom": custom}}
    return [*(history[:-1] if is_open else history), made]


def convert(entry: Entry) -> Iterable[Message]:
    """Return the messages that one of the framework's holds, without ids but those of plugins' messages."""
    return [message for message, _ in _parts(entry) if message is not None]


def _parts(entry: Any) -> list[tuple[Message | None, list[Any]]]:
    """Return the messages in one of the framework's, each with its blocks; None of blocks that are no message."""
    if entry["role"] == "assistant":
        calls = [each["toolUse"] for each in entry["content"] if "toolUse" in each]
        made = [recorded_call(each["name"], each["input"], each["toolUseId"]) for each in calls]
        text = text_of(entry["content"])
        message = Message(role="assistant", content=text, tool_calls=made) if text or made else None
        return [(message, entry["content"])]
    marks = _kept(entry)
    found: list[tuple[Message | None, list[Any]]] = []
    for block in entry["content"]:
        number, plugins = next(_plugins(marks, block.get("text")), (0, None))
        if plugins is not None:
            marks = [*marks[:number], *marks[number + 1 :]]
            found.append((plugins, [block]))
        elif "toolResult" in block:
            result = block["toolResult"]
            text, call_id = shown_of(result["content"]), result["toolUseId"]
            found.append((Message(role="tool", content=text, tool_call_id=call_id), [block]))
        elif found and (found[-1][0] is None or "cachePoint" in block):
            found[-1][1].append(block)
        else:
            found.append((None, [block]))
    return [(message or Message(role="user", content=shown_of(blocks)), blocks) for message, blocks in found]


def _plugins(marks: Sequence[Any], text: str | None) -> Iterator[tuple[int, Message]]:
    """Yield the plugins' messages among these marks that have a text, each with its place."""
    for number, mark in enumerate(marks):
        if (message := kept_message(mark, text)) is not None:
            yield number, message


def _kept(entry: Any) -> list[Any]:
    metadata = entry.get("metadata") or {}
    kept = (metadata.get("custom") or {}).get(MARK)
    return kept if isinstance(kept, list) else []


def said_last(entries: Sequence[Any]) -> list[Any]:
    """Return what the person says at the end of a list of messages, behind what the model and tools have said."""
    found: list[Any] = []
    for entry in reversed(entries):
        if any(message.role == "user" and message.source_plugin is None for message in convert(entry)):
            found.insert(0, entry)
        if entry["role"] == "assistant" or any("toolResult" in block for block in entry["content"]):
            break
    return found


def text_of(blocks: Iterable[Any]) -> str:
    """Return what the model said to the person, without thoughts."""
    texts = []
    for block in blocks:
        cited = block.get("citationsContent", {}).get("content", ())
        texts += [each["text"] for each in (block, *cited) if isinstance(each.get("text"), str)]
    return "".join(texts)


def shown_of(blocks: Iterable[Any]) -> str:
    """Return blocks as one text; what is no text (an image) is described by a line."""
    return shown_text("\n".join(_line(block) for block in blocks if "cachePoint" not in block))


def _line(block: Any) -> str:
    if "text" in block:
        text = block["text"]
        # The text itself, which the model reads: a subclass may print another.
        return text if isinstance(text, str) else str(text)
    if "json" in block:
        return json.dumps(block["json"], ensure_ascii=False, default=repr)
    kind = next(iter(block), "")
    held = block[kind] if kind in _MEDIA else {}
    content, media_type = held.get("source", {}).get("bytes"), held.get("format")
    shown = media(kind, media_type, content) if isinstance(content, bytes) else {"type": kind, "mediaType": media_type}
    return encode(shown).decode()


def with_text(blocks: Iterable[Any], text: str) -> list[Any]:
    """Return blocks with another text in place of all of theirs, before what is no text.

    The lines that describe what is no text are for plugins only, and are left out.
    """
    kept = [block for block in blocks if "text" not in block and "citationsContent" not in block]
    left = text_beside(text, [_line(block) for block in kept if "cachePoint" not in block])
    first = [block for block in kept if "reasoningContent" in block]  # a thought stands before what it led to
    rest = [block for block in kept if "reasoningContent" not in block]
    said = [{"text": left}] if left.strip("\n") else []
    return [*first, *said, *rest]


# --- results of tools ---


def result_of(given: Any) -> ToolResult:
    """Return a tool's result as plugins are shown it."""
    is_failure = isinstance(given, dict) and given.get("status") == "error"
    try:
        blocks = given["content"]
        data = [shown_data(block["json"]) for block in blocks if "json" in block]
        text = shown_of(blocks)
    except (EventError, TypeError, ValueError, KeyError, RecursionError) as error:
        return ToolResult(success=not is_failure, unshown=f"{type(error).__name__}: {error}")
    if is_failure:
        return ToolResult(success=False, error=text)
    return ToolResult(success=True, output=text, data=data[0] if data and len(blocks) == 1 else None)


def with_result(given: Any, before: ToolResult, after: ToolResult) -> Any:
    """Return the framework's result as transforms left it."""
    if after is before:
        return given
    if not after.success:
        return {**given, "status": "error", "content": [{"text": after.error or "the output is withheld"}]}
    changed = changed_value(before, after)
    return {**given, "content": [{"text": changed} if changed is after.output else {"json": changed}]}


# --- requests to the model ---


def pieces(history: Iterable[Any]) -> Iterator[ShownItem]:
    """Yield one request's messages as plugins see them, each with its blocks and the framework's that has those."""
    for entry in history:
        for message, blocks in _parts(entry):
            yield (entry, blocks), message


def unwoven(items: Iterable[WovenItem]) -> list[Any]:
    """Return the history as plugins left it; what they added stands in the person's messages.

    What follows each other with one role is one message.
    """
    found: list[Any] = []
    for entry, blocks in rebuilt(items, _changed, lambda new: ({"role": "user"}, [{"text": new.text_for_model}])):
        if found and found[-1]["role"] == entry["role"]:
            found[-1]["content"] += blocks
        elif blocks:
            found.append({**entry, "content": list(blocks)})
    return found


def _changed(piece: tuple[Any, list[Any]], after: Message) -> tuple[Any, list[Any]]:
    entry, blocks = piece
    if after.role != "tool":
        return entry, with_text(blocks, after.content)
    result = {**blocks[0]["toolResult"], "content": [{"text": after.content}]}
    return entry, [{"toolResult": result}, *blocks[1:]]
