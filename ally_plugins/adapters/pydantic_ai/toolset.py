"""Plugins' tools beside the agent's own: listed anew at each step, since plugins come and go meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydantic_ai.exceptions import ModelRetry, ToolFailed
from pydantic_ai.messages import ToolReturn
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import ToolsetTool, WrapperToolset
from pydantic_core import SchemaValidator, core_schema

from ally_plugins.adapters.kit.kept_messages import MARK
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import ArgumentsError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, MutableMapping

    from pydantic_ai.tools import RunContext
    from pydantic_ai.toolsets import AbstractToolset

    from ally_plugins.contract.tools.agent_tool import AgentTool

    from .plugin_run import PluginRun

__all__ = ["PluginToolset"]

_ANY_OBJECT: Final = SchemaValidator(core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema()))
"""The plugin's own schema is checked by the host, with its own words for what is wrong."""


@dataclass
class PluginToolset(WrapperToolset[Any]):
    """The agent's tools and those of plugins; `runs` has those that are under way, by their id.

    It notes in `owners` the task that drives a run.
    """

    runs: Mapping[str, PluginRun] = field(kw_only=True, repr=False)
    owners: MutableMapping[str, asyncio.Task[Any]] = field(kw_only=True, repr=False)
    owner: asyncio.Task[Any] | None = field(kw_only=True, repr=False)

    @override
    async def for_run(self, ctx: RunContext[Any]) -> AbstractToolset[Any]:
        """Note who drives the run: this is called before it begins, for a toolset that was made for it."""
        if self.owner is not None and ctx.run_id is not None:
            self.owners[ctx.run_id] = self.owner
        return await super().for_run(ctx)

    @override
    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        """Return the agent's own tools and what plugins offer now; the agent's own keep their names."""
        tools = await self.wrapped.get_tools(ctx)
        run = self.runs.get(ctx.run_id or "")
        offered = run.work.offered(taken=tools) if run is not None else ()
        if run is None or not offered:
            return tools
        # Adds, and never takes away: the model may call what it was offered a step before.
        run.offered.update((tool.name, tool) for tool in offered)
        return {**tools, **{tool.name: self._tool(ctx, tool) for tool in offered}}

    def _tool(self, ctx: RunContext[Any], tool: AgentTool) -> ToolsetTool[Any]:
        definition = ToolDefinition(
            name=tool.name,
            description=tool.description,
            parameters_json_schema=thaw(tool.schema),
            metadata={MARK: {"plugin": tool.plugin, "kind": tool.kind, "confirm": tool.requires_confirmation}},
        )
        return ToolsetTool(toolset=self, tool_def=definition, max_retries=ctx.max_retries, args_validator=_ANY_OBJECT)

    @override
    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        """Call the agent's own tool, or a plugin's; errors are texts for the model.

        Raises ToolFailed when the tool fails, and for arguments that plugins were not shown; ModelRetry for arguments
        that do not fit the schema. Cancelling cancels the tool.
        """
        run = self.runs.get(ctx.run_id or "")
        if run is None:
            raise ToolFailed("not run: plugins know of no run that makes this call")
        # Here, innermost: behind this no other capability changes the arguments.
        run.calls.check(ctx, tool, tool_args)
        offered = run.offered.get(name)
        # By the toolset and not by the name alone: the agent may have one now of a name that was offered before.
        if tool.toolset is not self or offered is None:
            return await self.wrapped.call_tool(name, tool_args, ctx, tool)
        try:
            result = await run.work.call_plugin_tool(offered, tool_args)
        except ArgumentsError as error:
            raise ModelRetry(str(error)) from error
        if not result.success:
            raise ToolFailed(result.error or result.output or "it failed without a reason")
        if result.data is None:
            return result.output
        return ToolReturn(result.output, metadata={MARK: {"data": thaw(result.data)}})
