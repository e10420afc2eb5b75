"""`AllyPlugins`, what a host author adds to an agent: configuration shared by all runs, and the runs by their agent."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Unpack
from weakref import WeakKeyDictionary

from strands.hooks import (
    AfterInvocationEvent,
    AfterToolsEvent,
    BeforeInvocationEvent,
    BeforeModelCallEvent,
    BeforeToolCallEvent,
)
from strands.middleware import ExecuteToolContext, ExecuteToolStage, InvokeModelContext, InvokeModelStage
from strands.plugins import Plugin
from strands.types.agent import ConcurrentInvocationMode

from ally_plugins.adapters.kit.between_runs import BetweenRuns
from ally_plugins.adapters.kit.kit import AgentKit
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import HostError
from ally_plugins.contract.values.ids import new_id

from .calls import PluginTool, run_call
from .run import PluginRun, model_name
from .serves import SERVES

if TYPE_CHECKING:
    from strands import Agent
    from strands.middleware import MiddlewareNext
    from strands.types.events import TypedEvent

    from ally_plugins.adapters.kit.options import CompactingOptions
    from ally_plugins.host.host import Host

__all__ = ["AllyPlugins"]

FIRST, LAST = -1000, 1000
"""Before and behind whatever others have registered: plugins' tools are there for them, and gates see what is final."""


class AllyPlugins(BetweenRuns, Plugin):
    """A strands plugin: `Agent(model, plugins=[AllyPlugins(host)])` lives with the host's plugins.

    One object serves any number of agents, each of which is a conversation with its `session_id`; an agent that is run
    in a tool of another one joins its session. A host that runs is used and left alone; another one is started with the
    first run and stopped when the last of those that overlap has ended.

    `approve` asks the person about a call; without it a question is a deny, or with `defer` one of the framework's
    interrupts, which the agent is resumed from with the response `"allow"` or `"deny"`. `sensitive` names the tools
    that need permission, or maps them to how sensitive they are. `preview` tells what an edit would change before it is
    made. `context_window` is the model's in tokens, where its configuration does not say. `compact` shortens histories
    when `compact_at` percent of it is used, or when a plugin or the person asks: a function from messages to messages.
    """

    serves = SERVES
    """What plugins are given in these runs."""

    def __init__(self, host: Host, *, defer: bool = False, **options: Unpack[CompactingOptions]) -> None:
        super().__init__()
        self.kit = AgentKit(host=host, serves=self.serves, **options)
        self._may_defer = defer and self.kit.approve is None
        self._runs: WeakKeyDictionary[Agent, PluginRun] = WeakKeyDictionary()

    @property
    @override
    def name(self) -> str:
        """The name of this plugin among the framework's."""
        return "ally-plugins"

    # --- the framework's hooks and middleware ---

    @override
    def init_agent(self, agent: Agent) -> None:
        """Take part in all that an agent does."""
        agent.add_hook(self._before_invocation, BeforeInvocationEvent, order=LAST)
        agent.add_hook(self._before_model_call, BeforeModelCallEvent, order=LAST)
        agent.add_hook(self._before_tool_call, BeforeToolCallEvent, order=FIRST)
        agent.add_hook(self._after_tools, AfterToolsEvent, order=LAST)
        agent.add_hook(self._after_invocation, AfterInvocationEvent, order=LAST)
        agent.add_middleware(InvokeModelStage, self._invoke_model)
        agent.add_middleware(ExecuteToolStage, self._execute_tool)

    def _stand_innermost(self, agent: Any) -> None:
        """Move this middleware behind what was added after it, which could change what plugins have seen.

        The framework has no word for the order. Raises AttributeError where its registry is another one: nothing runs.
        """
        for stage, own in ((InvokeModelStage, self._invoke_model), (ExecuteToolStage, self._execute_tool)):
            entries = agent._middleware_registry._handlers[stage]  # noqa: SLF001 - as said
            if entries[-1].handler != own:
                entries.sort(key=lambda entry: entry.handler == own)

    async def _before_invocation(self, event: BeforeInvocationEvent) -> None:
        agent: Any = event.agent
        run = self._runs.get(agent)
        if run is not None and run.goes_on:  # for what plugins have added at the turn's end
            run.goes_on = False
            return
        if event.cancel:
            return
        if agent.concurrent_invocation_mode != ConcurrentInvocationMode.THROW:  # a text is taken as well
            raise HostError("with plugins an agent has one run at a time; leave out concurrent_invocation_mode")
        if run is not None:  # a hook of somebody's failed before it began, and the framework told nobody
            await run.work.close(cause="the agent was run again")
        session_id = agent.session_id
        work = await self.kit.open(session_id, new_id("r"), agent.name, model=model_name(agent.model))
        work.can_defer = self._may_defer
        self._runs[agent] = run = PluginRun(work, agent)
        try:
            await run.begin(event)
        except BaseException as error:
            del self._runs[agent]
            await work.close(error=error)
            raise

    async def _after_invocation(self, event: AfterInvocationEvent) -> None:
        agent: Any = event.agent
        run = self._runs.get(agent)
        if run is None or run.goes_on or await run.goes_further(event):
            return
        del self._runs[agent]
        # The framework calls this while it handles what the run has failed with, and does not say what that is.
        await run.end(event.result, sys.exc_info()[1] if event.result is None else None)

    async def _before_model_call(self, event: BeforeModelCallEvent) -> None:
        self._stand_innermost(event.agent)
        await self._run(event.agent).before_request()

    async def _invoke_model(
        self, context: InvokeModelContext, next_fn: MiddlewareNext[InvokeModelContext, TypedEvent]
    ) -> AsyncGenerator[TypedEvent, None]:
        async for event in self._run(context.agent).request(context, next_fn):
            yield event

    def _before_tool_call(self, event: BeforeToolCallEvent[Any]) -> None:
        self._stand_innermost(event.agent)
        run = self._runs.get(event.agent)
        offered = run.offered.get(event.tool_use["name"]) if run is not None else None
        if run is not None and offered is not None and event.selected_tool is None:
            event.selected_tool = PluginTool(run.work, offered)

    async def _execute_tool(
        self, context: ExecuteToolContext, next_fn: MiddlewareNext[ExecuteToolContext, TypedEvent]
    ) -> AsyncGenerator[TypedEvent, None]:
        agent: Any = context.agent
        run = self._runs.get(agent)
        is_background = context.cancel_signal is not agent.cancel_signal  # it may outlive its run
        if context.tool is None or context.tool.tool_type == "structured_output":
            async for event in next_fn(context):  # there is no such tool, or it is the answer
                yield event
        elif run is not None and not is_background and "event_loop_cycle_id" in context.invocation_state:
            async for event in run_call(run.work, context, next_fn):
                yield event
        else:  # or the host author calls agent.tool.NAME(...): no turn begins, and nothing could wait for the person
            async with self.kit.work(agent.session_id, new_id("r"), agent.name) as work:
                work.stop = agent.cancel
                async for event in run_call(work, context, next_fn):
                    yield event

    async def _after_tools(self, event: AfterToolsEvent) -> None:
        await self._run(event.agent).after_tools(event)

    def _run(self, agent: Any) -> PluginRun:
        """Return the run of an agent. Raises HostError when plugins know of none: it must not go on without them."""
        run = self._runs.get(agent)
        if run is None:
            raise HostError(f"plugins know of no run of the agent {agent.name!r}")
        return run
