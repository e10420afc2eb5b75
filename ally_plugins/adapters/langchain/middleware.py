"""`AllyPlugins`, what a host author adds to an agent: configuration shared by all runs, and the framework's hooks.

Each hook is there twice, for graphs that a task drives and such that a thread does; the second waits for the first.
"""

# ruff: noqa: ARG002 - the framework gives every hook all of its arguments, by name

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack
from uuid import UUID, uuid4
from weakref import WeakKeyDictionary

from langchain.agents.middleware import AgentMiddleware, hook_config
from langchain_core.messages import AIMessage, BaseMessage, RemoveMessage
from langgraph.config import get_config
from langgraph.errors import GraphDrained
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from ally_plugins.adapters.kit.between_runs import BetweenRuns
from ally_plugins.adapters.kit.kit import AgentKit
from ally_plugins.adapters.kit.run import Interrupted
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import ToolResult
from ally_plugins.contract.values.errors import GateRefused, HostError
from ally_plugins.runtime.lanes.call_thread import run_around, run_blocking
from ally_plugins.runtime.lanes.cross_loop_lock import CrossLoopLock

from .calls import GraphCall
from .messages import CUT, answered, convert, is_persons, message_for, text_of, with_text
from .requests import mended_response, model_name, settled, transformed
from .runs import OPEN, PluginRun, ended, graph_run, loop_below, messages_in, running_loop
from .serves import SERVES
from .streams import held_stream

if TYPE_CHECKING:
    from langchain.agents.middleware import ModelRequest, ModelResponse, ToolCallRequest
    from langchain_core.runnables import RunnableConfig

    from ally_plugins.adapters.kit.live_sessions import LiveSession
    from ally_plugins.adapters.kit.options import CompactingOptions
    from ally_plugins.adapters.kit.work import AgentWork
    from ally_plugins.contract.serves import Serves
    from ally_plugins.host.host import Host

    from .calls import Asked, Handler

__all__ = ["AllyPlugins"]

Update = dict[str, Any] | None


class AllyPlugins(BetweenRuns, AgentMiddleware[Any, Any, Any]):
    """Middleware: `create_agent(model, tools, middleware=[..., AllyPlugins(host)])`, as the last of it.

    One object serves any number of agents and conversations; a session is the framework's thread, and an agent that is
    run in a tool of another one joins its session. A host that runs is used and left alone; another one is started with
    the first run and stopped when the last of those that overlap has ended.

    `approve` asks the person about a call; without it a question becomes an interrupt of the framework where the graph
    has a checkpointer (`defer=False`: nowhere), and is a deny elsewhere. `sensitive` names the tools that need
    permission, or maps them to how sensitive they are. `preview` tells what an edit would change before it is made.
    `context_window` is the model's in tokens, where the framework does not know it. `compact` shortens histories when
    `compact_at` percent of it is used, or when a plugin or the person asks: a function from messages to messages.
    """

    serves: ClassVar[Serves] = SERVES
    """What plugins are served in graphs of this framework."""

    def __init__(self, host: Host, *, defer: bool = True, **options: Unpack[CompactingOptions]) -> None:
        super().__init__()
        self.tools = []
        self.defer = defer
        self.kit = AgentKit(host=host, serves=self.serves, **options)
        self._opening: dict[UUID, CrossLoopLock] = {}
        self._asked: WeakKeyDictionary[LiveSession, Asked] = WeakKeyDictionary()
        self._prompts: WeakKeyDictionary[LiveSession, set[tuple[str | None, str]]] = WeakKeyDictionary()
        """The person's messages that runs have begun with and nobody has answered: those failed. By id and text."""
        self._heard: WeakKeyDictionary[LiveSession, dict[str | None, str]] = WeakKeyDictionary()
        """The person's messages as the last run has left them, by id: whoever sends one again may change it by that."""

    # --- runs ---

    async def _run(self, config: RunnableConfig, history: Sequence[BaseMessage] | None = None) -> PluginRun:
        """Return the run of the graph that a hook belongs to, opened by the first of them.

        With a history, one that was not begun yet begins with that, and without a prompt.
        """
        run_id = graph_run(config) or uuid4()  # a tool node that stands alone: each call is a run of its own
        if (run := self._found(run_id)) is not None and run.has_begun:
            return run
        async with self._opening.setdefault(run_id, CrossLoopLock()):  # calls that go on may come at once
            run = self._found(run_id) or await self._open(config, run_id)
            if history is not None and not run.has_begun:
                run.follow(history)
                await run.work.begin(None)
            run.has_begun = True
        self._opening.pop(run_id, None)
        return run

    def _found(self, run_id: UUID) -> PluginRun | None:
        return next((run for run in OPEN.get(run_id, ()) if run.owner is self), None)

    async def _open(self, config: RunnableConfig, run_id: UUID) -> PluginRun:
        configurable = config.get("configurable", {})
        name = config.get("metadata", {}).get("lc_agent_name") or "agent"
        work = await self.kit.open(str(configurable.get("thread_id") or run_id), str(run_id), name)
        # The framework's own names for what it gives nodes: there are no public ones that hold outside of a node too.
        work.can_defer = self.defer and configurable.get("__pregel_checkpointer") is not None
        run = PluginRun(self, work, getattr(configurable.get("__pregel_runtime"), "control", None))
        await run.under_way.__aenter__()
        OPEN.setdefault(run_id, []).append(run)
        return run

    @override
    @hook_config(can_jump_to=["end"])
    async def abefore_agent(self, state: Any, runtime: Any) -> Update:
        """Begin a turn: the person's message as plugins left it, and a history whose calls all have results."""
        run = await self._run(get_config())
        messages, given_up = answered(state["messages"])
        prompts = self._new_prompts(run, messages)
        run.follow([each for each in messages if each not in prompts])
        await self._give_up(run.work, given_up)
        text = "\n".join(map(text_of, prompts)) if prompts else None
        try:
            sent = await run.work.begin(text)
        except GateRefused as refused:
            run.refused = refused
            return {"messages": [RemoveMessage(each.id or "") for each in prompts], "jump_to": "end"}
        # Only now: what was refused is asked about again when it is said again.
        self._prompts.setdefault(run.work.live, set()).update((each.id, text_of(each)) for each in prompts)
        if sent is not None and sent != text:
            messages = [each for each in messages if each not in prompts]
            messages.append(with_text(prompts[-1], sent))
            self._prompts[run.work.live].add((prompts[-1].id, text_of(messages[-1])))
        elif not given_up:
            return None
        return {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), *messages]}

    def _new_prompts(self, run: PluginRun, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        """Return what the person has said since the last answer, without what an earlier run has begun with.

        An older message that is another one by now is said now, too.
        """
        known, heard = self._prompts.get(run.work.live, set()), self._heard.get(run.work.live, {})
        found: list[BaseMessage] = []
        is_last = True
        for message in reversed(messages):
            is_last = is_last and not (isinstance(message, AIMessage) or message.type == "tool")
            if is_persons(message):
                text = text_of(message)
                if (message.id, text) not in known if is_last else heard.get(message.id, text) != text:
                    found.insert(0, message)
        return found

    async def _give_up(self, work: AgentWork, call_ids: Sequence[str]) -> None:
        """End the calls that waited for a run which would go on with them: the conversation goes on without."""
        asked = self._asked.pop(work.live, {})
        for opened in [work.live.deferred[each] for each in call_ids if each in work.live.deferred]:
            if asked.get(opened.call.call_id or ""):
                work.refused_elsewhere(opened.call, CUT)
            else:
                await work.answered_elsewhere(opened.call, ToolResult(success=False, error=CUT))

    @override
    @hook_config(can_jump_to=["model"])
    async def aafter_agent(self, state: Any, runtime: Any) -> Update:
        """Let follow-ups, and gates of its end, take the turn further. Raises GateRefused where one has ended it."""
        run = await self._run(get_config(), state["messages"])
        if run.refused is not None:
            raise run.refused
        run.follow(state["messages"])
        answer = next((text_of(each) for each in state["messages"][-1:] if isinstance(each, AIMessage)), None)
        if answer is not None and run.work.parent is None:
            self._prompts.pop(run.work.live, None)
            self._heard[run.work.live] = {each.id: text_of(each) for each in state["messages"] if is_persons(each)}
        added = await run.work.safe_point("turn_end") or await run.work.sent_on(answer)
        return {"messages": [message_for(each) for each in added], "jump_to": "model"} if added else None

    # --- the model ---

    @override
    async def abefore_model(self, state: Any, runtime: Any) -> Update:
        """Let plugins' messages enter: all results of the step are in."""
        messages: list[BaseMessage] = state["messages"]
        run = await self._run(get_config(), messages)
        run.follow(messages)
        shorter = await run.work.compacted(list(messages), convert)
        added = [message_for(each) for each in await run.work.safe_point("step")]
        if shorter is not None:
            return {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), *shorter, *added]}
        return {"messages": added} if added else None

    @override
    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> Any:
        """Send the request as transforms left it, and emit what the model answered."""
        run = await self._run(get_config(), request.messages)
        if run.refused is not None:
            raise run.refused
        async with run.under_way:
            run.work.requested(model_name(request), len(request.messages))
            try:
                with run.stoppable():
                    sent = await transformed(run, request)
                    response = mended_response(await handler(sent))
                    run.work.received()
                    answer = next((each for each in response.result if isinstance(each, AIMessage)), None)
                    response = await settled(run, response, held_stream(sent.model))
            except BaseException as error:
                run.work.model_failed(error)
                if isinstance(error, Interrupted):
                    raise GraphDrained(str(error)) from None
                raise
            refusal = run.work.refusal
            _responded(run.work, request, answer, [AIMessage(refusal.shown)] if refusal else response.result)
            return response

    # --- tools ---

    @override
    async def awrap_tool_call(self, request: ToolCallRequest, handler: Handler) -> Any:
        """Run the call if gates and the person allow it. Raises what the tool raises, and GraphInterrupt to ask."""
        config = request.runtime.config
        run = await self._run(config, messages_in(request.state))
        try:
            async with run.under_way:
                asked = self._asked.setdefault(run.work.live, {})
                return await GraphCall(run, request, asked).carry_out(handler, unseen=_unseen(request, handler))
        finally:
            if graph_run(config) is None:
                await ended(UUID(run.work.id))

    # --- the same for threads without a loop ---

    @override
    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: Any, runtime: Any) -> Update:
        """Do as `abefore_agent` does."""
        return self._waited_for(self.abefore_agent, state, runtime)

    @override
    def before_model(self, state: Any, runtime: Any) -> Update:
        """Do as `abefore_model` does."""
        return self._waited_for(self.abefore_model, state, runtime)

    @override
    @hook_config(can_jump_to=["model"])
    def after_agent(self, state: Any, runtime: Any) -> Update:
        """Do as `aafter_agent` does."""
        return self._waited_for(self.aafter_agent, state, runtime)

    def _waited_for(self, hook: Callable[..., Coroutine[Any, Any, Update]], state: Any, runtime: Any) -> Update:
        self._check_loop(get_config())
        return run_blocking(hook(state, runtime))

    @override
    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Do as `awrap_model_call` does."""
        self._check_loop(get_config())
        return run_around(self.awrap_model_call, request, handler)

    @override
    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        """Do as `awrap_tool_call` does; the tool runs in this thread, and is not cancelled when the run is stopped."""
        self._check_loop(request.runtime.config)
        return run_around(self.awrap_tool_call, request, handler)

    def _check_loop(self, config: RunnableConfig) -> None:
        """Raise HostError where a graph that runs in a thread has stopped the loop of the host by that."""
        loop = self.host.loop
        if loop is not None and loop in {running_loop(), loop_below(config)}:
            raise HostError(
                "invoke() stops the loop on which the plugins' host runs, which cannot answer; use ainvoke()"
            )


def _unseen(request: ToolCallRequest, handler: Any) -> str | None:
    """Return why a call must not run: plugins would not see what does."""
    name, runs = request.tool_call["name"], request.tool.name if request.tool is not None else None
    # A tool that the node does not know may be made up for the call, whatever it is called in itself.
    if runs not in {None, name} and {name, runs} & {tool.name for tool in request.runtime.tools or ()}:
        return f"the call names the tool {name!r}, and what would run is {runs!r}"
    if getattr(handler, "__module__", None) != "langgraph.prebuilt.tool_node":  # what it calls may change the call
        return "something stands between plugins and the tool; give AllyPlugins as the last of the middleware"
    return None


def _responded(
    work: AgentWork, request: ModelRequest[Any], answer: AIMessage | None, shown: Sequence[BaseMessage]
) -> None:
    """Tell of a response: its counts, how full the window is, and what is `shown` of it."""
    usage: Any = (answer.usage_metadata if answer is not None else None) or {}
    details, cached = answer.response_metadata if answer is not None else {}, usage.get("input_token_details", {})
    said = [message for message in shown if isinstance(message, AIMessage)]
    blocks = [block for message in said for block in message.content_blocks if block["type"] == "reasoning"]
    work.model_answered(
        "".join(map(text_of, said)),
        thoughts=[str(block.get("reasoning", "")) for block in blocks],
        window=(request.model.profile or {}).get("max_input_tokens"),
        model=details.get("model_name") or model_name(request),
        input_tokens=usage.get("input_tokens"),
        output_tokens=usage.get("output_tokens"),
        cache_read_tokens=cached.get("cache_read") or None,
        cache_creation_tokens=cached.get("cache_creation") or None,
        stop_reason=details.get("finish_reason") or details.get("stop_reason"),
    )
