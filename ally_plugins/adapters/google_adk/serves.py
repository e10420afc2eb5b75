"""What plugins are served in runs of google-adk. Imports no framework, so that the docs can have its row without."""

from __future__ import annotations

from typing import Final

from attrs import evolve

from ally_plugins.adapters.kit import serves

__all__ = ["SERVES"]

SERVES: Final = evolve(
    serves.SERVES,
    events=serves.SERVES.events - {"COMPACTION_START", "COMPACTION_COMPLETE"},
    gates=serves.SERVES.gates - {"stop"},
)
