"""What plugins are served in runs of strands. Imports no framework, so that the docs can have its row without."""

from __future__ import annotations

from ally_plugins.adapters.kit.serves import SERVES

__all__ = ["SERVES"]
