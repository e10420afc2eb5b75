"""One run of an agent with plugins: what the framework's hooks tell of it, translated into what the agent kit does."""

from __future__ import annotations

import asyncio
import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import CancelScope
from attrs import define, field
from pydantic_ai.agent import CallToolsNode, UserPromptNode
from pydantic_ai.messages import ModelResponse, ThinkingPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import DeferredToolRequests
from pydantic_graph import End

from ally_plugins.adapters.kit.under_way import UnderWay
from ally_plugins.contract.values.shown import shown_text

from .answers import Answers
from .calls import Calls
from .compaction import compacted
from .history import convert, prompt_text, request_for, text_of, with_text
from .history_repair import give_up_calls, mended_response
from .model_wrapper import TransformedModel, provider_tools
from .prompts import before_prompts, joined_prompts, replace_prompts, unheard_parts
from .results import output_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AsyncExitStack

    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.capabilities.abstract import (
        AgentNode,
        NodeResult,
        WrapModelRequestHandler,
        WrapRunHandler,
    )
    from pydantic_ai.messages import ModelMessage, UserContent
    from pydantic_ai.models import Model, ModelRequestContext
    from pydantic_ai.run import AgentRunResult
    from pydantic_ai.tools import RunContext

    from ally_plugins.adapters.kit.work import AgentWork
    from ally_plugins.contract.tools.agent_tool import AgentTool
    from ally_plugins.contract.values.conversation import Message

__all__ = ["PluginRun"]


@define(eq=False)
class _CancelledWith:
    """Cancels the task that enters when `owner` ends before it leaves, or before `release`.

    For what a framework runs in a task of its own, and forgets when the run is cancelled just as the task begins.
    """

    owner: asyncio.Task[Any] | None
    _own: asyncio.Task[Any] | None = field(init=False, default=None)

    def __enter__(self) -> None:
        own = asyncio.current_task()
        # Its own cancellation reaches the task by itself.
        if self.owner is not None and own is not self.owner:
            self._own = own
            self.owner.add_done_callback(self._cancel)

    def _cancel(self, _: object) -> None:
        if self._own is not None:
            self._own.cancel()

    def release(self) -> None:
        """Leave the task alone from now on: the framework waits for it by itself. A second call does nothing."""
        if self.owner is not None and self._own is not None:
            self._own = None
            self.owner.remove_done_callback(self._cancel)

    def __exit__(self, *_: object) -> None:
        self.release()


class PluginRun:
    """What follows one run for one capability; it lives until the run, and each call that it made, has ended.

    `resources` is what to close then: the agent kit's work, and the host where it was started for this run. `owner` is
    the task that drives the run, where that is known.
    """

    def __init__(
        self,
        work: AgentWork,
        capability: AbstractCapability[Any],
        resources: AsyncExitStack,
        owner: asyncio.Task[Any] | None,
    ) -> None:
        self.work = work
        self.calls = Calls(work, capability)
        self.answers = Answers(work)
        self.offered: dict[str, AgentTool] = {}
        """Plugins' tools that the model was offered, by name."""
        self._resources = resources
        self._owner = owner
        self._beginning = _CancelledWith(owner)
        self._prompt: str | Sequence[UserContent] | None = None
        self._history: list[ModelMessage] = []
        self.under_way = UnderWay(self._end)
        """The run itself, its calls and its requests; the last of them ends it."""
        self._outcome: Callable[[], None] = work.end

    # --- the run ---

    async def drive(self, ctx: RunContext[Any], handler: WrapRunHandler) -> AgentRunResult[Any]:
        """Follow the run from its turn's start to its end, which comes behind that of each call that it made."""
        work = self.work
        async with self.under_way:
            # The framework's own list, and not a copy: `_end` reads what it has become.
            self._history = ctx.messages
            unheard = unheard_parts(work, ctx.messages)
            if unheard:  # what a run begins with is kept by nobody before plugins allow it
                self._history = before_prompts(ctx.messages, unheard)
            work.follow(self._history, convert)
            prompt = joined_prompts(unheard, ctx.prompt)
            text = prompt_text(prompt)
            sent = await work.begin(shown_text(text) if text is not None else None)
            self._history = ctx.messages
            if sent is not None and sent != text:
                prompt = with_text(prompt, sent)
                if ctx.prompt is not None:
                    self._prompt = prompt
                if unheard:
                    replace_prompts(ctx.messages, unheard, None if ctx.prompt is not None else prompt)
            try:
                with self._beginning:  # not the tools: the framework does, and waits for their clean-up
                    result = await handler()
            except BaseException as error:
                give_up_calls(self._history)  # those that had begun are given up by the framework, before it comes here
                self.answers.withhold(self._history)
                self._outcome = partial(work.end, error=error)
                raise
            output = result.output
            # Calls that wait are no answer of the agent's.
            content = None if isinstance(output, DeferredToolRequests) else output_text(output)
            self._outcome = partial(work.end, content)
            return result

    async def _end(self) -> None:
        # Once more: a run that fails may leave messages that no later hook has copied.
        self.work.follow(self._history, convert)
        self._outcome()
        with CancelScope(shield=True):  # the framework's own scope cancels at each await, once the run is cancelled
            await self._resources.aclose()

    async def before_node(self, ctx: RunContext[Any], node: AgentNode[Any]) -> AgentNode[Any]:
        """Replace the person's message as transforms left it; copy what the model has answered."""
        self._history = ctx.messages
        if isinstance(node, UserPromptNode):
            # The run has begun, and the framework waits for its end by itself. At every step it has a text made of the
            # task, which names each callback of that with the line that it is from.
            self._beginning.release()
            if self._prompt is not None:
                return dataclasses.replace(node, user_prompt=self._prompt)
        elif isinstance(node, CallToolsNode):
            if node.tool_call_results:
                self.work.follow(ctx.messages, convert)
                # After `follow`: results come behind the calls that they answer.
                await self.calls.answered_elsewhere(node.tool_call_results, node.model_response)
            else:
                # Before `follow`: the conversation must not hold what plugins withhold.
                await self._settle(ctx, node)
                self.work.follow(ctx.messages, convert)
        return node

    async def _settle(self, ctx: RunContext[Any], node: CallToolsNode[Any, Any]) -> None:
        """Show plugins what other capabilities have made of the answer, before it is anything to anybody."""
        if not self.answers.is_expected:  # the history that the run was given ends with it
            self.answers.expect(_parameters_of(ctx))
        response = await self.answers.settled(node.model_response)
        if response is not node.model_response:
            # In place: the framework keeps this list, and goes on with it.
            ctx.messages[:] = [response if each is node.model_response else each for each in ctx.messages]
            node.model_response = response

    async def after_node(self, ctx: RunContext[Any], result: NodeResult[Any]) -> NodeResult[Any]:
        """At the end of a turn, let follow-ups take the run further; never between calls and their results."""
        # With calls that wait, the turn is not over, and no message may come between them and their results.
        if isinstance(result, End) and not isinstance(result.data.output, DeferredToolRequests):
            self.work.follow(ctx.messages, convert)
            messages = await self.work.safe_point("turn_end")
            for message in messages or await self._sent_on(ctx, result.data.output):
                ctx.enqueue(request_for(message))
        return result

    async def _sent_on(self, ctx: RunContext[Any], output: Any) -> tuple[Message, ...]:
        last = ctx.messages[-1] if ctx.messages else None
        reason = last.finish_reason if isinstance(last, ModelResponse) else None
        return await self.work.sent_on(output_text(output), reason or "")

    # --- the model ---

    async def before_request(self, ctx: RunContext[Any], request_context: ModelRequestContext) -> ModelRequestContext:
        """Let plugins' messages enter: all results of the step are in."""
        work = self.work
        self._history = ctx.messages
        work.follow(ctx.messages, convert)
        if work.kit.compact is not None:
            request_context = await compacted(work, ctx, request_context)
        asked = (request_context.model, request_context.model_settings, request_context.model_request_parameters)
        # Before the safe point: a request that is refused must not take plugins' messages along.
        await work.admit_ungated(provider_tools(*asked))
        messages = await work.safe_point("step")
        for message in messages:
            ctx.enqueue(request_for(message))
        work.requested(request_context.model.model_name, len(request_context.messages) + len(messages))
        return request_context

    async def request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext, handler: WrapModelRequestHandler
    ) -> ModelResponse:
        """Emit what the model answered, and how full its window is."""
        self.answers.expect(request_context.model_request_parameters)
        async with self.under_way:
            try:
                with _CancelledWith(self._owner):
                    response = mended_response(await handler(request_context))
                response = await self.answers.settled(response)
            except BaseException as error:
                # The model has answered and is paid for, though the answer is withheld.
                if self.answers.response is not None and self.work.refusal is not None:
                    self._responded(ctx, self.answers.response, shown=self.work.refusal.shown)
                self.work.model_failed(error)
                raise
            self._responded(ctx, response)
        return response

    def _responded(self, ctx: RunContext[Any], response: ModelResponse, *, shown: str | None = None) -> None:
        """Emit a response; of one that is withheld, what was `shown`, without its thoughts, which may say the same."""
        usage, thoughts = response.usage, [part.content for part in response.parts if isinstance(part, ThinkingPart)]
        self.work.model_answered(
            text_of(response) if shown is None else shown,
            thoughts=thoughts if shown is None else (),
            window=ctx.model.context_window,
            model=response.model_name,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens or None,
            cache_creation_tokens=usage.cache_write_tokens or None,
            stop_reason=response.finish_reason,
        )

    def wrapped_model(self, model: Model) -> Model | None:
        """Let plugins change what the model is asked, where any of them wants to, or refuse it."""
        session = self.work.live.session
        if session.is_closed:
            return None
        if not (session.ungated.may_refuse or any(map(session.wants, ("system_prompt", "model_request", "answer")))):
            return None
        return TransformedModel(model, self.work, self.answers)


def _parameters_of(ctx: RunContext[Any]) -> ModelRequestParameters:
    """Return what the answers of a run may be in that has not asked the model."""
    return ModelRequestParameters(output_tools=[tool for tool in ctx.tools.values() if tool.kind == "output"])
