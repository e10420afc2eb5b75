"""The adapter for langchain and langgraph; extra `ally-plugins[langchain]`.

`create_agent(model, tools, middleware=[AllyPlugins(host)])`, or for a graph built by hand
`ToolNode(tools, wrap_tool_call=plugins.wrap_tool_call, awrap_tool_call=plugins.awrap_tool_call)`.

Thin on purpose: it translates between the framework's hooks and `ally_plugins.adapters.kit`.
"""

from __future__ import annotations

from typing import Final

from ally_plugins import lazy_exports

_HOMES: Final = {"middleware": "AllyPlugins"}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _HOMES)
