"""Plugins' tools as the framework's, one for each request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.adk.tools.base_tool import BaseTool
from google.genai.types import FunctionDeclaration

from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import ToolResult
from ally_plugins.contract.values.errors import ArgumentsError

if TYPE_CHECKING:
    from ally_plugins.adapters.kit.work import AgentWork
    from ally_plugins.contract.tools.agent_tool import AgentTool

__all__ = ["PluginTool"]


class PluginTool(BaseTool):
    """A tool of a plugin's, offered to the model in one request."""

    def __init__(self, work: AgentWork, offered: AgentTool) -> None:
        super().__init__(name=offered.name, description=offered.description)
        self.offered = offered
        self.results: dict[str, ToolResult] = {}
        """What calls came to, with their data, by id."""
        self._work = work

    @override
    def _get_declaration(self) -> FunctionDeclaration:
        schema = thaw(self.offered.schema)
        return FunctionDeclaration(name=self.name, description=self.description, parameters_json_schema=schema)

    @override
    async def run_async(self, *, args: dict[str, Any], tool_context: Any) -> dict[str, Any]:
        """Call it; a failure is a result too. Cancelling cancels it."""
        try:
            result = await self._work.call_plugin_tool(self.offered, args)
        except ArgumentsError as error:
            result = ToolResult(success=False, error=str(error))
        self.results[tool_context.function_call_id] = result
        if result.success:
            return {"result": result.output}
        return {"error": result.error or result.output or "it failed without a reason"}
