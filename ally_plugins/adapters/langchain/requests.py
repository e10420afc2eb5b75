"""Requests to the model, and its answers, as plugins leave them; and plugins' tools beside the agent's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, SystemMessage, ToolMessage
from langchain_core.tools import StructuredTool

from ally_plugins.adapters.kit.answers import AnswerRefused
from ally_plugins.adapters.kit.model_requests import changed_blocks, changed_request
from ally_plugins.adapters.kit.weaving import rebuilt
from ally_plugins.contract.tools.schemas import thaw

from .messages import convert, mended, message_for, text_of, with_text
from .streams import held, judge_refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain.agents.middleware import ModelRequest, ModelResponse
    from langchain_core.messages import BaseMessage

    from ally_plugins.contract.tools.agent_tool import AgentTool
    from ally_plugins.contract.values.conversation import Message

    from .runs import PluginRun
    from .streams import HeldStream

__all__ = ["mended_response", "model_name", "settled", "transformed"]


async def transformed(run: PluginRun, request: ModelRequest[Any]) -> ModelRequest[Any]:
    """Return a request as plugins leave it, with their tools. Raises GateRefused when a transform blocks."""
    await run.work.admit_ungated(_provider_tools(request.tools))
    changes: dict[str, Any] = {}
    names = {getattr(tool, "name", None) or str(tool) for tool in request.tools}
    run.offered = {tool.name: tool for tool in run.work.offered(taken=names)}
    if run.offered:
        changes["tools"] = [*request.tools, *map(_tool, run.offered.values())]
    blocks = _blocks(request.system_message)
    prompt, tail = await changed_blocks(run.work, blocks, like={"type": "text"})
    if prompt is not blocks:
        changes["system_message"] = _prompt(request.system_message, prompt)
    if run.work.wants("model_request"):
        items = ((message, shown) for message in request.messages for shown in convert(message))
        left, changed = await changed_request(run.work, model_name(request), items, request.model_settings)
        if left is not None:
            changes["messages"] = list(rebuilt(left, _with_content, message_for))
        if changed is not None:
            changes["model_settings"] = changed
    if tail:
        changes["messages"] = [*changes.get("messages", request.messages), *map(message_for, tail)]
    if (hold := run.work.answer_hold) is not None:
        by_sentences = hold == "sentence" and request.response_format is None  # what is to be JSON has no sentences
        changes["model"] = held(request.model, run.work, by_sentences=by_sentences)
    return request.override(**changes) if changes else request


def _provider_tools(tools: Iterable[Any]) -> list[str]:
    """Return the names of the tools that the model's provider runs: they are given as the provider's own words."""
    own = [each for each in tools if isinstance(each, dict) and each.get("type") not in {None, "function", "custom"}]
    return [str(each.get("name") or each["type"]) for each in own]


def model_name(request: ModelRequest[Any]) -> str | None:
    """Return what the model is called, as far as its class says so."""
    found = (getattr(request.model, each, None) for each in ("model_name", "model"))
    return next((name for name in found if isinstance(name, str)), None)


def _tool(tool: AgentTool) -> StructuredTool:
    async def never(**_: Any) -> str:  # `wrap_tool_call` answers for it; without that nothing runs
        raise RuntimeError(f"the tool {tool.name!r} is a plugin's; plugins were not asked about this call")

    return StructuredTool(
        name=tool.name, description=tool.description, args_schema=thaw(tool.schema), coroutine=never, func=None
    )


def _blocks(prompt: SystemMessage | None) -> list[Any]:
    """Return a prompt's blocks; what is no text (the end of what a provider caches) is among them."""
    if prompt is None:
        return []
    content = [prompt.content] if isinstance(prompt.content, str) else prompt.content
    return [{"type": "text", "text": each} if isinstance(each, str) else each for each in content]


def _prompt(before: SystemMessage | None, blocks: list[Any]) -> SystemMessage | None:
    if not blocks:
        return None
    if before is not None and not isinstance(before.content, str):
        return before.model_copy(update={"content": blocks})
    return SystemMessage("\n\n".join(each["text"] for each in blocks))


def _with_content(message: BaseMessage, now: Message) -> BaseMessage:
    return with_text(message, now.content)


def mended_response(response: ModelResponse[Any]) -> ModelResponse[Any]:
    """Return a response that can be sent back; one with the results of its calls keeps their ids."""
    if any(isinstance(each, ToolMessage) for each in response.result):
        return response
    return replace(response, result=list(map(mended, response.result)))


async def settled(run: PluginRun, response: ModelResponse[Any], stream: HeldStream | None = None) -> ModelResponse[Any]:
    """Return a response as plugins leave its answers; one that they withhold becomes a line, and ends the run.

    What they have left of it in a stream that was held is not asked about again.
    """
    message = next((each for each in response.result if isinstance(each, AIMessage)), None)
    if message is None or (run.work.refusal is None and not run.work.live.session.wants("answer")):
        return response
    outputs = {each.tool_call_id for each in response.result if isinstance(each, ToolMessage)}
    made = [each["args"] for each in message.tool_calls if each["id"] in outputs]
    work, text = run.work, text_of(message)
    is_structured = response.structured_response is not None and not made
    try:
        left, shown = text, stream.shown if stream is not None else ""
        if stream is None or stream.allowed != text:
            left = await work.answered(text, is_structured=is_structured, shown=shown)
        if stream is None or stream.allowed is None:
            await judge_refusal(work, message)
        after = [await work.answered_data(each) for each in made]
        if after != made or (is_structured and left != text):
            raise work.withheld("a transform has changed structured output, which cannot be done here")
    except AnswerRefused as refusal:
        run.refused = refusal
        kept = AIMessage(refusal.kept, id=message.id, response_metadata=message.response_metadata)
        return replace(response, result=[kept], structured_response=None)
    if left == text:
        return response
    return replace(response, result=[with_text(each, left) if each is message else each for each in response.result])
