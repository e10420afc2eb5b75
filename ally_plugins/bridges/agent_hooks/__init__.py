"""Interceptors of AGENT-HOOKS 0.1 as plugins of ours; needs the extra `agent-hooks`.

The points at which they are asked, and what becomes of their verdicts, are here; verdicts, composition, identities and
records are the SDK's.
"""

from __future__ import annotations

from typing import Final

from ally_plugins import lazy_exports

_HOMES: Final = {"plugin": "AgentHooksPlugin interceptor_plugin"}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _HOMES)
