"""Plugins' tools as those of a framework, and the framework's own tools where plugins change what they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ally_plugins.contract.tools.declared import ToolSpec
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.contract.values.errors import ArgumentsError
from ally_plugins.policy.arguments import ArgumentChecker

if TYPE_CHECKING:
    from ally_plugins.contract.tools.agent_tool import AgentTool
    from ally_plugins.host.sessions.open_calls import Check

    from .tool_calls import UnshownCall
    from .work import AgentWork

__all__ = ["call_offered", "checking", "digest_of", "text_for_model"]


async def call_offered(work: AgentWork, tool: AgentTool, arguments: Mapping[str, Any]) -> ToolResult:
    """Call a tool that was `offered`, in the runner of its call; arguments that do not fit it are a failure too.

    Cancelling cancels it.
    """
    try:
        return await work.call_plugin_tool(tool, arguments)
    except ArgumentsError as error:
        return ToolResult(success=False, error=str(error))


def text_for_model(result: ToolResult) -> str:
    """Return what the model is to read of a result, for a framework to which results are texts."""
    return result.output if result.success else result.error or result.output or "it failed without a reason"


def checking(
    given: ToolCall | UnshownCall, schema: Callable[[], Mapping[str, Any]], description: str | None = None
) -> Check:
    """Return what checks arguments that plugins have changed against the schema of a tool of the framework's.

    For `begin_call`, where a framework gives tools what they are called with, whatever their schema says.
    """

    def check(arguments: Any) -> None:
        if isinstance(given, ToolCall) and arguments != given.arguments:
            about: Any = {"kind": "tool", "name": given.tool_name, "description": description or "", "schema": schema()}
            ArgumentChecker(ToolSpec(**about, handler=check, is_async=True, is_derived=True)).check(arguments)

    return check


def digest_of(call: ToolCall) -> str:
    """Return what a question about a call keeps of its arguments: an answer is good for those that the person saw."""
    return sha256(encode(call.arguments)).hexdigest()[:16]
