"""The home of a replay that leaves no trace: what the operator decided is read, and nothing is written to it."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

from ally_plugins.catalog.home.folder import Home
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.host.sockets.leftovers import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["ScratchHome", "scratch_home"]


@frozen
class ScratchHome(Home):
    """A home of which configuration, consent and plugins are read, and the rest lies in `scratch`.

    Plugins find copies of their data there. Its journal is not read; give the host one in memory.
    """

    scratch: Path = field(kw_only=True, converter=Path)

    @property
    @override
    def journal_file(self) -> Path:
        """Where a journal would lie."""
        return self.scratch / "journal.db"

    @property
    @override
    def audit_head_file(self) -> Path:
        """Where its head would."""
        return self.scratch / "audit.head"

    @property
    @override
    def logs_dir(self) -> Path:
        """What plugins log, until the end."""
        return self.scratch / "logs"

    @property
    @override
    def run_dir(self) -> Path:
        """Locks, caches and sockets, until the end."""
        return self.scratch / "run"

    @property
    @override
    def work_dir(self) -> Path:
        """Where a daemon works that names no folder."""
        return self.scratch

    @override
    def data_dir(self, plugin: str) -> Path:
        """Return the directory that a plugin may write to, with a copy of its data. Raises ConfigError."""
        directory, live = self.scratch / "data" / plugin, self.path / "data" / plugin
        if live.is_dir() and not directory.exists():
            try:
                # Links stay links: what one leads to may lie anywhere, and be of any size.
                shutil.copytree(live, directory, symlinks=True)
            except (OSError, shutil.Error) as error:
                text = f"the data of {plugin!r} cannot be copied for a replay that leaves no trace: {error}"
                raise ConfigError(text, file=str(live)) from error
        self.prepare(directory)
        return directory

    @override
    def prepare(self, *directories: Path) -> None:
        """Make the `run` directory and others, readable by their owner only. Raises ConfigError."""
        try:
            for directory in (self.run_dir, *directories):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            text = f"the folder {str(self.scratch)!r} cannot be used: {error.strerror or error}"
            raise ConfigError(text, file=str(self.scratch)) from error


@contextmanager
def scratch_home(home: Home) -> Generator[ScratchHome]:
    """Give a scratch home beside a home until the end, when all of it is removed; what killed ones left is, too."""
    with temporary_folder("scratch-") as folder:
        yield ScratchHome(home.app, home.path, scratch=folder)
