"""The model's answers as plugins leave them, in responses and in streams of the framework's.

What an answer is: the text of a response, the arguments of an output tool, and media. What becomes of one that plugins
withhold: the run ends with AnswerRefused, and the history has a line in its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field, frozen
from pydantic_ai.messages import (
    CompactionPart,
    FilePart,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    SpeechPart,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
)
from pydantic_ai.models import StreamedResponse
from pydantic_core import from_json

from ally_plugins.adapters.kit.answers import AnswerRefused, HeldText
from ally_plugins.adapters.kit.kept_messages import MARK
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.compat import override

from .history import media_of
from .history_repair import mended_response

if TYPE_CHECKING:
    from datetime import datetime

    from pydantic_ai.messages import ModelMessage, ModelResponsePart, ModelResponseStreamEvent
    from pydantic_ai.models import ModelRequestParameters  # noqa: TC004 - nobody reads these annotations at run time
    from pydantic_ai.usage import RequestUsage

    from ally_plugins.adapters.kit.work import AgentWork  # noqa: TC004 - as above

__all__ = ["Answers", "HeldResponse"]

_NONE: Final = -1
"""The place of the text of a stream, once something else has begun: what comes from there on is held to the end."""


@frozen
class _Piece:
    """One answer in a response: the places of its parts, and what plugins are shown of them."""

    places: tuple[int, ...]
    content: str
    is_structured: bool = False


@define(eq=False)
class Answers:
    """The answers of one run, which must end with the `refusal` of its work once one is withheld."""

    work: AgentWork
    response: ModelResponse | None = field(init=False, default=None)
    """The response of which an answer was withheld, as the model made it."""
    _parameters: ModelRequestParameters | None = field(init=False, default=None)
    _settled: list[str] | None = field(init=False, default=None)

    @property
    def is_wanted(self) -> bool:
        """Whether any plugin gates or transforms answers."""
        session = self.work.live.session
        return session.wants("answer")

    @property
    def is_expected(self) -> bool:
        """Whether it is known what an answer may be in, since the model was asked in this run."""
        return self._parameters is not None

    def expect(self, parameters: ModelRequestParameters) -> None:
        """Take note of what the model is about to be asked for."""
        # A model may answer the same words twice: each request is settled anew.
        self._parameters, self._settled = parameters, None

    async def settled(self, response: ModelResponse, *, shown: str = "") -> ModelResponse:
        """Return a response as plugins leave its answers; one that they have left so already is not shown them again.

        `shown` is what the person has seen of its text. Raises AnswerRefused, now and for each later response.
        Cancelling cancels the hook that runs; nothing of the response may be shown or kept then.
        """
        if self.work.refusal is not None:
            raise self.work.refusal
        if self._parameters is None or not self.is_wanted:
            return response
        pieces = list(_pieces(response, self._parameters))
        # The same response comes by several hooks: the stream, the request, the node.
        if self._settled == [piece.content for piece in pieces]:
            return response
        parts = list[Any](response.parts)
        try:
            contents = [await self._settle(piece, parts, shown) for piece in pieces]
        except AnswerRefused:
            self.response = response
            raise
        self._settled = contents
        if all(content == piece.content for content, piece in zip(contents, pieces, strict=True)):
            return response
        return dataclasses.replace(response, parts=[part for part in parts if part is not None])

    async def _settle(self, piece: _Piece, parts: list[Any], shown: str) -> str:
        content = await self.work.answered(piece.content, is_structured=piece.is_structured, shown=shown)
        if content != piece.content:
            # Plugins leave one text: it stands in the first part, and the others go.
            first, *others = piece.places
            parts[first] = self._changed(parts[first], content)
            for place in others:
                parts[place] = None
        return content

    def _changed(self, part: Any, content: str) -> Any:
        """Return a part with another content. Raises AnswerRefused for what has none that could change."""
        if isinstance(part, TextPart):
            return dataclasses.replace(part, content=content)
        if isinstance(part, ToolCallPart):
            return dataclasses.replace(part, args=content if isinstance(part.args, str) else from_json(content))
        raise self.work.withheld(f"a transform has changed a {part.part_kind}, which cannot be done")

    def withhold(self, history: list[ModelMessage]) -> None:
        """Put what is kept of a refused answer in its place in the history, so that the conversation can go on."""
        refusal = self.work.refusal
        if refusal is None or self.response is None:
            return
        about = {"answer": "cut" if refusal.shown else "withheld", "decision": refusal.decision_id}
        kept = dataclasses.replace(
            self.response, parts=[TextPart(refusal.kept)], state="complete", metadata={MARK: about}
        )
        if history and isinstance(history[-1], ModelResponse):
            last = history[-1]
            # The framework has added it already, with the ids by which it finds a run's messages.
            history[-1] = dataclasses.replace(kept, run_id=last.run_id, conversation_id=last.conversation_id)
        else:
            history.append(kept)


def _pieces(response: ModelResponse, parameters: ModelRequestParameters) -> Iterator[_Piece]:
    """Yield the answers of a response: its text, then what else it may end the run with."""
    parts = list(enumerate(response.parts))
    texts = [(place, part) for place, part in parts if isinstance(part, TextPart)]
    if text := "".join(part.content for _, part in texts):
        is_structured = parameters.output_mode in {"native", "prompted"} and _is_json(text)
        yield _Piece(tuple(place for place, _ in texts), text, is_structured)
    outputs = {tool.name for tool in parameters.output_tools}
    for place, part in parts:
        if isinstance(part, ToolCallPart) and part.tool_name in outputs:
            content = part.args if isinstance(part.args, str) else part.args_as_json_str()
            yield _Piece((place,), content, _is_json(content))
        elif isinstance(part, FilePart):
            yield _Piece((place,), encode(media_of(part.content)).decode())
        elif isinstance(part, (SpeechPart, CompactionPart)) and (content := _words(part)):
            yield _Piece((place,), content)


def _words(part: SpeechPart | CompactionPart) -> str:
    return (part.transcript if isinstance(part, SpeechPart) else part.content) or ""


def _is_json(text: str) -> bool:
    try:
        from_json(text)
    except ValueError:
        return False
    return True


class HeldResponse(StreamedResponse):
    """A streamed response of which nothing is shown that plugins have not allowed.

    Whole, its parts come at its end, each at once. By sentences, thoughts come as they do, and of the first text what
    was allowed; all that follows comes at the end.
    """

    def __init__(self, inner: StreamedResponse, answers: Answers, *, by_sentences: bool) -> None:
        super().__init__(inner.model_request_parameters)
        self._inner = inner
        self._answers = answers
        self._held = HeldText(answers.work) if by_sentences else None
        self._text_index: int | None = None
        self._whole: ModelResponse | None = None

    @override
    async def _get_event_iterator(self) -> AsyncGenerator[ModelResponseStreamEvent]:
        try:
            async for event in self._inner:
                if self._held is not None:
                    for shown in await self._show(self._held, event):
                        yield shown
            # Cut off by its consumer: it is no answer, and nobody is asked about it.
            if self._inner.cancelled:
                return
            self._whole = await self._settled()
        except AnswerRefused:
            self._answers.response = self._inner.get()
            raise
        for event in self._rest(self._whole.parts):
            yield event

    async def _show(self, held: HeldText, event: ModelResponseStreamEvent) -> Iterable[ModelResponseStreamEvent]:
        """Return what may be shown, now that this event has come."""
        if isinstance(event, PartStartEvent):
            if isinstance(event.part, ThinkingPart) and self._text_index is None:
                return [self._parts_manager.handle_part(vendor_part_id=event.index, part=event.part)]
            if isinstance(event.part, TextPart) and self._text_index is None:
                self._text_index = event.index
                return self._text(await held.feed(event.part.content))
            # A second text, or a call: its place in the whole is not known before transforms have seen that.
            self._text_index = _NONE
        elif isinstance(event, PartDeltaEvent):
            if isinstance(event.delta, ThinkingPartDelta) and self._text_index is None:
                return self._thought(event.index, event.delta)
            if isinstance(event.delta, TextPartDelta) and self._text_index == event.index:
                return self._text(await held.feed(event.delta.content_delta))
        return ()

    def _text(self, text: str) -> Iterable[ModelResponseStreamEvent]:
        return self._parts_manager.handle_text_delta(vendor_part_id="text", content=text) if text else ()

    def _thought(self, index: int, delta: ThinkingPartDelta) -> Iterable[ModelResponseStreamEvent]:
        return self._parts_manager.handle_thinking_delta(
            vendor_part_id=index,
            content=delta.content_delta,
            signature=delta.signature_delta,
            provider_name=delta.provider_name,
            provider_details=delta.provider_details,
        )

    async def _settled(self) -> ModelResponse:
        response = mended_response(self._inner.get())
        return await self._answers.settled(response, shown=self._held.shown if self._held is not None else "")

    def _rest(self, parts: Sequence[ModelResponsePart]) -> Iterator[ModelResponseStreamEvent]:
        """Yield what of the parts was not shown yet."""
        begun = len(self._parts_manager.get_parts())
        for place, part in enumerate(parts):
            if place >= begun:
                yield self._parts_manager.handle_part(vendor_part_id=None, part=part)
            elif isinstance(part, TextPart) and self._held is not None:
                yield from self._text(self._held.left(part.content))

    @override
    def get(self) -> ModelResponse:
        """Return what was shown so far; the whole once that is allowed."""
        # Cancelled while the rest was shown: what the consumer has not seen is not in its history.
        if self._whole is None or (self._cancelled and not self._finished):
            known = self._inner.get()
            shown = dataclasses.replace(super().get(), usage=known.usage)
            names = ("provider_response_id", "provider_details", "finish_reason", "metadata", "failed_attempts")
            return dataclasses.replace(shown, **{name: getattr(known, name) for name in names})
        return self._whole

    @override
    async def close_stream(self) -> None:
        """Close the provider's stream."""
        await self._inner.cancel()

    @override
    def get_stream_cancel_errors(self) -> tuple[type[BaseException], ...]:
        """Return what the provider's stream raises when it is closed."""
        return self._inner.get_stream_cancel_errors()

    @property
    @override
    def usage(self) -> RequestUsage:
        """The usage of the provider's stream so far."""
        return self._inner.usage

    @property
    @override
    def model_name(self) -> str:
        """The name of the model."""
        return self._inner.model_name

    @property
    @override
    def provider_name(self) -> str | None:
        """The name of the provider."""
        return self._inner.provider_name

    @property
    @override
    def provider_url(self) -> str | None:
        """The address of the provider."""
        return self._inner.provider_url

    @property
    @override
    def timestamp(self) -> datetime:
        """When the response was begun."""
        return self._inner.timestamp
