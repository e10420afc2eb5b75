"""The plugins of a replay: those that are installed, without their durable subscriptions.

A durable subscription's position in the journal belongs to the live plugin. In a replay its events are delivered like
all others, at their own time, so that the outcome does not depend on how fast a disk is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve

from ally_plugins.catalog.registry import Registry
from ally_plugins.contract.values.compat import override

if TYPE_CHECKING:
    from ally_plugins.catalog.decide.record import PluginRecord

__all__ = ["ReplayRegistry"]


class ReplayRegistry(Registry):
    """A registry whose plugins subscribe to nothing durably; `only` as a Registry's."""

    @override
    def load(self) -> tuple[PluginRecord, ...]:
        """Return every plugin, as a Registry does, without its durable subscription."""
        return tuple(map(_undurable, super().load()))

    @override
    def load_one(self, name: str) -> PluginRecord | None:
        """Return one plugin, as a Registry does, without its durable subscription."""
        record = super().load_one(name)
        return _undurable(record) if record is not None else None


def _undurable(record: PluginRecord) -> PluginRecord:
    return evolve(record, manifest=evolve(record.manifest, durable=())) if record.manifest.durable else record
