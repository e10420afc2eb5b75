"""A host with one plugin from its folder: nothing is installed, and nobody but its author has agreed to anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from ally_plugins.catalog.decide.record import PluginRecord
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.catalog.home.setting_values import resolve_settings
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.host.host import Host
from ally_plugins.policy.permissions import GrantSet

if TYPE_CHECKING:
    from ally_plugins.journal.journal import Journal
    from ally_plugins.runtime.lanes.clock import Clock

    from .project import Project

__all__ = ["trial_host", "trial_record"]


def trial_record(project: Project, settings: Mapping[str, Any] | None = None) -> PluginRecord:
    """Return the record of a plugin as it lies in its folder now, with all that it asks for.

    It runs in a process of its own, whatever it is, so that a new one has nothing of the one before. What is durable is
    delivered like the rest. Raises ManifestError, and ConfigError for settings that it does not have.
    """
    manifest = evolve(project.read_manifest(), durable=())
    if (problem := manifest.host_problem()) is not None:
        raise ConfigError(f"{project.name!r} {problem}", file=str(project.manifest_path))
    values, problems = resolve_settings(project.name, manifest, settings or {}, lambda *_: None)
    if problems:
        raise ConfigError("; ".join(problems))
    granted = GrantSet(manifest.grants)
    config = PluginConfig(enabled=True, is_decided=True, grants=granted, placement="process")
    record = PluginRecord.by_code(project.name, manifest, grants=granted, config=config, settings=values)
    return evolve(record, daemon=project.daemon(manifest))


def trial_host(project: Project, record: PluginRecord, home: Path, journal: Journal, clock: Clock) -> Host:
    """Return a host with that plugin alone, not yet running. `home` is a scratch folder, and `journal` in memory."""
    # With a person, as a recorded session had one: otherwise each gate that wants to ask would be counted as a deny.
    return Host(
        home=home,
        plugins={project.name: (record.daemon, record)},
        discover=False,
        journal=journal,
        clock=clock,
        has_person=True,
    )
