"""The offline model as a Model of pydantic-ai: requests in, responses out, streamed word by word."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponseStreamEvent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.usage import RequestUsage

from ally_plugins.contract.values.compat import override

from .history_view import HistoryView, call_numbers, text_of, view_history
from .requests import HELP, RequestContext, RequestedCall, RequestPlan, read_requests

if TYPE_CHECKING:
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.tools import RunContext

__all__ = ["DEFAULT_WINDOW", "NAME", "OfflineModel"]

NAME: Final = "offline"
DEFAULT_WINDOW: Final = 32_000
"""Tokens: small beside hosted models, so that a long try-out comes to see a threshold."""
_CHARS_PER_TOKEN: Final = 4  # the estimate that most tools use for English and code
_TRIES: Final = 8
"""How often `insist` tries again after the first failure."""
_SHOWN_LINES: Final = 3
_SHOWN_CHARS: Final = 200
_PIECES: Final = re.compile(r"\S*\s*")


class OfflineModel(Model):
    """Does what `requests` reads in the person's last message; deterministic, but for the timestamps of responses."""

    def __init__(self, window: int = DEFAULT_WINDOW) -> None:
        super().__init__(profile=ModelProfile(context_window=window))
        self._calls: itertools.count[int] | None = None

    @property
    @override
    def model_name(self) -> str:
        """The name that a person gives after `--model`."""
        return NAME

    @property
    @override
    def system(self) -> str:
        """The provider: none."""
        return NAME

    @property
    @override
    def provider(self) -> None:
        """There is none."""
        return

    @override
    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Answer at once."""
        _, parameters = self.prepare_request(model_settings, model_request_parameters)
        response = self._answer(messages, parameters)
        response.usage = RequestUsage(
            input_tokens=_input_tokens(messages, parameters), output_tokens=_tokens(text_of(response))
        )
        return response

    @asynccontextmanager
    @override
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,  # noqa: ARG002 - the framework's signature
    ) -> AsyncGenerator[StreamedResponse]:
        """Answer word by word."""
        _, parameters = self.prepare_request(model_settings, model_request_parameters)
        yield _Stream(
            model_request_parameters=parameters,
            answer=self._answer(messages, parameters),
            input_tokens=_input_tokens(messages, parameters),
        )

    def _answer(self, messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        tools = {tool.name: tool.parameters_json_schema for tool in parameters.function_tools}
        view = view_history(messages)
        if not tools:
            return _response([TextPart(_summary(view.person))])
        plan = read_requests(view.person, RequestContext(tools, view.todos))
        step = _next_step(view, plan)
        if step is not None:
            texts = [*_plugin_lines(view), *(_result_lines(view) if view.steps_done else ())]
            text_parts = [TextPart("\n".join(texts))] if texts else []
            calls = [ToolCallPart(call.tool, dict(call.arguments), self._call_id(messages)) for call in step]
            return _response([ThinkingPart(_thought(step, view, plan)), *text_parts, *calls])
        return _response(
            [
                ThinkingPart(_last_thought(view)),
                TextPart("\n".join(_last_lines(view, plan)) or "There is nothing to do."),
            ]
        )

    def _call_id(self, messages: Sequence[ModelMessage]) -> str:
        if self._calls is None:
            # From the history, once: a resumed session goes on, and a history that was compacted does not begin again.
            self._calls = itertools.count(max(call_numbers(messages), default=0) + 1)
        return f"call-{next(self._calls)}"


def _next_step(view: HistoryView, plan: RequestPlan) -> Sequence[RequestedCall] | None:
    """Return the calls to make now; None when the answer ends."""
    if view.is_over or view.is_cut or not plan.steps:
        return None
    if all(result.is_good for result in view.results):
        return plan.steps[view.steps_done] if view.steps_done < len(plan.steps) else None
    is_refused = any(result.is_refused for result in view.results)
    # Steps that were called beyond the plan's are tries of its last one.
    tries = view.steps_done - len(plan.steps) + 1
    return plan.steps[-1] if plan.insists and 1 <= tries < _TRIES and not is_refused else None


def _response(parts: list[Any]) -> ModelResponse:
    return ModelResponse(parts=parts, model_name=NAME, provider_name=NAME, finish_reason="stop")


def _thought(step: Sequence[RequestedCall], view: HistoryView, plan: RequestPlan) -> str:
    wanted = " and ".join(f"{call.line[:80]!r}" for call in step)
    tools = ", ".join(dict.fromkeys(call.tool for call in step))
    if view.steps_done >= len(plan.steps):
        return f"That did not work. I insist: {wanted}."
    return f"Step {view.steps_done + 1} of {len(plan.steps)}: {wanted}. For that there is {tools}."


def _last_thought(view: HistoryView) -> str:
    if view.results and not all(result.is_good for result in view.results):
        return "That did not work, so I stop here and say why."
    if view.results:
        return "That was the last step; I say what came of it."
    if view.plugin_texts:
        return "A plugin has said something; I say what I take from it."
    return "There is no tool to call for that."


def _last_lines(view: HistoryView, plan: RequestPlan) -> Iterator[str]:
    yield from _plugin_lines(view)
    yield from _result_lines(view)
    if view.is_over:  # a plugin woke us: what the person said was answered before
        return
    if view.is_cut:
        yield "The conversation was shortened amid this request. What of it is done is not known: I do no more of it."
        return
    left = len(plan.steps) - view.steps_done
    if left > 0 and view.results:
        yield f"I stop here; {left} more {'step is' if left == 1 else 'steps are'} left undone."
    yield from plan.texts
    yield from plan.unknown
    if plan.wants_help or (view.is_fresh and not (plan.texts or plan.unknown)):
        yield HELP


def _plugin_lines(view: HistoryView) -> Iterator[str]:
    for name, text in view.plugin_texts:
        yield f"The plugin {name} tells me: {_shortened(text)} I take that into account."


def _result_lines(view: HistoryView) -> Iterator[str]:
    for result in view.results:
        verb = "gave" if result.is_good else "did not work:"
        yield f"{result.tool} {verb} {_shortened(result.text)}"


def _shortened(text: str) -> str:
    lines = text.strip().splitlines()
    shown = "\n".join(lines[:_SHOWN_LINES])[:_SHOWN_CHARS]
    more = len(lines) - _SHOWN_LINES
    return f"{shown} ... ({more} more lines)" if more > 0 else shown or "nothing"


def _summary(text: str) -> str:
    """Return a summary: only the compaction calls this model without tools."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    begin = "\n".join(line[:_SHOWN_CHARS] for line in lines[:_SHOWN_LINES])
    return f"(the offline model cannot summarise; of {len(lines)} lines the first are)\n{begin}"


def _tokens(texts: Iterable[str]) -> int:
    return math.ceil(sum(map(len, texts)) / _CHARS_PER_TOKEN)


def _input_tokens(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> int:
    """Estimate what a request holds: its messages, the instructions, and the descriptions of the tools."""
    instructions = next(
        (m.instructions for m in reversed(messages) if isinstance(m, ModelRequest) and m.instructions), ""
    )
    tools = (
        f"{tool.name} {tool.description or ''} {json.dumps(tool.parameters_json_schema)}"
        for tool in parameters.function_tools
    )
    return _tokens(itertools.chain([instructions], tools, *map(text_of, messages)))


@dataclass
class _Stream(StreamedResponse):
    """A finished response, streamed piece by piece."""

    answer: ModelResponse
    input_tokens: int
    _timestamp: datetime = field(default_factory=lambda: datetime.now(tz=UTC), init=False)

    def __post_init__(self) -> None:
        self._usage = RequestUsage(input_tokens=self.input_tokens)

    @override
    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        for index, part in enumerate(self.answer.parts):
            if isinstance(part, ToolCallPart):
                yield self._parts_manager.handle_tool_call_part(
                    vendor_part_id=index,
                    tool_name=part.tool_name,
                    args=part.args_as_dict(),
                    tool_call_id=part.tool_call_id,
                )
                continue
            handle = (
                self._parts_manager.handle_thinking_delta
                if isinstance(part, ThinkingPart)
                else self._parts_manager.handle_text_delta
            )
            for piece in _PIECES.findall(getattr(part, "content", "")):
                await asyncio.sleep(0)  # a point for cancellation between two pieces
                for event in handle(vendor_part_id=index, content=piece):
                    yield event
        self._usage = RequestUsage(input_tokens=self.input_tokens, output_tokens=_tokens(text_of(self.answer)))
        self.finish_reason = self.answer.finish_reason

    @override
    async def close_stream(self) -> None:
        """Do nothing: there is no connection."""

    @property
    @override
    def model_name(self) -> str:
        """The model's name."""
        return NAME

    @property
    @override
    def provider_name(self) -> str:
        """The provider: none."""
        return NAME

    @property
    @override
    def provider_url(self) -> None:
        """There is none."""
        return

    @property
    @override
    def timestamp(self) -> datetime:
        """When the answer began."""
        return self._timestamp
