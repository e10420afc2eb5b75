"""`AllyPlugins`, which runs agents as the framework's `Runner` does, with a host's plugins."""

# ruff: noqa: A002 - the framework calls an argument `input`

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, cast

from agents import Agent, RunConfig, RunResultStreaming, RunState
from agents.run import AgentRunner, get_default_agent_runner, set_default_agent_runner
from agents.run_internal.agent_runner_helpers import (
    validate_output_guardrails_with_server_managed_conversation,
    validate_session_conversation_settings,
)
from agents.run_internal.turn_preparation import validate_run_hooks

from ally_plugins.adapters.kit.between_runs import BetweenRuns
from ally_plugins.adapters.kit.context import current_place
from ally_plugins.adapters.kit.kit import AgentKit
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.ids import new_id

from .calls import RUN
from .plugin_run import PluginRun, Shared
from .serves import SERVES
from .streamed import StreamedRun
from .tools import may_interrupt

if TYPE_CHECKING:
    from agents import RunResult

    from ally_plugins.adapters.kit.options import CompactingOptions
    from ally_plugins.host.host import Host


__all__ = ["AllyPlugins"]


class AllyPlugins(BetweenRuns, AgentRunner):
    """Runs agents of the OpenAI Agents SDK with a host's plugins, by `run`, `run_sync` and `run_streamed` of `Runner`.

    One object serves any number of agents and conversations. The session is the framework's: the `session_id` of
    `session`, else `conversation_id`, else the `group_id` of the run's configuration; without one, each run is a
    conversation of its own. An agent that is run in a tool of another one joins its session, also where
    `Runner.run` runs it. A host that runs is used and left alone; another one is started with the first run and stopped
    when the last of those that overlap has ended.

    `approve` asks the person about a call; without it a question becomes one of the framework's interruptions where a
    tool of the agent has `needs_approval`, or `defer` says so, and is a deny elsewhere. `sensitive` names the tools
    that need permission, or maps them to how sensitive they are; tools with `needs_approval` do anyhow.
    `preview` tells what an edit would change before it is made. `context_window` is the model's in tokens. `compact`
    shortens the history of a run with a `session` when `compact_at` percent of the window are used, or when a plugin or
    the person asks: a function from items to items.
    """

    def __init__(self, host: Host, *, defer: bool | None = None, **options: Unpack[CompactingOptions]) -> None:
        self.defer = defer
        self._shared = Shared(defer)
        self.kit = AgentKit(host=host, serves=SERVES, **options)

    @override
    async def run(self, starting_agent: Agent[Any], input: Any, **options: Any) -> RunResult:
        """Run an agent as `Runner.run` does, with plugins.

        Raises GateRefused when a transform blocks the person's message, RunInterrupted when the run was stopped, and
        what the framework raises. Cancelling cancels the model and the tools.
        """

        async def once(agent: Agent[Any], given: Any, options: dict[str, Any]) -> Any:
            with run.work.stoppable():
                return await super(AllyPlugins, self).run(agent, given, **options)

        _check_options(starting_agent, input, options)
        run = await self._open(starting_agent, input, options)
        return cast("RunResult", await run.drive(starting_agent, input, once))

    @override
    def run_streamed(self, starting_agent: Agent[Any], input: Any, **options: Any) -> RunResultStreaming:
        """Run an agent as `Runner.run_streamed` does, with plugins; the result's properties are there once it runs."""
        _check_options(starting_agent, input, options)

        def start(agent: Agent[Any], given: Any, options: dict[str, Any]) -> RunResultStreaming:
            return super(AllyPlugins, self).run_streamed(agent, given, **options)

        return cast(
            "RunResultStreaming",
            StreamedRun(partial(self._open, starting_agent, input, options), starting_agent, input, start),
        )

    async def _open(self, agent: Agent[Any], given: Any, options: dict[str, Any]) -> PluginRun:
        _join_nested_runs()
        config = options.get("run_config")
        group = config.get("group_id") if isinstance(config, dict) else getattr(config, "group_id", None)
        session_id = getattr(options.get("session"), "session_id", None) or options.get("conversation_id") or group
        run_id, outer, place = new_id("run"), RUN.get(), current_place()
        parent = (
            outer.work if outer is not None and not outer.work.is_ended and outer.work.kit.host is self.host else None
        )
        call_id = place.call_id if place is not None and place.work is parent else None
        work = await self.kit.open(session_id or run_id, run_id, agent.name, parent=parent, call_id=call_id)
        may_defer = self.defer if self.defer is not None else isinstance(given, RunState) or may_interrupt(agent)
        work.can_defer = may_defer and work.approve is None
        return PluginRun(self, self._shared, work, options)


def _check_options(agent: Agent[Any], given: Any, options: dict[str, Any]) -> None:
    """Raise what the framework does about options before a run begins: nothing is asked or told of it then."""
    validate_run_hooks(options.get("hooks"))
    served = ("conversation_id", "previous_response_id", "auto_previous_response_id")
    # A state goes on with what its run had.
    kept: dict[str, Any] = {name: options.get(name) or getattr(given, f"_{name}", None) for name in served}
    kept["auto_previous_response_id"] = bool(kept["auto_previous_response_id"])
    validate_session_conversation_settings(options.get("session"), **kept)
    config = options.get("run_config")
    config = config if isinstance(config, RunConfig) else RunConfig(**(config or {}))
    reached = getattr(given, "_current_agent", None) or agent
    validate_output_guardrails_with_server_managed_conversation(reached, config, **kept)


class _NestedRuns(AgentRunner):
    """The framework's runner, which lets agents that are run within a run with plugins join that."""

    def __init__(self, runner: AgentRunner) -> None:
        self._runner = runner

    def _chosen(self) -> AgentRunner:
        run = RUN.get()
        return self._runner if run is None else run.runner

    @override
    async def run(self, starting_agent: Agent[Any], input: Any, **options: Any) -> RunResult:
        return await self._chosen().run(starting_agent, input, **options)

    @override
    def run_sync(self, starting_agent: Agent[Any], input: Any, **options: Any) -> RunResult:
        return self._chosen().run_sync(starting_agent, input, **options)

    @override
    def run_streamed(self, starting_agent: Agent[Any], input: Any, **options: Any) -> RunResultStreaming:
        return self._chosen().run_streamed(starting_agent, input, **options)


def _join_nested_runs() -> None:
    runner = get_default_agent_runner()
    if not isinstance(runner, (_NestedRuns, AllyPlugins)):
        set_default_agent_runner(_NestedRuns(runner))
