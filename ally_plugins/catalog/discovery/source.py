"""What a source is: where plugins are found, and in which form. The base class of ours and of other distributions'.

Which sources count is chosen in `choosing`; what they answer is joined and completed in `finding`.
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
    """One look at what is installed: what a source is given for it."""

    home: Path
    """The directory with the app's state."""
    folders: tuple[str, ...] = ()
    """The folders in `plugins` of the home with one of the source's `manifest_files`; only the user can write them."""
    about: str | None = None
    """The only plugin that is wanted. Others may be left out, and are, where looking at them takes long."""
    cache_dir: Path | None = None
    """Where an answer may be remembered, for somebody who only looks; None for whoever runs what is found."""


class Source(ABC):
    """A kind of place where plugins are found. Made without arguments, once in a process; asked anew at every look."""

    manifest_files: ClassVar[tuple[str, ...]] = ()
    """The files by which a folder in `plugins` of the home is known as one of this source's."""

    @abstractmethod
    def find(self, search: Search) -> Discovery:
        """Return what is there now, each plugin with its manifest and a way to run it; run none of their code.

        Called in any thread but the event loop's, for one look at a time or for several. What is broken is returned
        with its `problem`, so that one plugin does not hide the others. When it raises, or takes longer than 5 s, that
        is reported and its plugins count as not installed: their granted gates deny.
        """
