"""Repairs of a history: what a model, a tool or a stopped run left in it that no later request could carry."""

from __future__ import annotations

import dataclasses
from operator import is_
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ThinkingPart, ToolCallPart, ToolReturn

from ally_plugins.adapters.kit.mending import mended_value, new_call_id
from ally_plugins.contract.values.shown import shown_text

__all__ = ["give_up_calls", "mended_response", "mended_return"]


def mended_response(response: ModelResponse) -> ModelResponse:
    """Return a response that can be sent back: its text is UTF-8, and each of its calls has an id of its own."""
    taken: set[str] = set()
    parts = [_mended_part(part, taken) for part in response.parts]
    return response if all(map(is_, parts, response.parts)) else dataclasses.replace(response, parts=parts)


def give_up_calls(history: list[ModelMessage]) -> None:
    """Make a history valid to continue: mend its last response, and give up calls that will not run.

    The framework answers them when the conversation goes on, once they are marked as interrupted; it does so itself
    where a tool had begun, and refuses the next prompt where none had.
    """
    last = history[-1] if history else None
    if isinstance(last, ModelResponse):
        left = mended_response(last)
        if left.state == "complete" and left.tool_calls:
            left = dataclasses.replace(left, state="interrupted")
        # In place, and only where something changed: the mirror knows messages by identity.
        if left is not last:
            history[-1] = left


def _mended_part(part: Any, taken: set[str]) -> Any:
    if isinstance(part, (TextPart, ThinkingPart)):
        content = shown_text(part.content)
        return part if content == part.content else dataclasses.replace(part, content=content)
    if isinstance(part, ToolCallPart):
        name, args, call_id = (
            mended_value(part.tool_name),
            mended_value(part.args),
            new_call_id(part.tool_call_id, taken),
        )
        if args is not part.args or name != part.tool_name or call_id != part.tool_call_id:
            return dataclasses.replace(part, tool_name=name, args=args, tool_call_id=call_id)
    return part


def mended_return(value: Any) -> Any:
    """Return what a tool returned, whose texts can be sent; the same value when they can."""
    if not isinstance(value, ToolReturn):
        return mended_value(value)
    returned, content = mended_value(value.return_value), mended_value(value.content)
    if returned is value.return_value and content is value.content:
        return value
    return dataclasses.replace(value, return_value=returned, content=content)
