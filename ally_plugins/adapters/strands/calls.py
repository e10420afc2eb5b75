"""One tool call of a run: its final arguments, whether it may run, and what came of it; plugins' tools."""

# ruff: noqa: ARG002 - the framework gives a tool more than this one needs

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from strands.interrupt import InterruptException
from strands.types.events import ToolResultEvent
from strands.types.tools import AgentTool

from ally_plugins.adapters.kit.tool_calls import CallDeferred, UnshownCall
from ally_plugins.contract.tools.declared import ToolSpec
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import ToolCall, ToolResult, evolve
from ally_plugins.contract.values.errors import ArgumentsError
from ally_plugins.host.sessions.open_calls import not_run
from ally_plugins.policy.arguments import ArgumentChecker

from .messages import result_of, with_result
from .run import Interrupted

if TYPE_CHECKING:
    from strands.middleware import ExecuteToolContext, MiddlewareNext
    from strands.types.events import TypedEvent

    from ally_plugins.adapters.kit.work import AgentWork
    from ally_plugins.contract.tools.agent_tool import AgentTool as OfferedTool

    from .run import PluginRun

__all__ = ["PluginTool", "run_call"]


class _Answered(Exception):
    """Raised in the check of a call that the person was asked about, since the answer decides how it is begun."""

    def __init__(self, call: ToolCall, answer: Any) -> None:
        super().__init__()
        self.call = call
        self.is_yes = answer == "allow"


async def run_call(
    run: PluginRun, context: ExecuteToolContext, next_fn: MiddlewareNext[ExecuteToolContext, TypedEvent]
) -> AsyncGenerator[TypedEvent, None]:
    """Run a call that may run; a refusal is its result. Raises the framework's interrupt for a deferred question."""
    work, tool, call_id = run.work, context.tool, context.tool_use["toolUseId"]
    call = await _begun(work, context, tool)
    if isinstance(call, ToolResult):
        yield _failed(call_id, call.error or "")
        return
    made: ToolResultEvent | None = None
    is_postponed = False
    running = context.replace(tool_use={**context.tool_use, "input": thaw(call.arguments)})
    try:
        async for event in run.stoppable(next_fn(running)):
            if isinstance(event, ToolResultEvent):
                made = event
                continue
            if "tool_interrupt_event" in event:  # an agent in the tool waits for the person: it goes on in another run
                work.postpone(call)
                is_postponed = True
            yield event
    except Interrupted:
        made = _failed(call_id, "interrupted")
    except InterruptException:
        work.postpone(call)
        raise
    except BaseException as error:
        if not is_postponed:
            work.open_calls.take(call).interrupt(error)
        raise
    if made is not None:  # else it was put off, or ends with its run
        yield await _ended(work, context, made)


async def _ended(work: AgentWork, context: ExecuteToolContext, made: ToolResultEvent) -> ToolResultEvent:
    """Return a tool's result as transforms leave it."""
    result: Any = made.tool_result
    if work.live.session.wants("tool_output"):  # the model reads what plugins are shown, whatever the tool does later
        result = copy.deepcopy(result)
    own = context.tool.result if isinstance(context.tool, PluginTool) else None
    before = own or result_of(result)
    after = await work.end_call(context.tool_use["toolUseId"], before)
    return ToolResultEvent(with_result(result, before, after), exception=made.exception)


async def _begun(work: AgentWork, context: ExecuteToolContext, tool: Any) -> ToolCall | ToolResult:
    """Return the call with its final arguments when it may run, else the refusal for the model.

    Raises the framework's interrupt for a question that waits for the person.
    """
    # The tool's own name: a hook may have put another tool in the place of the one that was asked for.
    given = work.given_call(tool.tool_name, context.tool_use["input"], context.tool_use["toolUseId"])
    if isinstance(given, UnshownCall):
        return await work.begin_call(given)
    is_approved = False

    def check(arguments: Any) -> None:
        final = evolve(given, arguments=arguments)
        # A call in the background could not be asked for an answer without asking the person.
        answer = _answer(context, _question(final)) if work.can_defer else None
        if answer is not None and not is_approved:
            raise _Answered(final, answer)
        if is_approved and answer != "allow":
            text = "the arguments are others than those that the person was shown"
            raise ArgumentsError(text, tool=final.tool_name)
        if final != given or isinstance(tool, PluginTool):
            _check(tool, final)

    how: Any = {"check": check, "sensitivity": _confirmed(tool), "runs_here": True}
    try:
        try:
            return await work.begin_call(given, **how)
        except _Answered as answered:
            if not answered.is_yes:
                work.refused_elsewhere(answered.call, "the person did not agree")
                return not_run("the person did not agree")
            is_approved = True
            return await work.begin_call(given, is_approved=True, is_resumed=True, **how)
    except CallDeferred as deferred:
        call = deferred.call
        shown = {"tool": call.tool_name, "arguments": thaw(call.arguments), "reason": deferred.reason}
        context.interrupt(_question(call), reason={**shown, "options": ["allow", "deny"]})
        raise


def _question(call: ToolCall) -> str:
    """Return the name of the interrupt about a call: an answer holds for the arguments that the person was shown."""
    return f"ally-plugins-{sha256(encode(call.arguments)).hexdigest()[:16]}"


def _failed(call_id: str, text: str) -> ToolResultEvent:
    return ToolResultEvent({"toolUseId": call_id, "status": "error", "content": [{"text": text}]})


def _answer(context: ExecuteToolContext, question: str) -> Any:
    """Return the response that an interrupt of this name was resumed with, None when there is none."""
    try:
        return context.interrupt(question).response
    except InterruptException:
        return None


def _confirmed(tool: AgentTool) -> str | None:
    """Return how sensitive a plugin's tool is that wants each call to be agreed to, None for every other tool."""
    return "normal" if isinstance(tool, PluginTool) and tool.offered.requires_confirmation else None


def _check(tool: AgentTool, call: ToolCall) -> None:
    """Check arguments that a transform has changed, before plugins see them. Raises ArgumentsError.

    The framework leaves it to each tool, some of which take what they are given.
    """
    spec = tool.tool_spec
    schema = spec["inputSchema"].get("json", spec["inputSchema"])
    about: Any = {"kind": "tool", "name": tool.tool_name, "description": spec["description"], "schema": schema}
    declared = ToolSpec(**about, handler=_check, is_async=True, is_derived=True)
    ArgumentChecker(declared).check(call.arguments)


class PluginTool(AgentTool):
    """A plugin's tool for one call of it; `result` is what it came to, with its data."""

    def __init__(self, work: AgentWork, offered: OfferedTool) -> None:
        super().__init__()
        self.offered = offered
        self.result: ToolResult | None = None
        self._work = work

    @property
    @override
    def tool_name(self) -> str:
        """The name that it is offered under."""
        return self.offered.name

    @property
    @override
    def tool_spec(self) -> Any:
        """What the model is shown of it."""
        offered = self.offered
        return {
            "name": offered.name,
            "description": offered.description,
            "inputSchema": {"json": thaw(offered.schema)},
        }

    @property
    @override
    def tool_type(self) -> str:
        """Tell it from the agent's own tools."""
        return "ally-plugin"

    @override
    async def stream(self, tool_use: Any, invocation_state: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """Call it; errors are texts for the model. Cancelling cancels it."""
        self.result = result = await self._work.call_plugin_tool(self.offered, tool_use["input"])
        text = result.output if result.success else result.error or result.output or "it failed without a reason"
        status: Any = "success" if result.success else "error"
        yield ToolResultEvent({"toolUseId": tool_use["toolUseId"], "status": status, "content": [{"text": text}]})
