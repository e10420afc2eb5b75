"""What plugins are served in runs of the OpenAI Agents SDK. Imports no framework, so that the docs can have its row."""

from __future__ import annotations

from ally_plugins.adapters.kit.serves import SERVES

__all__ = ["SERVES"]
