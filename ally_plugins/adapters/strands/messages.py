"""The framework's messages as plugins see them, and the way back: plugins' messages, and what they changed.

A message of the framework is a list of blocks: a message of ours is one or several of them. A plugin's message is a
block of text in one of the person's, whatever its role, since roles have to alternate; its identity is in the metadata
of that message, which the framework stores and never sends.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve, frozen

from ally_plugins.adapters.kit.mirror import UNSHOWN, is_cut, recorded_call
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import Message, ToolResult
from ally_plugins.contract.values.errors import EventError, GateRefused
from ally_plugins.contract.values.shown import media, shown_data, shown_text

if TYPE_CHECKING:
    from strands.types.content import Message as Entry

__all__ = ["Woven", "add_messages", "convert", "prompt_of", "result_of", "text_of", "with_result", "with_text"]

MARK: Final = "ally_plugins"
"""The key of a message's custom metadata under which the plugins' messages in it are kept."""

_MEDIA: Final = frozenset({"image", "document", "video", "audio"})


def add_messages(entry: Any, messages: Iterable[Message]) -> None:
    """Put plugins' messages behind all that stands in one of the person's messages, or in the results of a step."""
    for message in messages:
        kept = entry.setdefault("metadata", {}).setdefault("custom", {}).setdefault(MARK, [])
        entry["content"].append({"text": message.text_for_model})
        about = {"id": message.id, "role": message.role, "content": message.content}
        kept.append({**about, "metadata": thaw(message.metadata)})


def convert(entry: Entry) -> Iterable[Message]:
    """Return the messages that one of the framework's holds, without ids but those of plugins' messages."""
    return [message for message, _ in _parts(entry)]


def _parts(entry: Any) -> list[tuple[Message, list[Any]]]:
    """Return the messages in one of the framework's, each with its blocks."""
    if entry["role"] == "assistant":
        calls = [each["toolUse"] for each in entry["content"] if "toolUse" in each]
        made = [recorded_call(each["name"], each["input"], each["toolUseId"]) for each in calls]
        text = text_of(entry["content"])
        if not text and not made:
            return []
        return [(Message(role="assistant", content=text, tool_calls=made), entry["content"])]
    kept = [message for each in _kept(entry) if (message := _plugins_message(each)) is not None]
    found: list[tuple[Message | None, list[Any]]] = []
    for block in entry["content"]:
        plugins = next((each for each in kept if each.text_for_model == block.get("text")), None)
        if plugins is not None:
            kept.remove(plugins)
            found.append((plugins, [block]))
        elif "toolResult" in block:
            result = block["toolResult"]
            text, call_id = _shown(result["content"]), result["toolUseId"]
            found.append((Message(role="tool", content=text, tool_call_id=call_id), [block]))
        elif found and (found[-1][0] is None or "cachePoint" in block):
            found[-1][1].append(block)
        else:
            found.append((None, [block]))
    return [(message or Message(role="user", content=_shown(blocks)), blocks) for message, blocks in found]


def _kept(entry: Any) -> list[Any]:
    metadata = entry.get("metadata") or {}
    kept = (metadata.get("custom") or {}).get(MARK)
    return kept if isinstance(kept, list) else []


def _plugins_message(kept: Any) -> Message | None:
    """Return the plugin's message that is kept, None when it is not one (histories are stored)."""
    try:
        return Message(id=kept["id"], role=kept["role"], content=kept["content"], metadata=kept["metadata"])
    except (EventError, TypeError, KeyError, AttributeError):
        return None


def text_of(blocks: Iterable[Any]) -> str:
    """Return what the model said to the person, without thoughts."""
    texts = []
    for block in blocks:
        cited = block.get("citationsContent", {}).get("content", ())
        texts += [each["text"] for each in (block, *cited) if isinstance(each.get("text"), str)]
    return "".join(texts)


def _shown(blocks: Iterable[Any]) -> str:
    """Return blocks as one text; what is no text (an image) is described by a line."""
    return shown_text("\n".join(_line(block) for block in blocks if "cachePoint" not in block))


def _line(block: Any) -> str:
    if "text" in block:
        return str(block["text"])
    if "json" in block:
        return json.dumps(block["json"], ensure_ascii=False, default=repr)
    kind = next(iter(block), "")
    held = block[kind] if kind in _MEDIA else {}
    content, media_type = held.get("source", {}).get("bytes"), held.get("format")
    shown = media(kind, media_type, content) if isinstance(content, bytes) else {"type": kind, "mediaType": media_type}
    return encode(shown).decode()


def prompt_of(entry: Entry) -> str:
    """Return the text of the person's message; what is no text is described by a line."""
    return _shown(entry["content"])


def with_text(blocks: Iterable[Any], text: str) -> list[Any]:
    """Return blocks with another text in place of all of theirs, before what is no text.

    The lines that describe what is no text are for plugins only, and are left out.
    """
    kept = [block for block in blocks if "text" not in block]
    lines = text.split("\n")
    for block in kept:
        if "cachePoint" not in block and (line := _line(block)) in lines:
            lines.remove(line)
    first = [block for block in kept if "reasoningContent" in block]  # a thought stands before what it led to
    rest = [block for block in kept if "reasoningContent" not in block]
    said = [{"text": "\n".join(lines)}] if any(lines) else []
    return [*first, *said, *rest]


# --- results of tools ---


def result_of(given: Any) -> ToolResult:
    """Return a tool's result as plugins are shown it."""
    is_failure = isinstance(given, dict) and given.get("status") == "error"
    try:
        blocks = given["content"]
        data = [shown_data(block["json"]) for block in blocks if "json" in block]
        text = _shown(blocks)
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
    is_data = after.data is not None and after.data != before.data  # without its data, the text is left
    return {**given, "content": [{"json": thaw(after.data)} if is_data else {"text": after.output}]}


# --- requests to the model ---


@frozen
class _Piece:
    """One message of a request with the blocks that it is, in the framework's message number `index`."""

    index: int
    role: str
    message: Message | None
    blocks: list[Any]


class Woven:
    """One request's messages as plugins see them, and the way back: what was changed, dropped and added, by id.

    Raises GateRefused for a request with a call that is too large to be shown.
    """

    def __init__(self, history: Sequence[Entry], session_id: str) -> None:
        self._history = history
        self._pieces: list[_Piece] = []
        count = 0
        for index, entry in enumerate(history):
            parts = _parts(entry)
            if not parts:
                self._pieces.append(_Piece(index, entry["role"], None, entry["content"]))
            for message, blocks in parts:
                _check_calls(message, blocks)
                if not message.id:
                    count += 1
                    message = evolve(message, id=f"{session_id}:m{count}")  # noqa: PLW2901 - with its id
                self._pieces.append(_Piece(index, entry["role"], message, blocks))
        self.messages = tuple(piece.message for piece in self._pieces if piece.message is not None)

    def with_messages(self, after: Iterable[Message]) -> list[Any]:
        """Return the history as the messages have it now; what was added stands in the person's messages."""
        own = {message.id for message in self.messages}
        kept: dict[str, Message] = {}
        added: defaultdict[str, list[Any]] = defaultdict(list)
        anchor = ""
        for message in after:
            if message.id in own:
                kept[message.id] = message
                anchor = message.id
            else:
                added[anchor].append({"text": message.text_for_model})
        made: list[tuple[int, str, list[Any]]] = [(-1, "user", added[""])]
        for piece in self._pieces:
            changed = kept.get(piece.message.id) if piece.message is not None else None
            if piece.message is None or changed is not None:
                made.append((piece.index, piece.role, _changed(piece, changed)))
            if changed is not None:
                made.append((piece.index if piece.role == "user" else -1, "user", added[changed.id]))
        return self._joined(made)

    def _joined(self, pieces: Iterable[tuple[int, str, list[Any]]]) -> list[Any]:
        """Return messages of the framework: what follows each other with one role is one message."""
        found: list[Any] = []
        for index, role, blocks in pieces:
            if not blocks:
                continue
            if found and found[-1]["role"] == role:
                found[-1]["content"] += blocks
            else:
                head = copy.copy(self._history[index]) if index >= 0 else {"role": role}
                found.append({**head, "content": list(blocks)})
        return found


def _check_calls(message: Message, blocks: Iterable[Any]) -> None:
    if any(UNSHOWN in call.arguments for call in message.tool_calls) and any(
        is_cut(repr(block["toolUse"]["input"])) for block in blocks if "toolUse" in block
    ):
        raise GateRefused("the request cannot be shown to plugins: a call in it is too large", plugin=None)


def _changed(piece: _Piece, after: Message | None) -> list[Any]:
    before = piece.message
    if before is None or after is None or after.content == before.content:
        return piece.blocks
    if before.role == "tool":
        result = {**piece.blocks[0]["toolResult"], "content": [{"text": after.content}]}
        return [{"toolResult": result}, *piece.blocks[1:]]
    if before.source_plugin is not None:
        return [{"text": after.text_for_model}, *piece.blocks[1:]]
    return with_text(piece.blocks, after.content)
