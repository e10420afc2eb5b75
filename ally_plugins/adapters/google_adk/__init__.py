"""The adapter for google-adk: `App(plugins=[AllyPlugins(host)], ...)`; extra `ally-plugins[google-adk]`.

Thin on purpose: it translates between the callbacks of a plugin of the framework and `ally_plugins.adapters.kit`.
"""

from __future__ import annotations

from typing import Final

from ally_plugins import lazy_exports

_HOMES: Final = {"plugin": "AllyPlugins"}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _HOMES)
