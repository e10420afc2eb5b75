"""Plugins' messages as a framework's history keeps them, and content of which a part is no text.

A framework that stores histories keeps a plugin's message as data of its own, from which it is known again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.conversation import Message
from ally_plugins.contract.values.errors import EventError

__all__ = ["MARK", "kept_data", "kept_message", "text_beside"]

MARK: Final = "ally_plugins"
"""The key in a framework's metadata under which a plugin's message is kept."""


def kept_data(message: Message) -> dict[str, Any]:
    """Return what a history is to keep of a plugin's message, beside its text for the model: plain JSON."""
    return {"id": message.id, "role": message.role, "content": message.content, "metadata": thaw(message.metadata)}


def kept_message(kept: Any, text: str | None) -> Message | None:
    """Return the plugin's message that a history has kept, None for what is none: histories are stored, and edited.

    `text` is what the model reads of it: with another than the message's own it is somebody else's, who bears the mark.
    """
    if not isinstance(kept, dict):
        return None
    texts, metadata = [kept.get("id"), kept.get("role"), kept.get("content")], kept.get("metadata")
    if not all(isinstance(text, str) for text in texts) or not isinstance(metadata, dict):
        return None
    try:
        message = Message(id=kept["id"], role=kept["role"], content=kept["content"], metadata=metadata)
    except EventError:
        return None
    return message if message.source_plugin is not None and message.text_for_model == text else None


def text_beside(text: str, described: Iterable[str]) -> str:
    """Return the text that plugins made of content without the lines that describe what is no text (an image).

    Those are for plugins only: the thing itself stays in the content.
    """
    lines = text.split("\n")
    for line in described:
        if line in lines:
            lines.remove(line)  # once for each: a person may have written the same line
    return "\n".join(lines)
