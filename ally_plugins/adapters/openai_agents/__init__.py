"""The adapter for the OpenAI Agents SDK: `await AllyPlugins(host).run(agent, ...)`; extra `openai-agents`.

Thin on purpose: it translates between the framework's run and `ally_plugins.adapters.kit`.
"""

from __future__ import annotations

from typing import Final

from ally_plugins import lazy_exports

_HOMES: Final = {"runner": "AllyPlugins", "plugin_run": "RunInterrupted", "tools": "ungated_tools"}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _HOMES)
