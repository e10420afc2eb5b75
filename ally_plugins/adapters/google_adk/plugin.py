"""`AllyPlugins`, what a host author adds to a runner: configuration shared by all runs, and the runs by invocation."""

# ruff: noqa: ARG002 - the framework gives every callback all of its arguments, by name

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Unpack
from weakref import WeakValueDictionary

from google.adk.plugins import BasePlugin

from ally_plugins.adapters.kit.between_runs import BetweenRuns
from ally_plugins.adapters.kit.kit import AgentKit
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import HostError
from ally_plugins.contract.values.ids import new_id

from .calls import PluginTool, after_call, before_call, failed_call
from .contents import event_of
from .run import PluginRun
from .serves import SERVES

if TYPE_CHECKING:
    from google.adk.events import Event
    from google.adk.runners import Runner
    from google.genai.types import Content

    from ally_plugins.adapters.kit.options import AgentOptions
    from ally_plugins.contract.values.conversation import SafePoint
    from ally_plugins.host.host import Host

__all__ = ["AllyPlugins"]


def _session_of(session: Any) -> str:
    """Return an id that no other user's conversation has, nor another app's: those of the framework may be the same."""
    return f"{session.app_name}/{session.user_id}/{session.id}"


class AllyPlugins(BetweenRuns, BasePlugin):
    """A plugin of the framework: `App(plugins=[..., AllyPlugins(host)], ...)` lives with the host's plugins.

    Give it as the last one: what others make of a message, a request or a call is what plugins see then. One object
    serves any number of runners and conversations; an agent that is run in a tool of another one (`AgentTool`) joins
    its session. A host that runs is used and left alone; another one is started with the first run and stopped when the
    last of those that overlap has ended.

    `approve` asks the person about a call; without it a question is a deny, or with `defer` one of the framework's
    requests for a confirmation, which the run ends with. `sensitive` names the tools that need permission, or maps them
    to how sensitive they are. `preview` tells what an edit would change before it is made. `context_window` is the
    model's in tokens. `session_id` returns the id that plugins know a conversation by.
    """

    serves = SERVES
    """What plugins are given in these runs."""

    def __init__(
        self,
        host: Host,
        *,
        defer: bool = False,
        session_id: Callable[[Any], str] = _session_of,
        **options: Unpack[AgentOptions],
    ) -> None:
        super().__init__(name="ally_plugins")
        self.kit = AgentKit(host=host, serves=self.serves, **options)
        self._may_defer = defer and self.kit.approve is None
        self._session_id = session_id
        self._runs: WeakValueDictionary[str, PluginRun] = WeakValueDictionary()
        """By the id of their invocation: those that are under way, which their work keeps, and ended ones."""
        self._driven: dict[str, PluginRun | None] = {}
        """Those of `run_async`, by the id of their session; None before it is known."""

    async def run_async(
        self, runner: Runner, *, user_id: str, session_id: str, new_message: Content | None = None, **options: Any
    ) -> AsyncGenerator[Event, None]:
        """Run a turn as `runner.run_async` does, and let plugins take it further where it would end.

        Without a message it is a turn that a plugin has woken the agent for. Cancelling ends the run, as does leaving
        the events unread.
        """
        found = await runner.session_service.get_session(
            app_name=runner.app_name, user_id=user_id, session_id=session_id
        )
        if found is None:
            raise HostError(f"there is no session {session_id!r} of the user {user_id!r}; create it first")
        key = self._session_id(found)
        if key in self._driven:
            raise HostError(f"a turn of the conversation {key!r} is under way; wait for its end")
        self._driven[key] = None
        who: Any = {"user_id": user_id, "session_id": session_id}
        given: Any = {"new_message": new_message}
        try:
            if new_message is None:
                woken = await self._open(found, runner.agent.name)
                await woken.begin(None)
                given = await self._continued(runner, woken, "step")
            while given is not None:
                async with aclosing(runner.run_async(**who, **given, **options)) as events:
                    async for event in events:
                        yield event
                run, given = self._driven[key], None
                if run is not None and not run.is_stopped:
                    given = await self._continued(runner, run, "turn_end")
        except BaseException as error:
            if (run := self._driven[key]) is not None:
                await run.end(error)
            raise
        finally:
            if (run := self._driven.pop(key)) is not None:
                await run.end(None)

    async def _continued(self, runner: Runner, run: PluginRun, at: SafePoint) -> dict[str, str] | None:
        """Put plugins' messages into the session; return what an invocation is given to answer them, None without."""
        messages, invocation = await run.work.safe_point(at), new_id("i")
        for message in messages:
            await runner.session_service.append_event(run.session, event_of(message, invocation))
        return {"invocation_id": invocation} if messages else None

    # --- the framework's callbacks ---

    async def _open(self, session: Any, name: str) -> PluginRun:
        key = self._session_id(session)
        is_driven = key in self._driven
        ends_with = None if is_driven else asyncio.current_task()
        work = await self.kit.open(key, new_id("r"), name, ends_with=ends_with)
        work.can_defer = self._may_defer
        run = PluginRun(work, session)
        if is_driven:
            self._driven[key] = run
        return run

    async def _join(self, context: Any) -> tuple[PluginRun, bool]:
        """Return the run of an invocation, and whether it is a new one. Raises HostError for a live one."""
        if context.live_request_queue is not None:
            raise HostError("plugins see little of run_live; use run_async")
        run = self._runs.get(context.invocation_id) or self._driven.get(self._session_id(context.session))
        is_new = run is None or run.work.is_ended
        if run is None or is_new:
            run = await self._open(context.session, context.agent.name)
        run.enter(context)
        self._runs[context.invocation_id] = run
        return run, is_new

    def _run(self, context: Any) -> PluginRun:
        """Return the run of an invocation. Raises HostError when plugins know of none: it must not go on without."""
        run = self._runs.get(context.invocation_id)
        if run is None or run.work.is_ended:
            raise HostError(f"plugins know of no run with the invocation {context.invocation_id!r}")
        return run

    @override
    async def on_user_message_callback(self, *, invocation_context: Any, user_message: Content) -> Content | None:
        """Begin the turn with the person's message as transforms left it."""
        run, _ = await self._join(invocation_context)
        try:
            return await run.begin(user_message)
        except BaseException as error:
            self._runs.pop(invocation_context.invocation_id, None)
            await run.end(error)
            raise

    @override
    async def before_run_callback(self, *, invocation_context: Any) -> None:
        """Begin a turn that has no message: one that goes on with an earlier invocation."""
        run, is_new = await self._join(invocation_context)
        if is_new:
            await run.begin(None)

    @override
    async def after_run_callback(self, *, invocation_context: Any) -> None:
        """End the turn, unless plugins may take it further."""
        run = self._runs.pop(invocation_context.invocation_id, None)
        if run is not None and run not in self._driven.values():
            await run.end(None)

    @override
    async def on_run_error_callback(self, *, invocation_context: Any, error: Exception) -> None:
        """End the turn with its error."""
        run = self._runs.pop(invocation_context.invocation_id, None)
        if run is not None:
            await run.end(error)

    @override
    async def before_model_callback(self, *, callback_context: Any, llm_request: Any) -> None:
        """Let plugins' messages enter, and plugins change what the model is asked; offer their tools."""
        run = self._run(callback_context)
        await run.before_request(callback_context, llm_request)
        offered = run.work.offered(taken=llm_request.tools_dict)
        llm_request.append_tools([PluginTool(run.work, tool) for tool in offered])

    @override
    async def after_model_callback(self, *, callback_context: Any, llm_response: Any) -> Any:
        """Emit what the model answered, as plugins left it."""
        return await self._run(callback_context).responded(callback_context, llm_response)

    @override
    async def on_model_error_callback(self, *, callback_context: Any, llm_request: Any, error: Exception) -> None:
        """Emit that the model failed."""
        self._run(callback_context).work.model_failed(error, by=callback_context.agent_name)

    @override
    async def before_tool_callback(self, *, tool: Any, tool_args: Any, tool_context: Any) -> dict[str, Any] | None:
        """Let the call run if gates and the person allow it."""
        return await before_call(self._run(tool_context), tool, tool_args, tool_context)

    @override
    async def after_tool_callback(
        self, *, tool: Any, tool_args: Any, tool_context: Any, result: Any
    ) -> dict[str, Any] | None:
        """Return the result as transforms leave it."""
        return await after_call(self._run(tool_context), tool, tool_context, result)

    @override
    async def on_tool_error_callback(
        self, *, tool: Any, tool_args: Any, tool_context: Any, error: BaseException
    ) -> dict[str, Any] | None:
        """End the call with its error, which the model reads."""
        return await failed_call(self._run(tool_context), tool_context, error)
