"""The options of `chat` and `run`: model, folder, saved session. Imports next to nothing.

So the first line of a chat is shown before the host and the framework are imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

from ally_plugins.contract.values.errors import ConfigError, NotFoundRefused

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home  # noqa: TC004 - nobody reads these annotations at run time
    from ally_plugins.journal.histories import SavedSession

    from .models import ModelChoice  # noqa: TC004

__all__ = ["Options", "find_saved"]


@frozen(kw_only=True)
class Options:
    """The options of one run of `chat` or `run`."""

    home: Home
    choice: ModelChoice
    folder: Path
    allow: tuple[str, ...] = ()
    resume: str | None = None
    """The id of a saved session."""
    dev: Path | None = None
    """The folder of a plugin that runs from there, and is replaced when its files change."""
    environ: Mapping[str, str] = field(factory=lambda: dict(os.environ))


def find_saved(home: Home, prefix: str | None) -> SavedSession:
    """Return a saved session by its id or the beginning of that, or with None the last one.

    Raises NotFoundRefused when there is none, ConfigError when several ids begin so.
    """
    saved: list[SavedSession] = []
    if home.journal_file.exists():
        from ally_plugins.journal.histories import saved_sessions
        from ally_plugins.journal.reader import JournalReader

        with JournalReader(home.journal_file) as reading:
            saved = saved_sessions(reading)
    if not saved:
        raise NotFoundRefused("no session is saved yet; start one with `ally-plugins chat`")
    if prefix is None:
        return saved[-1]
    # A whole id first: s-...-1 is the beginning of s-...-10 too.
    found = [each for each in saved if each.id == prefix] or [each for each in saved if each.id.startswith(prefix)]
    if not found:
        raise NotFoundRefused(f"no session {prefix!r} is saved; `ally-plugins sessions` shows those that are")
    if len(found) > 1:
        raise ConfigError(
            f"{len(found)} sessions begin with {prefix!r}; name one whole: {', '.join(s.id for s in found)}"
        )
    return found[0]
