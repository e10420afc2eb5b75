"""Trusting a project, and ending that: the changes of the home that follow, each made under its lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ally_plugins.contract.values.errors import ConfigError, ConsentError
from ally_plugins.contract.values.frozen import FrozenDict

from .discovery.folders import FOLDER
from .home.config_edits import edit_config
from .home.consent import write_consent
from .home.quarantine import set_quarantine
from .plugin_facts import read_settled
from .projects.trusted import copy_plugins, read_trusted, trusted_as, write_trusted
from .registry import OperatorChange

if TYPE_CHECKING:
    from .home.folder import Home
    from .projects.ally_folder import AllyFolder
    from .projects.trusted import TrustedProject
    from .registry import Registry

__all__ = ["check_names", "trust", "untrust"]


def check_names(registry: Registry, project: TrustedProject) -> None:
    """Refuse plugins of a project whose names others have: whose gates were meant would not be known.

    Raises ConsentError. Blocks on files.
    """
    facts = registry.facts()
    taken = {fact.name for fact in facts if fact.found is not None and fact.found.project != project.root}
    own = read_trusted(registry.home).get(project.root)
    taken |= read_settled(registry.home).names - {*(own.plugins if own is not None else ())}
    if both := sorted(taken.intersection(project.plugins)):
        names = ", ".join(map(repr, both))
        raise ConsentError(f"{project.root!r} adds {names}, and there is one of this name already; rename it there")


def trust(
    registry: Registry, folder: AllyFolder, by: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> OperatorChange:
    """Trust a project as it was read. Raises ConfigError for what is wrong in it, ConsentError as `check_names`."""
    home = registry.home
    project = trusted_as(folder, by, now().isoformat(timespec="seconds"))
    with home.locked():
        check_names(registry, project)
        before = read_trusted(home)
        copy_plugins(home, project, folder)
        write_trusted(home, {**before, project.root: project})
        if (old := before.get(project.root)) is not None:
            _forget(home, set(old.plugins) - set(project.plugins))
    data = {"folder": project.root, "digest": project.digest, "by": by, "text": project.text, "adds": project.plugins}
    return OperatorChange(kind="trust", plugin="", data=FrozenDict(data))


def untrust(registry: Registry, root: str) -> OperatorChange:
    """End the trust in a project: its rules hold no more, and the plugins that it adds are gone.

    Raises ConfigError where it is not trusted.
    """
    home = registry.home
    with home.locked():
        before = read_trusted(home)
        if root not in before:
            raise ConfigError(f"the project {root!r} is not trusted", path=root)
        write_trusted(home, {key: each for key, each in before.items() if key != root})
        _forget(home, before[root].plugins)
    return OperatorChange(kind="untrust", plugin="", data=FrozenDict({"folder": root, "adds": before[root].plugins}))


def _forget(home: Home, names: Iterable[str]) -> None:
    """Remove what was agreed to for plugins that a project added, so that one of this name is new again."""
    settled = read_settled(home)
    gone = {
        name
        for name in names
        if (found := settled.agreements.get(name)) is None or found.distribution == f"{FOLDER}{name}"
    }
    # As in `Registry.forget`, whose order has a reason.
    if gone & settled.agreements.keys():
        write_consent(
            home, {name: kept for name, kept in settled.agreements.items() if name not in gone}, settled.agreed
        )
    for name in sorted(gone & settled.config.plugins.keys()):
        edit_config(home, name, lambda _: {"enabled": None, "grants": None}, settled.config)
    for name in sorted(gone):
        set_quarantine(home, name, None, settled.names)
