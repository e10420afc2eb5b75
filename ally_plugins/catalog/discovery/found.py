"""What discovery finds: plugins as values, and what could not be one.

Finding them is left to the sources, deciding whether one may run to `catalog.decide`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from ally_plugins.catalog.home import files as locating
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.process_spec import Daemon
from ally_plugins.contract.values.frozen import FrozenDict

from .bridge import Bridge

if TYPE_CHECKING:
    from ally_plugins.contract.handle import Ally  # noqa: TC004 - nobody reads this annotation at run time

__all__ = ["Discovery", "Found"]


@frozen(kw_only=True)
class Found:
    """One plugin that was found. With a `problem` it cannot be loaded; then `manifest` may be None.

    It runs in one of four ways: `entry_point` names a class to import, `plugin` is what builds it in the host's
    process, `daemon` is a process of its own, and a `bridge` is for what is none of these.
    """

    name: str
    distribution: str = ""
    """Whose plugin it is. A consent is bound to it."""
    version: str = ""
    entry_point: str = ""
    """MODULE:CLASS, imported when the plugin is started."""
    plugin: Callable[[Ally], Any] | None = field(default=None, eq=False)
    """A class or factory of the source's own; such a plugin runs inline only."""
    manifest: Manifest | None = None
    manifest_path: str | None = None
    problem: str | None = None
    digest: str = ""
    """Changes when the code does: the hashes in RECORD, for editable code the times and sizes of its files, of a folder
    the hash of all its files. A source of another distribution says here what else is agreed to."""
    editable: bool = False
    root: str = ""
    """The outermost package, the file of a single module, or the plugin's folder."""
    daemon: Daemon | None = None
    """How it runs in a process of its own; the paths are in `root`, where they are relative."""
    bridge: Bridge | None = None
    files: Mapping[str, str] = field(default=FrozenDict(), repr=False)
    """The hashes of a folder's files; empty for a package."""
    source: str = "packages"
    """The name of the source that found it; set by `plugin_search`, as are `origin` and `terms`."""
    origin: str = "package"
    """What distinguishes it from others of its name in commands and `config.toml`: package, folder, or its source."""
    project: str | None = None
    """The folder of the trusted project that adds it: it takes part in the sessions about that alone."""
    terms: str = ""
    """What else the digest covers: how it runs, where its files do not contain that."""

    @property
    def is_class(self) -> bool:
        """Whether it is a class to import, which runs inline and in a process alike."""
        return self.daemon is None and self.bridge is None and self.plugin is None

    def content_digest(self) -> str:
        """Return the hash of every file of the plugin. Reads them all; for packages only with `consent = "files"`.

        Raises OSError for a folder that consent cannot cover.
        """
        if self.origin == "package":
            return locating.content_digest(self.root, self.manifest_path) if self.root else ""
        if not self.root:
            return self.digest
        # Read anew and not from `files`: this is the look before a start, long after the search.
        return with_terms(locating.folder_digest(locating.folder_files(self.root)), self.terms)


def with_terms(digest: str, terms: str) -> str:
    """Return one digest for what a plugin is and how it runs."""
    return hashlib.sha256(f"{digest}\0{terms}".encode("utf-8", "surrogateescape")).hexdigest() if terms else digest


@frozen
class Discovery:
    """All that was found, by name. `problems` are about what has no usable plugin name; one line each."""

    found: tuple[Found, ...]
    problems: tuple[str, ...] = ()
    from_cache: bool = False
    failed: Mapping[str, str] = FrozenDict()
    """Why a source found nothing at all, by the origin of its plugins; set by `plugin_search`."""

    def named(self, name: str) -> tuple[Found, ...]:
        """Return the plugins of this name."""
        return tuple(found for found in self.found if found.name == name)

    def get(self, name: str) -> Found | None:
        """Return the plugin of this name, None when none is installed."""
        return next(iter(self.named(name)), None)
