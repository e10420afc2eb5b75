"""Plugins' tools as an agent's MCP client sees them: their names there, and what a call of one comes to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.adapters.coding.payloads import PayloadError
from ally_plugins.adapters.coding.replies import Reply, say
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.codec import decode, encode
from ally_plugins.host.bus.agenttools import LONGEST_NAME, offered_to_agent

if TYPE_CHECKING:
    from ally_plugins.adapters.coding.dialect import Dialect
    from ally_plugins.contract.tools.agent_tool import AgentTool
    from ally_plugins.contract.values.conversation import ToolResult
    from ally_plugins.host.host import Host

__all__ = ["CALL", "LIST", "SERVER", "list_reply", "offered_tools", "read_call", "result_reply"]

SERVER: Final = "ally"
"""What our MCP server is called in an agent's settings; agents build the names of its tools from it."""

LIST: Final = "tools.list"
CALL: Final = "tools.call"
"""What our server of tools asks the host, in the place of a hook's event."""

_DIGITS: Final = 8


def offered_tools(host: Host, dialect: Dialect) -> dict[str, AgentTool]:
    """Return what plugins offer, by the name that an agent's server of tools gives each."""
    # All, whichever conversation it is: an agent asks once, and what is not active in one says so when it is called.
    tools = offered_to_agent(host.tools, host.actions)
    return {_short(tool.name, LONGEST_NAME - len(dialect.tool_prefix)): tool for tool in tools}


def _short(name: str, longest: int) -> str:
    """Return a name that has room behind an agent's prefix: providers refuse a whole request for one too long."""
    if len(name) <= longest:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]
    return f"{name[: longest - _DIGITS - 1]}_{digest}"


def list_reply(tools: Mapping[str, AgentTool]) -> Reply:
    """Return the tools as MCP lists them."""
    return say({
        "tools": [
            {"name": name, "description": tool.description, "inputSchema": thaw(tool.schema)}
            for name, tool in tools.items()
        ]
    })  # fmt: skip


def read_call(payload: bytes) -> tuple[str, Mapping[str, Any]]:
    """Return the name and the arguments of a call. Raises PayloadError for what is none."""
    try:
        said = decode(payload)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"the call is no JSON that can be shown: {error}") from None
    name, arguments = (said.get("name"), said.get("arguments", {})) if isinstance(said, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise PayloadError("the call is of another form; expected the name of a tool, and its arguments in an object")
    return name, arguments


def result_reply(result: ToolResult) -> Reply:
    """Return a result as MCP has it: a text for the model, and whether it is an error."""
    if result.success:
        text = result.output or (encode(thaw(result.data)).decode() if result.data is not None else "")
    else:
        text = result.error or result.output or "it failed without a reason"
    return say({"content": [{"type": "text", "text": text}], "isError": not result.success})
