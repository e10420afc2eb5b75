"""What the person says in a history that a run is given: user interfaces give no prompt beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    SpeechPart,
    UserContent,
    UserPromptPart,
)

from ally_plugins.adapters.kit.prompts import is_unheard

from .history import messages_of_part, spoken

if TYPE_CHECKING:
    from ally_plugins.adapters.kit.work import AgentWork

__all__ = ["before_prompts", "joined_prompts", "replace_prompts", "unheard_parts"]

_Prompt: TypeAlias = UserPromptPart | SpeechPart
"""What the person says in a request: written, or spoken in a realtime session whose history is gone on with."""


def unheard_parts(work: AgentWork, history: Sequence[ModelMessage]) -> list[_Prompt]:
    """Return what the person has said since the last answer, and that no run has begun with, in order."""
    found: list[_Prompt] = []
    for message in reversed(history):
        if isinstance(message, ModelResponse):
            break
        parts = [part for part in message.parts if isinstance(part, UserPromptPart | SpeechPart)]
        found[:0] = [part for part in parts if is_unheard(work, messages_of_part(part))]
    return found


def before_prompts(history: Sequence[ModelMessage], prompts: Sequence[_Prompt]) -> list[ModelMessage]:
    """Return a history as far as it has none of these."""
    return list(history[: next(n for n, message in enumerate(history) if _has(message, prompts[0]))])


def joined_prompts(
    prompts: Sequence[_Prompt], last: str | Sequence[UserContent] | None
) -> str | Sequence[UserContent] | None:
    """Return several prompts as one; `last` is that of the run, None where it has none."""
    given = [*map(_content, prompts), *([last] if last is not None else [])]
    if len(given) < 2:  # noqa: PLR2004 - one stays what it is, a text a text
        return given[0] if given else None
    return [item for each in given for item in ([each] if isinstance(each, str) else each)]


def replace_prompts(
    history: list[ModelMessage], prompts: Sequence[_Prompt], by: str | Sequence[UserContent] | None
) -> None:
    """Put one prompt into the place of the last of these, in a history, and take the others out."""
    changed: list[ModelMessage] = []
    for message in history:
        if isinstance(message, ModelRequest) and any(_has(message, part) for part in prompts):
            parts: list[ModelRequestPart] = []
            for part in message.parts:
                if part is prompts[-1] and by is not None:
                    parts.append(UserPromptPart(by))
                elif not any(part is each for each in prompts):
                    parts.append(part)
            changed += [dataclasses.replace(message, parts=parts)] if parts else []
        else:
            changed.append(message)
    history[:] = changed  # in place: the framework goes on with this list


def _content(part: _Prompt) -> str | Sequence[UserContent]:
    return part.content if isinstance(part, UserPromptPart) else spoken(part)


def _has(message: ModelMessage, prompt: _Prompt) -> bool:
    return any(part is prompt for part in message.parts)
