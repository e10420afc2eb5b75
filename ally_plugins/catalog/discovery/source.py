"""The base class of sources: a kind of place where plugins are found. Ours and other distributions' subclass it.

Which sources are used is decided in `configured_sources`; their results are joined and completed in `plugin_search`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

if TYPE_CHECKING:
    from .found import Discovery

__all__ = ["Search", "Source"]


@frozen(kw_only=True)
class Search:
    """What a source is given for one search."""

    home: Path
    """The directory with the app's state."""
    folders: tuple[str, ...] = ()
    """The folders in `plugins` of the home with one of the source's `manifest_files`; only the user can write them."""
    about: str | None = None
    """The only plugin that is needed, None for all. Others may be skipped where reading them is slow."""
    cache_dir: Path | None = None
    """Where an answer may be cached, for a caller that only shows it; None for one that runs what is found."""


class Source(ABC):
    """A kind of place where plugins are found. Made without arguments, once in a process; `find` runs each time."""

    manifest_files: ClassVar[tuple[str, ...]] = ()
    """The files by which a folder in `plugins` of the home is recognised as one of this source's."""

    @abstractmethod
    def find(self, search: Search) -> Discovery:
        """Return what is there now, each plugin with its manifest and a way to run it; run none of their code.

        Called in any thread but the event loop's, possibly in several at a time. What is broken is returned
        with its `problem`, so that one plugin does not hide the others. When it raises, or takes longer than 5 s, that
        is reported and its plugins count as not installed: their granted gates deny.
        """
