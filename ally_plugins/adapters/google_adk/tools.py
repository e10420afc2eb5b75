"""Plugins' tools as the framework's, one for each request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.adk.tools.base_tool import BaseTool
from google.genai.types import FunctionDeclaration

from ally_plugins.adapters.kit.plugin_tools import call_offered, text_for_model
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.compat import override

if TYPE_CHECKING:
    from ally_plugins.adapters.kit.work import AgentWork
    from ally_plugins.contract.tools.agent_tool import AgentTool
    from ally_plugins.contract.values.conversation import ToolResult

__all__ = ["PluginTool"]


class PluginTool(BaseTool):
    """A tool of a plugin's, offered to the model in one request."""

    def __init__(self, work: AgentWork, offered: AgentTool) -> None:
        super().__init__(name=offered.name, description=offered.description)
        self.sensitivity = "normal" if offered.requires_confirmation else None
        self.results: dict[str, ToolResult] = {}
        """What calls came to, with their data, by id."""
        self._offered = offered
        self._work = work

    @override
    def _get_declaration(self) -> FunctionDeclaration:
        schema = thaw(self._offered.schema)
        return FunctionDeclaration(name=self.name, description=self.description, parameters_json_schema=schema)

    @override
    async def run_async(self, *, args: dict[str, Any], tool_context: Any) -> dict[str, Any]:
        """Call it; a failure is a result too. Cancelling cancels it."""
        result = self.results[tool_context.function_call_id] = await call_offered(self._work, self._offered, args)
        return {"result" if result.success else "error": text_for_model(result)}
