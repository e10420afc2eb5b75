"""Changes that an operator makes, each recorded in the journal or undone: no audit, no change.

What a change does to the files is left to `catalog.registry`.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ally_plugins.contract.values.errors import ConfigError, JournalError

from .operators import require_operator

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.catalog.registry import OperatorChange, Registry
    from ally_plugins.journal.journal import Journal

__all__ = ["Recorder", "now_ms", "recorder"]

_MAX_BYTES: Final = 8 * 1024 * 1024
"""More than any of the home's small files may have."""

Change = TypeVar("Change", bound="OperatorChange | None")


def now_ms() -> int:
    """Return the time as the journal has it, Unix ms."""
    return time.time_ns() // 1_000_000


@contextmanager
def recorder(registry: Registry) -> Generator[Recorder]:
    """Open the journal for changes, and close it.

    Raises JournalError, and ConsentError in a plugin's or an agent's process, before anything is changed.
    """
    require_operator(registry.home)
    from ally_plugins.journal.journal import Journal

    home = registry.home
    home.prepare()
    try:
        journal = Journal.open(home.journal_file, head=home.audit_head_file)
    except JournalError as error:
        raise _refused(error) from error
    try:
        yield Recorder(registry, journal)
    finally:
        journal.close_blocking()


class Recorder:
    """Makes changes and records them; lives as long as one command."""

    def __init__(self, registry: Registry, journal: Journal) -> None:
        self.registry: Final = registry
        self.journal: Final = journal

    def change(
        self, make: Callable[[Registry], Change], undoing: Callable[[], Callable[[], object]] | None = None
    ) -> Change:
        """Make a change and record it durably; what cannot be recorded is undone. Other commands wait meanwhile.

        `make` returns None when there was nothing to change. `undoing` is for what is not a file of the home: called
        before the change, it returns what undoes it. Raises what `make` raises, and JournalError.
        """
        home = self.registry.home
        # From the first look on: what another command wrote after it would be undone with this change.
        with home.locked():
            before = _contents(home)
            undo = undoing() if undoing is not None else None
            change = make(self.registry)
            if change is None:
                return change
            after = _contents(home)
            try:
                self.note(change.kind, change.plugin or None, change.data)
            except JournalError as error:
                if undo is not None:
                    undo()
                raise self._undone(before, after, error) from error
            return change

    def note(self, kind: str, plugin: str | None, data: Mapping[str, Any]) -> int:
        """Write one record and wait until it is on disk. Raises JournalError."""
        from ally_plugins.journal.values import Record

        return self.journal.append_blocking(Record(kind, now_ms(), plugin, data=data))

    def _undone(self, before: dict[Path, bytes | None], after: dict[Path, bytes | None], error: Exception) -> Exception:
        """Put the files back as they were, unless somebody has changed them meanwhile, as an editor does."""
        try:
            if _contents(self.registry.home) != after:
                return JournalError(f"the change was made, and could not be recorded or undone: {error}")
            _restore(before, after)
        except (ConfigError, OSError) as problem:
            text = f"the change was made, could not be recorded ({error}) and could not be undone: {problem}"
            return JournalError(text)
        return _refused(error)


def _refused(error: Exception) -> JournalError:
    return JournalError(f"nothing was changed, since it could not be recorded: {error}")


def _contents(home: Home) -> dict[Path, bytes | None]:
    """Return what the files hold, None for one that is not there; without those that cannot be read or put back."""
    contents: dict[Path, bytes | None] = {}
    for file in (home.config_file, home.consent_file, home.quarantine_file, home.projects_file):
        # Only config.toml may be a link, since people keep it among their dotfiles; the others are ours.
        with suppress(OSError):
            contents[file] = home.read(file, _MAX_BYTES, follow=file == home.config_file)
    return contents


def _restore(contents: dict[Path, bytes | None], now: dict[Path, bytes | None]) -> None:
    from ally_plugins.catalog.home.folder import write_atomically

    for file, content in contents.items():
        if content is None:
            file.unlink(missing_ok=True)
        # What the change has left alone keeps its time of change.
        elif content != now.get(file):
            write_atomically(file, content)
