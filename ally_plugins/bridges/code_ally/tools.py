"""The tools of one Code-Ally plugin as the host registers them: a handler and a description each.

A tool that fails returns a failed result and raises nothing, so that it is not counted as a crash of the plugin.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.tools.declared import MAX_DESCRIPTION
from ally_plugins.contract.values.conversation import ToolResult
from ally_plugins.contract.values.errors import ToolCallError
from ally_plugins.contract.values.frozen import FrozenDict

from .limits import GRACE
from .results import rpc_result

if TYPE_CHECKING:
    from ally_plugins.catalog.discovery.bridge import BridgeHost

    from .plugin import CodeAllyPlugin, CodeAllyTool
    from .programs import Programs

__all__ = ["MARGIN", "describe_tool", "fill_subtext", "tool_handlers"]

MARGIN: Final = GRACE + 10.0
"""Seconds that the host adds to a tool's own timeout, so that the tool's result, that it was too slow, comes first."""

Handler = Callable[..., Awaitable[ToolResult]]


def tool_handlers(
    plugin: CodeAllyPlugin, host: BridgeHost, programs: Programs | None = None
) -> list[tuple[Handler, dict[str, Any]]]:
    """Return a handler and what describes it, as `host.offer_tool` takes them, for each tool of a plugin."""
    return [(_handler(plugin, tool, host, programs), describe_tool(tool)) for tool in plugin.tools]


def describe_tool(tool: CodeAllyTool) -> dict[str, Any]:
    """Return the keywords of `Ally.register_tool` for a tool; its usage guidance follows its description."""
    description = "\n\n".join(part for part in (tool.description or tool.display_name, tool.usage_guidance) if part)
    return {
        "name": tool.name,
        # Cut, since guidance is added to a description that was within the limit by itself.
        "description": _cut(description),
        "schema": tool.schema or FrozenDict({"type": "object", "properties": {}}),
        "timeout": tool.timeout + MARGIN,
        "visible_to": tool.visible_to,
        "requires_confirmation": tool.requires_confirmation,
    }


def _cut(text: str) -> str:
    return text if len(text) <= MAX_DESCRIPTION else f"{text[: MAX_DESCRIPTION - 3]}..."


def fill_subtext(template: str, arguments: Mapping[str, Any]) -> str:
    """Return a tool's subtext with a call's arguments in it; a name that is no argument stays as it is."""
    for name, value in arguments.items():
        template = template.replace(f"{{{name}}}", str(value))
    return template


def _handler(plugin: CodeAllyPlugin, tool: CodeAllyTool, host: BridgeHost, programs: Programs | None) -> Handler:
    async def call(**arguments: Any) -> ToolResult:
        # Before the call, since the error of one that fails could name neither the state nor what helps.
        if not host.can_call:
            return ToolResult(success=False, error=_not_running(plugin, tool, host.state))
        try:
            return rpc_result(await host.call(tool.method, arguments, tool.timeout))
        except ToolCallError as error:
            return ToolResult(success=False, error=str(error))

    async def run(**arguments: Any) -> ToolResult:
        if programs is None:
            return ToolResult(success=False, error=f"{tool.name!r} cannot run: this host starts no processes")
        return await programs.run(tool, arguments)

    return call if tool.kind == "background_rpc" else run


def _not_running(plugin: CodeAllyPlugin, tool: CodeAllyTool, state: str) -> str:
    daemon = f"the daemon of {plugin.name!r}"
    if state == "never started":
        return f"{tool.name!r} cannot run: {daemon} was never started; try: ally-plugins restart {plugin.name}"
    return f"{tool.name!r} cannot run: {daemon} is {state}; try: ally-plugins restart {plugin.name}"
