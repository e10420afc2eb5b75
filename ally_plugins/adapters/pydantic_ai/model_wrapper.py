"""Requests to the model as plugins' transforms leave them: the system prompt's sections, messages and settings.

It happens last, around the model itself, so that nothing comes in behind it, and the history stays as it is.
"""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from pydantic_ai.messages import InstructionPart, ModelRequest, SystemPromptPart
from pydantic_ai.models.wrapper import WrapperModel

from ally_plugins.adapters.kit.model_requests import changed_prompt, changed_request
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import PromptSection
from ally_plugins.contract.values.inert import for_model

from .answers import HeldResponse
from .history import request_for
from .requests import items_of, unwoven

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.tools import RunContext

    from ally_plugins.adapters.kit.work import AgentWork
    from ally_plugins.contract.values.conversation import Message

    from .answers import Answers

__all__ = ["TransformedModel"]


class TransformedModel(WrapperModel):
    """The model of one request, which is sent as transforms left it. Raises GateRefused when one blocks."""

    def __init__(self, wrapped: Model, work: AgentWork, answers: Answers) -> None:
        super().__init__(wrapped)
        self._work = work
        self._answers = answers

    @override
    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Send the transformed request to the model."""
        request = await self._transformed(messages, model_settings, model_request_parameters)
        return await self.wrapped.request(*request)

    @override
    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Send the transformed request, for a streamed response, which is held where plugins gate or transform it."""
        request = await self._transformed(messages, model_settings, model_request_parameters)
        async with self.wrapped.request_stream(*request, run_context) as stream:
            hold = self._work.answer_hold
            # What is to be JSON has no sentences.
            by_sentences = hold == "sentence" and model_request_parameters.output_mode not in {"native", "prompted"}
            yield stream if hold is None else HeldResponse(stream, self._answers, by_sentences=by_sentences)

    async def _transformed(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> tuple[list[ModelMessage], ModelSettings | None, ModelRequestParameters]:
        session = self._work.live.session
        tail: tuple[Message, ...] = ()
        # Again, since another capability may have added some behind `before_model_request`.
        await self._work.admit_ungated(provider_tools(self.wrapped, settings, parameters))
        if session.wants("system_prompt"):
            messages, parameters, tail = await _with_prompt(self._work, messages, parameters)
        # After the prompt: this transform is shown the request as it will be sent.
        if session.wants("model_request"):
            own = dict(settings) if settings is not None else None
            left, changed = await changed_request(self._work, self.wrapped.model_name, items_of(messages), own)
            messages = messages if left is None else unwoven(left, messages)
            settings = settings if changed is None else cast("ModelSettings", changed)
        return _with_tail(messages, tail), settings, parameters


def _with_tail(messages: list[ModelMessage], tail: Iterable[Message]) -> list[ModelMessage]:
    """Return the messages with volatile sections at the end of the last request, behind all that is the same again.

    They are the user's part there, marked as the plugin's: a system prompt would be moved to the front by some models.
    """
    parts = [part for message in tail for part in request_for(message).parts]
    if not parts:
        return messages
    *before, last = messages
    if not isinstance(last, ModelRequest):
        return [*messages, ModelRequest(parts=parts)]
    return [*before, dataclasses.replace(last, parts=[*last.parts, *parts])]


def provider_tools(model: Model, settings: ModelSettings | None, parameters: ModelRequestParameters) -> list[str]:
    """Return the names of the tools that the model's provider runs, without those that a local one stands in for.

    What it finds for the model to call (tool search) is called as any other tool. Raises what the model does for a tool
    that it does not support, as it would when it is asked.
    """
    if not parameters.native_tools:
        return []
    _, resolved = model.prepare_request(settings, parameters)
    return [tool.unique_id for tool in resolved.native_tools if tool.kind != "tool_search"]


async def _with_prompt(
    work: AgentWork, messages: list[ModelMessage], parameters: ModelRequestParameters
) -> tuple[list[ModelMessage], ModelRequestParameters, tuple[Message, ...]]:
    """Return what the system prompt stands in, messages and instructions, as plugins left it, and what is volatile."""
    prompts = {f"prompt-{number}": part for number, part in enumerate(_prompts(messages), 1)}
    parts = {f"instructions-{number}": part for number, part in enumerate(parameters.instruction_parts or (), 1)}
    before = tuple(PromptSection(name, part.content) for name, part in (prompts | parts).items())
    after, tail = await changed_prompt(work, before)
    if after == before:
        return messages, parameters, tail
    texts = {section.name: section.text for section in after}
    # By identity: two prompts may have the same text.
    changed = {id(part): texts.get(name) for name, part in prompts.items() if texts.get(name) != part.content}
    if changed:
        messages = [found for message in messages if (found := _with_prompts(message, changed)) is not None]
    made = [_instruction(parts.get(each.name), each.text) for each in after if each.name not in prompts]
    return messages, dataclasses.replace(parameters, instruction_parts=made), tail


def _instruction(part: InstructionPart | None, text: str) -> InstructionPart:
    """Return an instruction with a section's text; a section that a plugin added is one too."""
    if part is None:
        return InstructionPart(for_model(text), dynamic=True)
    return part if part.content == text else dataclasses.replace(part, content=text)


def _prompts(messages: Iterable[ModelMessage]) -> Iterable[SystemPromptPart]:
    for message in messages:
        if isinstance(message, ModelRequest):
            yield from (part for part in message.parts if isinstance(part, SystemPromptPart) and not part.metadata)


def _with_prompts(message: ModelMessage, changed: dict[int, str | None]) -> ModelMessage | None:
    """Return a message with changed prompts, and without those whose text is None; None when nothing is left of it."""
    if not isinstance(message, ModelRequest) or not any(id(part) in changed for part in message.parts):
        return message
    parts = []
    for part in message.parts:
        if id(part) not in changed:
            parts.append(part)
        elif isinstance(part, SystemPromptPart) and (text := changed[id(part)]) is not None:
            parts.append(dataclasses.replace(part, content=text))
    return dataclasses.replace(message, parts=parts) if parts else None
