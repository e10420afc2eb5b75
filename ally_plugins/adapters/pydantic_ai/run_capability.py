"""One run of an agent with plugins: the framework's hooks, each translated into what the agent kit does."""

# ruff: noqa: ARG002 - the framework gives every hook all of its arguments, by name

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Generator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pydantic_ai.agent import CallToolsNode, UserPromptNode
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ModelResponse, ThinkingPart
from pydantic_ai.tools import DeferredToolRequests
from pydantic_graph import End

from ally_plugins.adapters.kit.in_flight import InFlight
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.events import ModelResponse as Responded
from ally_plugins.contract.values.shown import shown_text

from .calls import Calls
from .compaction import compacted
from .deferral import has_resolver
from .history import convert, prompt_text, request_for, text_of, with_text
from .history_repair import give_up_calls, mended_response
from .model_wrapper import TransformedModel
from .other_capabilities import CHANGES_ARGUMENTS, takes_part
from .results import output_text
from .toolset import PluginToolset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_ai.capabilities.abstract import (
        AgentNode,
        NodeResult,
        RawToolArgs,
        ValidatedToolArgs,
        WrapModelRequestHandler,
        WrapRunHandler,
        WrapToolExecuteHandler,
    )
    from pydantic_ai.messages import ModelMessage, ToolCallPart, UserContent
    from pydantic_ai.models import Model, ModelRequestContext
    from pydantic_ai.run import AgentRunResult
    from pydantic_ai.tools import DeferredToolResults, RunContext, ToolDefinition
    from pydantic_ai.toolsets import AbstractToolset, ToolsetTool

    from ally_plugins.adapters.kit.kit import AgentKit
    from ally_plugins.adapters.kit.work import AgentWork

    from .compaction import Compaction

__all__ = ["RunPlugins"]


class RunPlugins(AbstractCapability[Any]):
    """What follows one run; it lives as long as the run."""

    def __init__(
        self,
        kit: AgentKit,
        id: str,  # noqa: A002 - the framework's own name
        *,
        may_defer: bool,
        compaction: Compaction | None = None,
    ) -> None:
        self.id = id
        self.description = None
        self.defer_loading = False
        self.kit = kit
        self.may_defer = may_defer
        self.compaction = compaction
        self._work: AgentWork | None = None
        self._calls: Calls | None = None
        self._prompt: str | Sequence[UserContent] | None = None
        self._history: list[ModelMessage] = []
        self._requested_at: float | None = None
        self._in_flight = InFlight()
        self._owner: asyncio.Task[Any] | None = None

    @property
    def work(self) -> AgentWork:
        """The run as the agent kit sees it, from its start on."""
        if self._work is None:
            message = "the framework called a hook before wrap_run; is another capability answering runs by itself?"
            raise RuntimeError(message)
        return self._work

    @property
    def calls(self) -> Calls:
        """The tool calls of the run."""
        if self._calls is None:
            self._calls = Calls(self.work)
        return self._calls

    # --- the run ---

    @override
    async def wrap_run(self, ctx: RunContext[Any], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        """Join the session of the conversation, or of the agent that this one works for."""
        name = (ctx.agent.name if ctx.agent is not None else None) or "agent"
        async with self.kit.work(ctx.conversation_id or "", ctx.run_id or "", name, model=ctx.model.model_name) as work:
            self._work = work
            work.stop = ctx.cancel
            work.can_defer = self.may_defer or has_resolver(ctx, self)
            self._history = ctx.messages
            work.follow(ctx.messages, convert)
            text = prompt_text(ctx.prompt)
            sent = await work.begin(shown_text(text) if text is not None else None)
            if sent is not None and sent != text:
                self._prompt = with_text(ctx.prompt, sent)
            try:
                with _cancelled_with(self._owner):
                    result = await handler()
            except BaseException as error:
                await self._in_flight.stop()
                give_up_calls(self._history)
                work.follow(self._history, convert)
                work.end(error=error)
                raise
            work.follow(self._history, convert)
            output = result.output
            work.end(None if isinstance(output, DeferredToolRequests) else output_text(output))
            return result

    @override
    async def before_node_run(self, ctx: RunContext[Any], *, node: AgentNode[Any]) -> AgentNode[Any]:
        """Replace the person's message as transforms left it; copy what the model has answered."""
        self._history = ctx.messages
        if isinstance(node, UserPromptNode):
            if self._prompt is not None:
                return dataclasses.replace(node, user_prompt=self._prompt)
        elif isinstance(node, CallToolsNode):
            self.work.follow(ctx.messages, convert)
            if node.tool_call_results:
                await self.calls.answered_elsewhere(node.tool_call_results, node.model_response)
        return node

    @override
    async def after_node_run(
        self, ctx: RunContext[Any], *, node: AgentNode[Any], result: NodeResult[Any]
    ) -> NodeResult[Any]:
        """At the end of a turn, let follow-ups take the run further; never between calls and their results."""
        if isinstance(result, End) and not isinstance(result.data.output, DeferredToolRequests):
            self.work.follow(ctx.messages, convert)
            for message in await self.work.safe_point("turn_end"):
                ctx.enqueue(request_for(message))
        return result

    # --- the model ---

    @override
    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Let plugins' messages enter: all results of the step are in."""
        work = self.work
        self._history = ctx.messages
        work.follow(ctx.messages, convert)
        if self.compaction is not None:
            request_context = await compacted(work, ctx, request_context, self.compaction)
        messages = await work.safe_point("step")
        for message in messages:
            ctx.enqueue(request_for(message))
        work.requested(request_context.model.model_name, len(request_context.messages) + len(messages))
        self._requested_at = perf_counter()
        return request_context

    @override
    async def wrap_model_request(
        self, ctx: RunContext[Any], *, request_context: ModelRequestContext, handler: WrapModelRequestHandler
    ) -> ModelResponse:
        """Emit what the model answered, and how full its window is."""
        with self._in_flight.track():
            try:
                response = mended_response(await handler(request_context))
            except BaseException as error:
                reason = "interrupted" if isinstance(error, GeneratorExit) else type(error).__name__
                self._emit_response(stop_reason=reason)
                raise
            self._responded(ctx, response)
        return response

    def _emit_response(self, **fields: Any) -> None:
        """Emit the end of a request, with the time it took; nothing for one whose start was not emitted."""
        if self._requested_at is not None:
            took = round((perf_counter() - self._requested_at) * 1000, 3)
            self._requested_at = None
            self.work.responded(Responded(duration_ms=took, **fields, **self.work.about))

    def _responded(self, ctx: RunContext[Any], response: ModelResponse) -> None:
        work, usage = self.work, response.usage
        self._emit_response(
            model=response.model_name,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens or None,
            cache_creation_tokens=usage.cache_write_tokens or None,
            stop_reason=response.finish_reason,
        )
        for part in response.parts:
            if isinstance(part, ThinkingPart) and part.content:
                work.thought(part.content)
        if text := text_of(response):
            work.said(text)
        window = self.kit.context_window or ctx.model.context_window
        work.used(usage.input_tokens + usage.output_tokens, window)

    @override
    def get_wrapper_model(self, model: Model) -> Model | None:
        """Let plugins change what the model is asked, where any of them wants to."""
        session = self.work.live.session
        if session.is_closed or not (session.wants("system_prompt") or session.wants("model_request")):
            return None
        return TransformedModel(model, self.work)

    # --- tools ---

    @override
    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        """Add plugins' tools to the agent's own."""
        self._owner = asyncio.current_task()  # the framework asks for it in the task that drives the run
        return PluginToolset(toolset, work=lambda: self._work, check=self._check)

    def _check(self, ctx: RunContext[Any], tool: ToolsetTool[Any], args: dict[str, Any]) -> None:
        self.calls.check(ctx, tool, args, may_differ=takes_part(ctx, self, *CHANGES_ARGUMENTS))

    @override
    async def before_tool_validate(
        self, ctx: RunContext[Any], *, call: ToolCallPart, tool_def: ToolDefinition, args: RawToolArgs
    ) -> RawToolArgs:
        """Let plugins change the arguments, before they are checked."""
        return await self.calls.prepare(ctx, call, args)

    @override
    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: ValidatedToolArgs,
        handler: WrapToolExecuteHandler,
    ) -> Any:
        """Run the call if gates and the person allow it, and emit its events."""
        with self._in_flight.track():
            return await self.calls.execute(ctx, call, tool_def, args, handler)

    @override
    async def handle_deferred_tool_calls(
        self, ctx: RunContext[Any], *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        """Decide on the calls that the framework defers: for an approval, or for the host author to run."""
        return await self.calls.approve(requests)


@contextmanager
def _cancelled_with(owner: asyncio.Task[Any] | None) -> Generator[None]:
    """Cancel the task that enters when `owner` ends before it leaves.

    The framework runs `wrap_run` in a task of its own, and forgets that when the run is cancelled just as it begins.
    """
    own = asyncio.current_task()
    if owner is None or own is None or own is owner:
        yield
        return

    def cancel(_: object) -> None:
        own.cancel()

    owner.add_done_callback(cancel)
    try:
        yield
    finally:
        owner.remove_done_callback(cancel)
