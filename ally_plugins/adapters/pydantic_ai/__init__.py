"""The adapter for pydantic-ai: `Agent(model, capabilities=[AllyPlugins(host)])`; extra `ally-plugins[pydantic-ai]`.

Thin on purpose: it translates between the framework's hooks and `ally_plugins.adapters.kit`.
"""

from __future__ import annotations

from typing import Final

from ally_plugins import lazy_exports

_HOMES: Final = {"capability": "AllyPlugins"}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _HOMES)
