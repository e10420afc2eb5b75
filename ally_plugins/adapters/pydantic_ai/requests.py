"""One request's messages as plugins see them, and the way back: what they changed, dropped and added, by message id."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolReturnPart,
    UserPromptPart,
    repair_messages,
)

from .history import convert, messages_of_part, request_for, with_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic_ai.messages import ModelMessage, ModelRequestPart

    from ally_plugins.adapters.kit.weaving import ShownItem, WovenItem
    from ally_plugins.contract.values.conversation import Message

__all__ = ["items_of", "unwoven"]


def items_of(history: list[ModelMessage]) -> Iterator[ShownItem]:
    """Yield the responses and the parts of requests with their places, and the message that each of them is.

    The system prompt is none, nor are parts that change what tools there are.
    """
    for number, message in enumerate(history):
        if isinstance(message, ModelResponse):
            yield (number, message), next(iter(convert(message)), None)
            continue
        for part in message.parts:
            # The agent's own prompt is changed as a section, and not as a message.
            is_prompt = isinstance(part, SystemPromptPart) and not part.metadata
            yield (number, part), None if is_prompt else next(iter(messages_of_part(part)), None)


def unwoven(woven: Iterable[WovenItem], history: list[ModelMessage]) -> list[ModelMessage]:
    """Return the history as plugins left it; it is valid again where whole messages are gone.

    What was added behind an answer comes with what answers it, before that.
    """
    made: list[tuple[int | None, list[Any]]] = []
    carried: list[ModelRequestPart] = []
    for place, before, now in woven:
        if place is None:
            # A response is followed by its results, and a request between them would part the two.
            is_behind = made and isinstance(made[-1][1][-1], ModelResponse)
            (carried if is_behind or not made else made[-1][1]).extend(request_for(now).parts)
            continue
        number, item = place
        if not made or made[-1][0] != number:
            made.append((number, []))
        if before is not None and not isinstance(item, ModelResponse):
            made[-1][1].extend(carried)
            carried = []
        made[-1][1].append(item if before is None or now.content == before.content else _changed(item, now))
    if carried:
        made.append((None, carried))
    # Providers refuse a call without its result, and a result without its call.
    return repair_messages([_message(history, number, items) for number, items in made])


def _message(history: list[ModelMessage], number: int | None, items: list[Any]) -> ModelMessage:
    """Return what a message of the history has become, or one of what plugins added."""
    before = history[number] if number is not None else None
    if before is None or isinstance(before, ModelResponse):
        return ModelRequest(parts=items) if before is None else items[0]
    return before if items == list(before.parts) else dataclasses.replace(before, parts=items)


def _changed(item: Any, after: Message) -> Any:
    if isinstance(item, ModelResponse):
        parts = [part for part in item.parts if not isinstance(part, TextPart)]
        text = [TextPart(after.content)] if after.content else []
        return dataclasses.replace(item, parts=[*text, *parts])
    if after.source_plugin is not None:
        return request_for(after).parts[0]
    if isinstance(item, UserPromptPart):
        return dataclasses.replace(item, content=with_text(item.content, after.content))
    if isinstance(item, ToolReturnPart):
        return ToolReturnPart(item.tool_name, after.content, item.tool_call_id, outcome=item.outcome)
    return UserPromptPart(after.content)
