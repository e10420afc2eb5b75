"""Plugins' tools called by an agent's MCP client, which its hooks have seen before, or have not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from weakref import WeakSet

from attrs import define, evolve, field

from ally_plugins.adapters.coding.dialect import Dialect
from ally_plugins.contract.tools.agent_tool import AgentTool
from ally_plugins.contract.tools.common_names import COMMON_NAMES
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.contract.values.errors import AllyError, EventError, GateRefused
from ally_plugins.contract.values.ids import new_id
from ally_plugins.host.sessions.open_calls import OpenCall, OpenCalls
from ally_plugins.host.sessions.session import Session
from ally_plugins.host.sessions.toolcalls import begin_tool_call

__all__ = ["PluginToolCalls"]


@define(eq=False)
class PluginToolCalls:
    """The calls of plugins' tools in one conversation, as long as that lives."""

    dialect: Dialect
    session: Session
    tools: Callable[[], Mapping[str, AgentTool]]
    """What plugins offer to the agent now, by the name that its server of tools gives each."""
    open_calls: Mapping[str | None, OpenCalls]
    """All calls that the agent's hooks have told of, by the sub-agent that makes them."""
    forbids: Callable[[ToolCall], str | None]
    """The host's own gate, which is asked before plugins' ones."""
    _claimed: WeakSet[OpenCall] = field(init=False, factory=WeakSet)
    """Those that have been run here; each runs once."""

    def find(self, call: ToolCall) -> AgentTool | None:
        """Return the plugin's tool that a call in the agent's words is of."""
        prefix = self.dialect.tool_prefix
        if not prefix or not call.tool_name.startswith(prefix):
            return None
        return self.tools().get(call.tool_name[len(prefix) :])

    def with_own_name(self, call: ToolCall) -> ToolCall:
        """Return a call of a plugin's tool under the tool's own name too, which is the same in all agents."""
        tool = self.find(call)
        if tool is None or tool.name in COMMON_NAMES:
            return call
        return evolve(call, common_name=tool.name)

    def confirmation(self, call: ToolCall) -> str | None:
        """Return the question to the person that a plugin's tool wants before each call, None where it wants none."""
        tool = self.find(call)
        if tool is None or not tool.requires_confirmation:
            return None
        return f"{tool.own_name!r} of {tool.plugin!r} wants the person to agree to each call"

    def has_claim(self, name: str, arguments: Mapping[str, Any]) -> bool:
        """Say whether the agent's hook has let a call with these arguments run, which has not run yet."""
        return self._find_claim(name, arguments) is not None

    def _find_claim(self, name: str, arguments: Mapping[str, Any]) -> OpenCall | None:
        tool_name, asked = self.dialect.tool_prefix + name, encode(arguments)
        for calls in self.open_calls.values():
            for opened in calls.running():
                call = opened.call
                if opened.running_since is None or opened in self._claimed or call.tool_name != tool_name:
                    continue
                if encode(call.arguments) == asked:
                    return opened
        return None

    async def run(self, name: str, tool: AgentTool, arguments: Mapping[str, Any]) -> ToolResult:
        """Run a tool that the agent's MCP client calls, and return what the model is to see.

        A call that the agent's hook has let run with these arguments runs once, and is not decided again: the agent's
        next hook ends it. Any other one no hook knows of: it is decided here, from its start to its end. Cancelling
        cancels the tool. Raises what the session raises that cannot record it.
        """
        opened = self._find_claim(name, arguments)
        if opened is None:
            return await self._run_unseen(name, tool, arguments)
        self._claimed.add(opened)
        result = await self._call(tool, opened.call)
        if result.success or not self.dialect.shown_events:
            return result  # the agent's next hook shows it to plugins
        # Which the agent would show as it is, whatever that hook is told.
        try:
            return await self.session.transform_tool_output(opened.call, result)
        except GateRefused as error:
            return ToolResult(success=False, error=f"the output is withheld: {error}")

    async def _run_unseen(self, name: str, tool: AgentTool, arguments: Mapping[str, Any]) -> ToolResult:
        tool_name, call_id = self.dialect.tool_prefix + name, new_id("c")
        try:
            call = self.with_own_name(ToolCall(tool_name, arguments, call_id))
        except EventError as error:
            return await self.session.refuse_call(tool_name, str(error), call_id=call_id)
        if (question := self.confirmation(call)) is not None:
            return await self.session.refuse_call(tool_name, f"{question}, and no hook has asked", call_id=call_id)
        opened, session = OpenCall(self.session.emit, call), self.session
        refusal = await begin_tool_call(session.gates, opened, session.origin, forbids=self.forbids)
        if refusal is not None:
            return refusal
        return await opened.carry_out(partial(self._call, tool), session.transform_tool_output)

    async def _call(self, tool: AgentTool, call: ToolCall) -> ToolResult:
        try:
            return await self.session.call_agent_tool(tool, call.arguments)
        except AllyError as error:
            return ToolResult(success=False, error=str(error))
