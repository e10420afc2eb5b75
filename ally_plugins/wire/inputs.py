"""What transforms of the model's input answer, as JSON and back: sections of the system prompt, and whole inputs.

A message that the input has is sent as its id and what changed; an id that the input does not have is a new message
and is sent whole. Whether it may change so is left to `policy`.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_not
from typing import Any

import attrs

from ally_plugins.contract.shapes import described_json
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import Message, ModelInput, PromptSection
from ally_plugins.contract.values.errors import EventError

from .values import message_from_wire, message_to_wire, sections_from_wire, sections_to_wire

__all__ = ["input_changes", "input_from_changes", "section_changes", "sections_from_changes"]

Differ = Callable[[dict[str, Any], dict[str, Any], str], bool]


def section_changes(new: tuple[PromptSection, ...]) -> dict[str, Any]:
    """Return all sections, as the one field of a replacement. Raises TypeError for what is none."""
    for index, section in enumerate(new):
        if type(section) is not PromptSection:
            raise TypeError(f"sections[{index}] is of the type {type(section).__name__}")
    changes = {"sections": sections_to_wire(new)}
    encode(changes)  # raises EncodeError, rather than when it is sent
    return changes


def sections_from_changes(changes: dict[str, Any]) -> tuple[PromptSection, ...]:
    """Return the sections of a replacement. Raises EventError."""
    return sections_from_wire(changes.get("sections"))


def input_changes(old: ModelInput, new: ModelInput, differ: Differ) -> dict[str, Any]:
    """Return the fields of a model's input that differ. Raises TypeError, AttributeError for what JSON lacks."""
    before, after = ({"model": each.model, "settings": each.settings} for each in (old, new))
    changes: dict[str, Any] = {key: after[key] for key in before if differ(before, after, key)}
    # By identity: whoever changes a message makes another one, and a conversation is long.
    if len(old.messages) != len(new.messages) or any(map(is_not, old.messages, new.messages)):
        by_id = {message.id: message for message in old.messages}
        changes["messages"] = [_message_changes(by_id.get(message.id), message, differ) for message in new.messages]
    encode(changes)  # as above; EncodeError is a TypeError
    return changes


def _message_changes(old: Message | None, message: Message, differ: Differ) -> dict[str, Any]:
    # The id stands for the whole message, so that a long conversation is not sent back.
    if old is not None and old is message:
        return {"id": old.id}
    after = message_to_wire(message)
    if old is None:
        return after
    before = message_to_wire(old)
    return {"id": old.id} | {key: after.get(key) for key in {**before, **after} if differ(before, after, key)}


def input_from_changes(old: ModelInput, changes: dict[str, Any]) -> ModelInput:
    """Return the model's input with the fields of a replacement on top. Raises EventError."""
    fields = dict(changes)
    if "messages" in fields:
        fields["messages"] = _messages(old, fields["messages"])
    return attrs.evolve(old, **fields)


def _messages(old: ModelInput, given: Any) -> tuple[Message, ...]:
    if not isinstance(given, list):
        raise EventError(f"messages is {described_json(given)}; expected a list", path="messages")
    by_id = {message.id: message for message in old.messages}
    return tuple([_message(by_id, item, f"messages[{index}]") for index, item in enumerate(given)])


def _message(by_id: dict[str, Message], item: Any, path: str) -> Message:
    name = item.get("id") if isinstance(item, dict) else None
    message = by_id.get(name) if isinstance(name, str) else None
    if message is None:
        return message_from_wire(item, path)
    if "content" not in item:
        return message
    # Read whole, so that every field is checked; all but the content stays, as with an inline plugin's.
    return attrs.evolve(message, content=message_from_wire({**message_to_wire(message), **item}, path).content)
