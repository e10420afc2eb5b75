"""`AllyPlugins`, what a host author adds to an agent: configuration shared by all runs, and the runs by their id.

One object stands in each run: a copy for each would make the framework choose the model again, and then it does not
take off the wrapper that reports its requests, so that telemetry shows each of them twice.
"""

# ruff: noqa: ARG002 - the framework gives every hook all of its arguments, by name

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Unpack, get_args
from weakref import WeakValueDictionary

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.models import Model
from pydantic_ai.tools import DeferredToolRequests

from ally_plugins.adapters.kit.between_runs import BetweenRuns
from ally_plugins.adapters.kit.kit import AgentKit
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import HostError

from .other_capabilities import takes_part
from .plugin_run import PluginRun
from .serves import SERVES
from .toolset import PluginToolset

if TYPE_CHECKING:
    from pydantic_ai.capabilities.abstract import (
        AgentNode,
        NodeResult,
        RawToolArgs,
        ValidatedToolArgs,
        WrapModelRequestHandler,
        WrapRunHandler,
        WrapToolExecuteHandler,
    )
    from pydantic_ai.messages import ModelResponse, ToolCallPart
    from pydantic_ai.models import ModelRequestContext
    from pydantic_ai.run import AgentRunResult
    from pydantic_ai.tools import DeferredToolResults, RunContext, ToolDefinition
    from pydantic_ai.toolsets import AbstractToolset

    from ally_plugins.adapters.kit.options import CompactingOptions
    from ally_plugins.contract.serves import Serves
    from ally_plugins.host.host import Host

__all__ = ["AllyPlugins"]

_REQUESTING: Final[ContextVar[str | None]] = ContextVar("ally_requesting", default=None)
"""The id of the run that is about to ask the model: the framework wraps the model behind that, and names no run."""


def _has_requests(output: Any) -> bool:
    """Say whether an output type has `DeferredToolRequests`, so that a question can become a deferred approval."""
    members = output if isinstance(output, (list, tuple)) else get_args(output)
    return output is DeferredToolRequests or any(map(_has_requests, members))


class _Runs(dict[str, PluginRun]):
    """The runs by their id. Raises RuntimeError for one that no `wrap_run` was called for."""

    def __missing__(self, run_id: str) -> PluginRun:
        message = "the framework called a hook before wrap_run; is another capability answering runs by itself?"
        raise RuntimeError(message)


class AllyPlugins(BetweenRuns, AbstractCapability[Any]):
    """A pydantic-ai capability: `Agent(model, capabilities=[AllyPlugins(host)])` lives with the host's plugins.

    One object serves any number of agents and conversations; sessions follow the framework's conversation id, and an
    agent that is run in a tool of another one joins its session. A host that runs is used and left alone; another one
    is started with the first run and stopped when the last of those that overlap has ended.

    `approve` asks the person about a call; without it a question becomes one of the framework's deferred approvals
    where the agent's output type has `DeferredToolRequests` (`defer` says so for a type that is given to the run), and
    is a deny elsewhere. `sensitive` names the tools that need permission, or maps them to how sensitive they are; tools
    that the framework marks as requiring approval do anyhow. `preview` tells what an edit would change before it is
    made. `context_window` is the model's in tokens, where the framework does not know it. `compact` shortens histories
    when `compact_at` percent of it is used, or when a plugin or the person asks: a function from messages to messages,
    or one of the harness's compaction strategies.
    """

    serves: ClassVar[Serves] = SERVES
    """What plugins are served in this framework's runs."""

    def __init__(
        self,
        host: Host,
        *,
        defer: bool | None = None,
        id: str = "ally-plugins",  # noqa: A002 - the framework's own name for it
        **options: Unpack[CompactingOptions],
    ) -> None:
        self.id = id
        self.description = None
        self.defer_loading = False
        self.defer = defer
        self.kit = AgentKit(host=host, serves=self.serves, **options)
        self._runs = _Runs()
        self._owners: WeakValueDictionary[str, asyncio.Task[Any]] = WeakValueDictionary()
        """The tasks that drive runs, by the run's id."""

    @classmethod
    @override
    def get_serialization_name(cls) -> str | None:
        """Say that a specification in a file cannot name it: it holds a host."""
        return None

    @classmethod
    @override
    def combine(cls, capabilities: Sequence[AbstractCapability[Any]]) -> AbstractCapability[Any]:
        """Let the last of several in one list stand for all, so that no call is gated twice."""
        return capabilities[-1]

    # --- the framework's hooks ---

    @override
    async def wrap_run(self, ctx: RunContext[Any], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        """Join the session of the conversation, or of the agent that this one works for.

        Raises HostError for a realtime session, of which the framework shows plugins the tool calls alone.
        """
        if not isinstance(ctx.model, Model):
            raise HostError("plugins see nothing of what is said in a realtime session; use run, iter or run_stream")
        run_id = ctx.run_id or ""
        if run_id in self._runs:
            raise HostError(f"a run with the id {run_id!r} is under way; give each run an id of its own")
        name = (ctx.agent.name if ctx.agent is not None else None) or "agent"
        kept = AsyncExitStack()
        work = await kept.enter_async_context(
            self.kit.work(ctx.conversation_id or "", run_id, name, model=ctx.model.model_name)
        )
        # Before the run begins, whose first events may lead a plugin to interrupt it.
        work.stop = ctx.cancel
        # Of the agent's own output type; one that is given to the run is not seen here.
        may_defer = _has_requests(ctx.agent.output_type) if self.defer is None and ctx.agent is not None else self.defer
        # Where another capability resolves deferred calls, raising one is no error.
        work.can_defer = bool(may_defer) or takes_part(ctx, self, "handle_deferred_tool_calls")
        self._runs[run_id] = run = PluginRun(work, self, kept, self._owners.pop(run_id, None))
        # Entered last, so called first: what the framework still calls then is refused, and reaches no closed run.
        kept.callback(self._runs.pop, run_id)
        return await run.drive(ctx, handler)

    @override
    async def before_node_run(self, ctx: RunContext[Any], *, node: AgentNode[Any]) -> AgentNode[Any]:
        """Replace the person's message as transforms left it."""
        return await self._runs[ctx.run_id or ""].before_node(ctx, node)

    @override
    async def after_node_run(
        self, ctx: RunContext[Any], *, node: AgentNode[Any], result: NodeResult[Any]
    ) -> NodeResult[Any]:
        """Let follow-ups of plugins take the run further."""
        return await self._runs[ctx.run_id or ""].after_node(ctx, result)

    @override
    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Let plugins' messages enter."""
        _REQUESTING.set(ctx.run_id)
        return await self._runs[ctx.run_id or ""].before_request(ctx, request_context)

    @override
    async def wrap_model_request(
        self, ctx: RunContext[Any], *, request_context: ModelRequestContext, handler: WrapModelRequestHandler
    ) -> ModelResponse:
        """Emit what the model answered."""
        return await self._runs[ctx.run_id or ""].request(ctx, request_context, handler)

    @override
    def get_wrapper_model(self, model: Model) -> Model | None:
        """Let plugins change what the model is asked. Raises RuntimeError outside of a request."""
        run = self._runs.get(_REQUESTING.get() or "")
        if run is None:
            message = "the framework wraps a model for no run; plugins could not see what it is asked"
            raise RuntimeError(message)
        return run.wrapped_model(model)

    @override
    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        """Add plugins' tools to the agent's own."""
        # The framework asks for it in the task that drives the run, and not in that of `wrap_run`.
        return PluginToolset(toolset, runs=self._runs, owners=self._owners, owner=asyncio.current_task())

    @override
    async def before_tool_validate(
        self, ctx: RunContext[Any], *, call: ToolCallPart, tool_def: ToolDefinition, args: RawToolArgs
    ) -> RawToolArgs:
        """Let plugins change the arguments, before they are checked."""
        return await self._runs[ctx.run_id or ""].calls.prepare(ctx, call, args)

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
        """Run the call if gates and the person allow it."""
        run = self._runs[ctx.run_id or ""]
        async with run.under_way:
            return await run.calls.execute(ctx, call, tool_def, partial(handler, args))

    @override
    async def handle_deferred_tool_calls(
        self, ctx: RunContext[Any], *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        """Decide on the calls that the framework defers: for an approval, or for the host author to run."""
        return await self._runs[ctx.run_id or ""].calls.approve(requests)
