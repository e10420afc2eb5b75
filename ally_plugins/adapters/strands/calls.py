"""One tool call of a run: its final arguments, whether it may run, and what came of it; plugins' tools."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from strands.interrupt import InterruptException
from strands.tools import PythonAgentTool
from strands.types.events import ToolResultEvent

from ally_plugins.adapters.kit.mending import mended_value
from ally_plugins.adapters.kit.plugin_tools import call_offered, checking, digest_of, text_for_model
from ally_plugins.adapters.kit.run import Interrupted
from ally_plugins.adapters.kit.tool_calls import CallDeferred
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.conversation import ToolCall, ToolResult

from .messages import result_of, with_result
from .run import passing, spec_of

if TYPE_CHECKING:
    from strands.middleware import ExecuteToolContext, MiddlewareNext
    from strands.types.events import TypedEvent

    from ally_plugins.adapters.kit.work import AgentWork
    from ally_plugins.contract.tools.agent_tool import AgentTool

__all__ = ["PluginTool", "run_call"]


async def run_call(
    work: AgentWork, context: ExecuteToolContext, next_fn: MiddlewareNext[ExecuteToolContext, TypedEvent]
) -> AsyncGenerator[TypedEvent, None]:
    """Run a call that may run; a refusal is its result. Raises the framework's interrupt for a deferred question."""
    call = await _begun(work, context)
    if isinstance(call, ToolResult):
        yield _event(context.tool_use, call)
        return
    made: ToolResultEvent | None = None
    running = context.replace(tool_use={**context.tool_use, "input": thaw(call.arguments)})
    try:
        async for event in passing(work, next_fn(running)):
            if isinstance(event, ToolResultEvent):
                made = event
                continue
            if "tool_interrupt_event" in event:  # an agent in the tool waits for the person: it goes on in another run
                work.postpone(call)
            yield event
    except Interrupted:
        made = _event(context.tool_use, ToolResult(success=False, error="interrupted"))
    except InterruptException:
        work.postpone(call)
        raise
    except BaseException as error:
        work.interrupt_call(call, error)
        raise
    if made is not None:  # else it was put off, or ends with its run
        yield await _ended(work, context, made)


async def _begun(work: AgentWork, context: ExecuteToolContext) -> ToolCall | ToolResult:
    """Return the call with its final arguments when it may run, else the refusal for the model.

    Raises the framework's interrupt for a question that waits for the person.
    """
    tool: Any = context.tool
    # The tool's own name: a hook may have put another tool in the place of the one that was asked for.
    given = work.given_call(tool.tool_name, context.tool_use["input"], context.tool_use["toolUseId"])
    spec = tool.tool_spec

    def answered(call: ToolCall) -> bool | None:
        try:
            # A call in the background could not be asked for an answer without asking the person.
            return context.interrupt(_question(call)).response == "allow" if work.can_defer else None
        except InterruptException:
            return None

    try:
        return await work.begin_call(
            given,
            check=checking(given, lambda: spec["inputSchema"].get("json", spec["inputSchema"]), spec["description"]),
            sensitivity=tool.sensitivity if isinstance(tool, PluginTool) else None,
            answered=answered,
            runs_here=True,
        )
    except CallDeferred as deferred:
        call = deferred.call
        shown = {"tool": call.tool_name, "arguments": thaw(call.arguments), "reason": deferred.reason}
        context.interrupt(_question(call), reason={**shown, "options": ["allow", "deny"]})
        raise


def _question(call: ToolCall) -> str:
    """Return the name of the interrupt about a call: an answer holds for the arguments that the person was shown."""
    return f"ally-plugins-{digest_of(call)}"


async def _ended(work: AgentWork, context: ExecuteToolContext, made: ToolResultEvent) -> ToolResultEvent:
    """Return a tool's result as transforms leave it."""
    result: Any = mended_value(made.tool_result)
    if work.wants("tool_output"):  # the model reads what plugins are shown, whatever the tool does later
        result = copy.deepcopy(result)
    own = context.tool.result if isinstance(context.tool, PluginTool) else None
    before = own or result_of(result)
    after = await work.end_call(context.tool_use["toolUseId"], before)
    return ToolResultEvent(with_result(result, before, after), exception=made.exception)


def _event(use: Any, result: ToolResult) -> ToolResultEvent:
    status: Any = "success" if result.success else "error"
    content: Any = [{"text": text_for_model(result)}]
    return ToolResultEvent({"toolUseId": use["toolUseId"], "status": status, "content": content})


class PluginTool(PythonAgentTool):
    """A plugin's tool for one call of it; `result` is what it came to, with its data."""

    def __init__(self, work: AgentWork, offered: AgentTool) -> None:
        super().__init__(offered.name, spec_of(offered), self._call)
        self.sensitivity = "normal" if offered.requires_confirmation else None
        self.result: ToolResult | None = None
        self._work, self._offered = work, offered

    async def _call(self, use: Any, /, **_: Any) -> Any:
        self.result = await call_offered(self._work, self._offered, use["input"])
        return _event(use, self.result).tool_result
