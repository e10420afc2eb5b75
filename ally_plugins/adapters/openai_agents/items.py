"""The framework's items as plugins see them, and plugins' messages as items among them.

A plugin's message is an item of the person's, or of the system, with its identity under the key `ally_plugins`, which
stays in sessions and input lists, and is taken off before a model is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeAlias

from agents import ItemHelpers

from ally_plugins.adapters.kit.kept_messages import MARK, kept_data, kept_message, text_beside
from ally_plugins.adapters.kit.weaving import ShownItem, WovenItem, rebuilt
from ally_plugins.contract.tools.recorded_calls import recorded_call
from ally_plugins.contract.values.conversation import Message

__all__ = [
    "Group",
    "Item",
    "convert",
    "grouped",
    "item_for",
    "items_of",
    "items_with",
    "joined",
    "request_view",
    "said_last",
    "sent",
    "text_of",
    "with_text",
]

Item: TypeAlias = dict[str, Any]
Group: TypeAlias = tuple[Item, ...]
"""What one response of a model has in it; every other item is a group of its own."""


def item_for(message: Message) -> Item:
    """Return a plugin's message as an item, marked as the plugin's towards the model."""
    role = "system" if message.role == "system" else "user"
    return {"role": role, "content": message.text_for_model, MARK: kept_data(message)}


def sent(items: Iterable[Item]) -> list[Item]:
    """Return items as models take them, without the marks."""
    return [{key: value for key, value in item.items() if key != MARK} if MARK in item else item for item in items]


def _is_models(item: Item) -> bool:
    kind = item.get("type") or "message"
    return item.get("role") == "assistant" if kind == "message" else not kind.endswith(("_output", "_response"))


def said_last(items: Sequence[Item]) -> list[Item]:
    """Return what the person says in the items of an input, behind all that the model and its tools have said."""
    found: list[Item] = []
    for item in reversed(items):
        if _is_models(item) or "role" not in item:
            break
        if item["role"] == "user" and _kept(item) is None:
            found.insert(0, item)
    return found


def joined(items: Sequence[Item]) -> Item | None:
    """Return several messages of the person as one, None for none."""
    if len(items) < 2:  # noqa: PLR2004 - one stays what it is, a text a text
        return items[0] if items else None
    contents = (each["content"] for each in items)
    parts = [[{"type": "input_text", "text": each}] if isinstance(each, str) else each for each in contents]
    return {**items[-1], "content": [part for each in parts for part in each]}


def grouped(items: Iterable[Item], before: Sequence[Group] = ()) -> list[Group]:
    """Return items in groups; those that are as in `before`, in its place, are the same objects."""
    found: list[Group] = []
    for is_models, run in groupby(items, _is_models):
        group = tuple(run)
        found += [group] if is_models else [(item,) for item in group]
    return [old if old == new else new for old, new in zip(before, found, strict=False)] + found[len(before) :]


def convert(group: Group) -> Iterable[Message]:
    """Return the message that a group is, without an id but for a plugin's; none for thoughts alone."""
    item = group[0]
    if not _is_models(item):
        kept = _kept(item)
        if kept is not None or "role" in item or "call_id" in item:
            yield kept if kept is not None else _message(item)
        return
    text = "".join(text_of(each) for each in group if each.get("role") == "assistant")
    calls: Any = [_call(each) for each in group if each.get("call_id")]
    if text or calls:
        yield Message(role="assistant", content=text, tool_calls=calls)


def _kept(item: Item) -> Message | None:
    return kept_message(item[MARK], text_of(item)) if MARK in item else None


def _message(item: Item) -> Message:
    if "role" in item:
        role = "user" if item["role"] == "user" else "system"
        return Message(role=role, content=text_of(item))
    return Message(role="tool", content=text_of(item), tool_call_id=item["call_id"])


def _call(item: Item) -> Any:
    """Return a call of a function, or of a tool that the framework runs otherwise (a shell), by the item's type."""
    name = item.get("name") or item["type"].removesuffix("_call")
    return recorded_call(
        name, item.get("arguments") or item.get("action") or item.get("operation") or {}, item["call_id"]
    )


def text_of(item: Mapping[str, Any]) -> str:
    """Return the text of an item; what is not text (an image) is described by a line."""
    content = item.get("content", item.get("output"))
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(map(_part_text, content)) if isinstance(content, (list, tuple)) else str(content)


def _part_text(part: Any) -> str:
    if not isinstance(part, Mapping):
        return str(part)
    text = part.get("text", part.get("refusal"))
    return text if isinstance(text, str) else json.dumps(_described(part), sort_keys=True)


def _described(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return what media are: data are named by their size and digest, whatever else by where they lie."""
    import hashlib

    found: dict[str, Any] = {}
    for key, value in part.items():
        is_data = isinstance(value, str) and (value.startswith("data:") or key.endswith("_data"))
        found[key] = {"bytes": len(value), "sha256": hashlib.sha256(value.encode()).hexdigest()} if is_data else value
    return found


def with_text(item: Item, text: str) -> Item:
    """Return an item with another text in place of all of its own; what is not text is kept."""
    key = "output" if "output" in item else "content"
    content = item[key]
    if isinstance(content, str):
        return {**item, key: text}
    texts = [part for part in content if isinstance(part.get("text", part.get("refusal")), str)]
    others = [part for part in content if part not in texts]
    kind = "output_text" if item.get("role") == "assistant" else "input_text"
    return {
        **item,
        key: [
            {**(texts[0] if texts else {}), "type": kind, "text": text_beside(text, map(_part_text, others))},
            *others,
        ],
    }


def request_view(items: Iterable[Item]) -> Iterator[ShownItem]:
    """Yield a request's items in groups, each with the message that it is."""
    return ((group, next(iter(convert(group)), None)) for group in grouped(items))


def items_with(view: Iterable[WovenItem]) -> list[Item]:
    """Return a request's items as plugins left them: changed, without those that are gone, with new ones."""
    return [item for group in rebuilt(view, _changed, lambda new: (item_for(new),)) for item in group]


def _changed(group: Group, message: Message) -> Group:
    if message.role != "assistant":
        return (with_text(group[0], message.content),)
    spoken = [item for item in group if item.get("role") == "assistant"]
    made = [item for item in group if item not in spoken[1:]]
    if not spoken:
        return tuple(made)
    at = made.index(spoken[0])
    return (*made[:at], *([with_text(spoken[0], message.content)] if message.content else []), *made[at + 1 :])


def items_of(given: Any) -> list[Item]:
    """Return what a run was given as items."""
    return [dict(item) for item in ItemHelpers.input_to_new_input_list(given)]
