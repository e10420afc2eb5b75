"""`chat --dev`: a plugin that its author runs from its folder in a chat, and that a saved file replaces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ally_plugins.author.dev_plugin import DevPlugin
from ally_plugins.author.project import Project, find_project
from ally_plugins.author.trial import trial_record
from ally_plugins.author.watching import project_stamps
from ally_plugins.catalog.decide.record import PluginRecord
from ally_plugins.catalog.home.files import Stamp
from ally_plugins.runtime.lanes.teardown import cancel_task

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.author.dev_plugin import Reload
    from ally_plugins.host.host import Host

__all__ = ["Developed"]


@frozen
class Developed:
    """The plugin as it was read when the chat began; `before` is how its files were then."""

    project: Project
    record: PluginRecord
    before: dict[str, Stamp]

    @classmethod
    def of(cls, folder: Path) -> Developed:
        """Read the plugin of a folder. Raises ConfigError and ManifestError."""
        project = find_project(folder)
        before = project_stamps(project)  # first: what is saved from here on is a change
        return cls(project, trial_record(project), before)

    @property
    def plugins(self) -> Mapping[str, Any]:
        """What a host is given."""
        return {self.project.name: (self.record.daemon, self.record)}

    @asynccontextmanager
    async def followed(self, host: Host, tell: Callable[[str], None]) -> AsyncGenerator[None]:
        """Replace it in a running host whenever a file is saved, meanwhile; `tell` is given what became of it."""
        assert host.home is not None  # noqa: S101 - a chat has one
        project = self.project
        dev = DevPlugin(host, project.root, project.name, host.home.logs_dir)
        grants = ", ".join(self.record.granted.texts()) or "nothing"
        tell(f"{project.name} runs from {project.root}, with all that it asks for: {grants}")
        for problem in dev.start_problems():
            tell(problem)

        def told(files: Sequence[str], reload: Reload) -> None:
            names = ", ".join(file.removeprefix(f"{project.root}/") for file in files)
            outcome = "the new one runs" if reload.is_done else "the one before goes on: " + "; ".join(reload.problems)
            tell(f"{names} changed, {outcome}")

        following = asyncio.get_running_loop().create_task(dev.follow(self.before, told), name="ally-dev")
        try:
            yield
        finally:
            await cancel_task(following)
