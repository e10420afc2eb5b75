"""Interceptors of AGENT-HOOKS 0.1 as plugins of ours; needs the extra `agent-hooks`.

The points at which they are asked, and what becomes of their verdicts, are here; verdicts, composition, identities and
records are the SDK's.
"""

from __future__ import annotations

from .plugin import AgentHooksPlugin, interceptor_plugin

__all__ = ["AgentHooksPlugin", "interceptor_plugin"]
