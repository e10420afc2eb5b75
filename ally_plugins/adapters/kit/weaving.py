"""One request's messages as plugins see them, and the way back by message id: what they changed, dropped and added.

What a framework's messages are made of is left to its adapter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from attrs import evolve

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import Message

__all__ = ["ShownItem", "WovenItem", "rebuilt", "shown", "woven"]

T = TypeVar("T")

ShownItem: TypeAlias = "tuple[Any, Message | None]"
"""One of the framework's items, and the message that it is to plugins, None where it is none."""

WovenItem: TypeAlias = "tuple[Any, Message | None, Any]"
"""The framework's item, what plugins were shown of it and what they left; an item that is no message has neither, and a
message that plugins added has no item and was not shown."""


def shown(items: Iterable[ShownItem], session_id: str) -> Iterator[ShownItem]:
    """Yield the items of one request with ids in their messages: ones that the same history gets again.

    Plugins' messages keep theirs.
    """
    count = 0
    for item, message in items:
        if message is None or message.id:
            yield item, message
        else:
            count += 1
            yield item, evolve(message, id=f"{session_id}:m{count}")


def woven(items: Sequence[ShownItem], after: Iterable[Message]) -> Iterator[WovenItem]:
    """Yield the items that are left, in order, each followed by what was added behind it.

    What was added before the first message comes right before that, behind a system prompt.
    """
    known = {message.id for _, message in items if message is not None}
    left: dict[str, Message] = {}
    added: defaultdict[str, list[Message]] = defaultdict(list)
    anchor = ""
    for message in after:
        if message.id in known:
            left[message.id] = message
            anchor = message.id
        else:
            added[anchor].append(message)
    for item, before in items:
        if before is None:
            yield item, None, None
            continue
        # At the first message, not at the first item: a system prompt before it stays in front.
        for message in added.pop("", ()):
            yield None, None, message
        if (now := left.get(before.id)) is not None:
            yield item, before, now
            for message in added[before.id]:
                yield None, None, message
    # There was no message at all.
    for message in added.pop("", ()):
        yield None, None, message


def rebuilt(
    items: Iterable[WovenItem], changed: Callable[[T, Message], T], added: Callable[[Message], T]
) -> Iterator[T]:
    """Yield the framework's items as the messages have them now; those that are the same stay as they are.

    `changed(item, message)` returns an item of the framework's own with another text. `added(message)` returns an
    item for a plugin's message: one that is new, or whose text was changed.
    """
    for item, before, now in items:
        if now is None or (before is not None and before.content == now.content):
            yield item
        elif before is None or before.source_plugin is not None:
            yield added(now)
        else:
            yield changed(item, now)
