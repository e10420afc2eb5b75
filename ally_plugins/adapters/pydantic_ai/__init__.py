"""The adapter for pydantic-ai: `Agent(model, capabilities=[AllyPlugins(host)])`; extra `ally-plugins[pydantic-ai]`.

Thin on purpose: it translates between the framework's hooks and `ally_plugins.adapters.kit`.
"""

from __future__ import annotations

from .capability import AllyPlugins

__all__ = ["AllyPlugins"]
