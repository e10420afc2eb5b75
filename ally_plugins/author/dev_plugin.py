"""A plugin that runs from its author's folder in a host, and is replaced when its files change.

The one that runs goes on until the new one is fit; what was wrong with one that is not is told with its file and line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field, frozen

from ally_plugins.contract.values.errors import AllyError
from ally_plugins.host.host import Host
from ally_plugins.runtime.lanes.plugin import RunState

from .manifest_checks import check_manifest
from .project import Project, find_project
from .source_model import read_sources
from .trial import trial_record
from .watching import file_changes

if TYPE_CHECKING:
    from ally_plugins.catalog.home.files import Stamp

    from .findings import SourceFinding

__all__ = ["DevPlugin", "Reload"]

_FRAME: Final = re.compile(r'File "([^"]+)", line (\d+)')
_LOG_TAIL: Final = 64 * 1024  # bytes of a log: a traceback of a hundred frames has some 10 KiB
_ERROR: Final = re.compile(r"(?:^|\s)([A-Za-z_][\w.]*(?:Error|Exception|Exit|Warning|Interrupt)(?:: .*)?)$")


@frozen
class Reload:
    """What came of one change: `problems` are why the plugin of before goes on, each with its place."""

    problems: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether the new one runs."""
        return not self.problems


@define(eq=False)
class DevPlugin:
    """The plugin of a folder in a host that runs, or is about to. `logs` is the folder with what its process prints."""

    host: Host
    path: Path
    name: str
    logs: Path
    settings: Mapping[str, Any] = field(factory=dict)

    async def reload(self) -> Reload:
        """Read the files anew and have a new one take the place of the one that runs. Raises nothing for a plugin.

        Cancelling is as in `Host.replace`.
        """
        try:
            project = find_project(self.path, self.name)
            record = trial_record(project, self.settings)
        except AllyError as error:
            return Reload(self._read_problems() or (str(error),))
        # What cannot be parsed needs no process to be told.
        broken = [each for each in read_sources(project).findings if each.rule == "syntax"]
        if broken:
            return Reload(tuple(map(_placed, broken)))
        size = self._log_size()
        try:
            await self.host.replace(record, "its files have changed")
        except AllyError as error:
            return Reload((self._with_place(str(error), size, project),))
        return Reload()

    async def follow(self, before: dict[str, Stamp], tell: Callable[[Sequence[str], Reload], object]) -> None:
        """Reload whenever a file is saved, and call `tell` with the files and what came of it. Never ends.

        `before` is how the files were when the plugin that runs was read. Cancelling is as in `Host.replace`.
        """
        async for files in file_changes(find_project(self.path, self.name), before):
            tell(files, await self.reload())

    def start_problems(self) -> tuple[str, ...]:
        """Return why it does not run, empty when it does."""
        plugin = self.host.plugins[self.name]
        if plugin.state in (RunState.RUNNING, RunState.STARTING):
            return ()
        # It need not be installed, where `info` would find it.
        reason = plugin.reason.removesuffix(f"; see `ally-plugins info {self.name}`")
        return (self._with_place(reason, 0, find_project(self.path, self.name)),)

    def place_of_crash(self) -> str:
        """Return the file and line of the last traceback in its log that is of its own code, empty without one."""
        return self._place(0, find_project(self.path, self.name))

    def _read_problems(self) -> tuple[str, ...]:
        """Return what is wrong with the manifest, each with its line."""
        try:
            project = find_project(self.path, self.name)
        except AllyError:
            return ()
        return tuple(_placed(each) for each in check_manifest(project, ())[1] if each.level == "error")

    def _with_place(self, reason: str, size: int, project: Project) -> str:
        place = self._place(size, project)
        return f"{place}: {reason}" if place else reason

    def _place(self, size: int, project: Project) -> str:
        """Return `FILE:LINE: ERROR` of the innermost frame in its own code in what was logged from `size` on."""
        lines = self._log_lines(size)
        own = str(project.code if project.code is not None else project.root)
        found = ""
        for line in lines:
            for file, number in _FRAME.findall(line):
                if file.startswith(own):
                    found = f"{file}:{number}"
        error = next((match[1] for line in reversed(lines) if (match := _ERROR.search(line)) is not None), "")
        return f"{found}: {error}" if found and error else found

    def _log_lines(self, size: int) -> list[str]:
        try:
            with self._log_file().open("rb") as log:
                log.seek(max(size, log.seek(0, 2) - _LOG_TAIL))
                return log.read().decode("utf-8", "replace").splitlines()
        except OSError:  # it has printed nothing yet
            return []

    def _log_size(self) -> int:
        try:
            return self._log_file().stat().st_size
        except OSError:
            return 0

    def _log_file(self) -> Path:
        from ally_plugins.runtime.processes.stderrlog import log_file

        return Path(log_file(self.logs, self.name))


def _placed(finding: SourceFinding) -> str:
    where = f"{finding.file}:{finding.line}" if finding.line else finding.file
    return f"{where}: {finding.text}" + (f"; {finding.fix}" if finding.fix else "")
