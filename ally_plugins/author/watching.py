"""Watching a plugin's files by their times.

Four looks a second at some tens of files cost 2 ms; `watchfiles` would be a wheel of a megabyte for no more than that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Final

from ally_plugins.catalog.home.files import Stamp, tree_stamps

if TYPE_CHECKING:
    from .project import Project

__all__ = ["file_changes", "project_stamps"]

_POLL_S: Final = 0.25
"""Seconds between two looks: below what a person notices between saving and seeing."""

_QUIET_S: Final = 0.05
"""Seconds in which nothing changes any more: an editor writes a file in several steps, and a formatter writes many."""


def project_stamps(project: Project) -> dict[str, Stamp]:
    """Return the times and sizes of all that a plugin is made of: its code, its manifest, the file that declares it."""
    places = {str(project.manifest_path), *([str(project.code)] if project.code is not None else [])}
    places |= {str(project.declared_in)} if project.declared_in is not None else set()
    return {stamp[0]: stamp for place in sorted(places) for stamp in tree_stamps(place)}


async def file_changes(project: Project, before: dict[str, Stamp]) -> AsyncIterator[list[str]]:
    """Yield which files have changed, each time that some have, sorted; compiled code and the like are passed over.

    `before` is how they were when the plugin was read. What changes while the caller works on the last ones is yielded
    next, once. Never ends; cancelling ends the wait.
    """
    while True:
        await asyncio.sleep(_POLL_S)
        now = await _when_quiet(project, before)
        if changed := _difference(before, now):
            yield changed
        before = now


async def _when_quiet(project: Project, before: dict[str, Stamp]) -> dict[str, Stamp]:
    now = await asyncio.to_thread(project_stamps, project)
    while now != before:
        await asyncio.sleep(_QUIET_S)
        later = await asyncio.to_thread(project_stamps, project)
        if later == now:
            break
        now = later
    return now


def _difference(before: dict[str, Stamp], now: dict[str, Stamp]) -> list[str]:
    paths: Iterable[str] = {*before, *now}
    return sorted(path for path in paths if before.get(path) != now.get(path))
