"""Models whose answers are held: what they stream is what plugins have allowed, or nothing until they have.

The framework gives tokens to whoever follows a run from within the class of the model: where it streams, and where a
class does so by itself while it makes a whole answer. So the model is one of a class that is derived from its own.
"""

# ruff: noqa: ARG002 - the framework gives its models all that it has, by name

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache, reduce
from operator import add
from types import new_class
from typing import TYPE_CHECKING, Any, Final, TypeVar

from attrs import define, field
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.constants import TAG_NOSTREAM

from ally_plugins.adapters.kit.answers import AnswerRefused, HeldText
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.shown import shown_text
from ally_plugins.runtime.lanes.call_thread import run_blocking

from .messages import refusal_of, with_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from ally_plugins.adapters.kit.work import AgentWork  # noqa: TC004 - nobody reads it at run time

__all__ = ["HeldStream", "held", "held_stream", "judge_refusal"]

if TYPE_CHECKING:
    _ChatModel = BaseChatModel
else:
    _ChatModel = object  # pydantic would make fields and validators of each

M = TypeVar("M", bound=AIMessage)

_STREAM: Final = "_ally_stream"
"""Where a model has its stream: no field of its class, so that neither a cache nor a trace has it."""


@define(eq=False)
class HeldStream:
    """One answer that is streamed by sentences. It lives as long as the request."""

    work: AgentWork
    allowed: str | None = field(init=False, default=None)
    """The whole answer as plugins left it; None while they have not seen it, or where they withhold it."""
    is_open: bool = field(init=False, default=False)
    """Whether the model is answering: a class may stream from within another of its methods."""
    _text: HeldText = field(init=False)
    _last: AIMessageChunk | None = field(init=False, default=None)
    """The last that had text."""
    _rest: list[ChatGenerationChunk] = field(init=False, factory=list)
    """What comes behind the text: calls, counts, and what else is neither text nor a thought."""

    def __attrs_post_init__(self) -> None:
        self._text = HeldText(self.work)

    @property
    def shown(self) -> str:
        """What the person has seen."""
        return self._text.shown

    async def take(self, chunk: ChatGenerationChunk) -> Sequence[ChatGenerationChunk]:
        """Return what may be shown of the answer now that this has come. Cancelling takes the question back."""
        message = chunk.message
        if not isinstance(message, AIMessageChunk):
            raise TypeError(f"the model has streamed {type(message).__name__}; expected AIMessageChunk")
        if not message.text:
            blocks = message.content_blocks
            if blocks and all(block["type"] == "reasoning" for block in blocks) and self.work.refusal is None:
                return (chunk,)
            self._rest.append(chunk)
            return ()
        self._last = message
        self._rest.append(ChatGenerationChunk(message=_beside(message), generation_info=chunk.generation_info))
        return self._pieces(await self._text.feed_quietly(shown_text(message.text)))

    async def end(self) -> Sequence[ChatGenerationChunk]:
        """Return what is left to show, once plugins have seen the answer whole; of a refused one, what it has cost."""
        try:
            self.allowed = await self.work.answered(self._text.text, shown=self.shown)
            if self._rest:
                await judge_refusal(self.work, reduce(add, (each.message for each in self._rest)))
            return (*self._pieces(self._text.left(self.allowed)), *self._rest)
        except AnswerRefused:  # the run has it, and ends with it
            self.allowed = None
            return [ChatGenerationChunk(message=_cost(each.message, AIMessageChunk)) for each in self._rest]

    async def whole(self, result: ChatResult) -> ChatResult:
        """Return an answer that was not streamed as plugins leave it: those who follow the run are told of it next."""
        made = result.generations[0]
        text = shown_text(made.message.text)
        try:
            self.allowed = await self.work.answered(text)
            await judge_refusal(self.work, made.message)
            message = made.message if self.allowed == text else with_text(made.message, self.allowed)
        except AnswerRefused:
            self.allowed = None
            message = _cost(made.message, AIMessage)
        left = ChatGeneration(message=message, generation_info=made.generation_info)
        return ChatResult(generations=[left], llm_output=result.llm_output)

    def _pieces(self, text: str) -> Sequence[ChatGenerationChunk]:
        last = self._last
        if last is None or not text:
            return ()
        # The first block of text has the place of all of it among the blocks.
        blocks = [each for each in last.content if isinstance(each, str) or each.get("type") == "text"][:1]
        made = AIMessageChunk(content="" if isinstance(last.content, str) else blocks, id=last.id)
        return (ChatGenerationChunk(message=with_text(made, text)),)


async def judge_refusal(work: AgentWork, message: BaseMessage) -> None:
    """Ask plugins about why a model refuses. Raises AnswerRefused where they withhold it, or would change it."""
    said = refusal_of(message)
    if said and await work.answered(said) != said:
        raise work.withheld("a transform has changed why the model refuses, which cannot be done here")


def _cost(message: BaseMessage, kind: type[M]) -> M:
    """Return what is left of a message that is withheld."""
    return kind(content="", id=message.id, usage_metadata=getattr(message, "usage_metadata", None))


def _beside(message: AIMessageChunk) -> AIMessageChunk:
    """Return what a message has beside its text."""
    content: Any = message.content
    if isinstance(content, list):
        content = [each for each in content if not isinstance(each, str) and each.get("type") != "text"]
    return message.model_copy(update={"content": "" if isinstance(content, str) else content})


def held(model: Any, work: AgentWork, *, by_sentences: bool) -> Any:
    """Return a model whose answer is held, by sentences or whole, as a copy of its own.

    Whole is held what may come from the framework's cache, which keeps what the model itself has answered; the answer
    of a model that is no chat model by itself; and one whose sentences are held for another host already.
    """
    tags = [*(getattr(model, "tags", None) or ()), TAG_NOSTREAM]
    if not isinstance(model, BaseChatModel):
        return model.with_config(tags=tags)
    is_cached = bool(model.cache) or (model.cache is None and get_llm_cache() is not None)
    by_sentences = by_sentences and not is_cached and held_stream(model) is None
    copy = model.model_copy(update=None if by_sentences else {"tags": tags, "disable_streaming": True})
    vars(copy)[_STREAM] = HeldStream(work) if by_sentences else None
    object.__setattr__(copy, "__class__", _held_class(type(model)))  # as made: the class is the model's but for this
    return copy


def held_stream(model: Any) -> HeldStream | None:
    """Return the stream of a model that is held by sentences."""
    return vars(model).get(_STREAM) if isinstance(model, BaseChatModel) else None


@contextmanager
def _outermost(model: Any) -> Iterator[HeldStream | None]:
    """Return what takes what a model streams meanwhile; None where whoever calls this does, or shows nothing of it."""
    stream: HeldStream | None = vars(model)[_STREAM]
    if stream is None or stream.is_open:
        yield None
        return
    stream.is_open = True
    try:
        yield stream
    finally:
        stream.is_open = False


class _Whole(_ChatModel):
    """Tells nobody of what comes while the model makes a whole answer."""

    __slots__ = ()
    _stream_chat_model_events = _astream_chat_model_events = None  # which the framework prefers to chunks

    @override
    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        with _outermost(self) as stream:
            result = super()._generate(messages, stop=stop, **kwargs)  # type: ignore[safe-super]
            return result if stream is None else run_blocking(stream.whole(result))

    @override
    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        with _outermost(self) as stream:
            result = await super()._agenerate(messages, stop=stop, **kwargs)
            return result if stream is None else await stream.whole(result)


class _Streamed(_ChatModel):
    """Streams to threads what may be shown."""

    __slots__ = ()

    @override
    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        with _outermost(self) as stream:
            for chunk in super()._stream(messages, stop=stop, **kwargs):
                yield from (chunk,) if stream is None else run_blocking(stream.take(chunk))
            if stream is not None:
                yield from run_blocking(stream.end())


class _AsyncStreamed(_ChatModel):
    """Streams to tasks what may be shown."""

    __slots__ = ()

    @override
    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        with _outermost(self) as stream:
            async for chunk in super()._astream(messages, stop=stop, **kwargs):
                for each in (chunk,) if stream is None else await stream.take(chunk):
                    yield each
            for each in () if stream is None else await stream.end():
                yield each


@lru_cache(maxsize=64)
def _held_class(base: type[BaseChatModel]) -> type[BaseChatModel]:
    """Return a class of models like `base` that tells nobody of a token which plugins have not allowed."""
    if issubclass(base, _Whole):  # of another host
        return base
    bases: list[type[Any]] = [_Whole]
    # Only what `base` overrides: the framework looks there for what a class can.
    if base._stream is not BaseChatModel._stream:  # noqa: SLF001
        bases.append(_Streamed)
    if base._astream is not BaseChatModel._astream:  # noqa: SLF001
        bases.append(_AsyncStreamed)
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return new_class(base.__name__, (*bases, base), exec_body=lambda namespace: namespace.update(names))
