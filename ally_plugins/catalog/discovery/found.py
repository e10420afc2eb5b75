"""What discovery finds: plugins as values, and what could not be one.

Finding them is left to `discovery` and `folders`, deciding whether one may run to `records`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from ally_plugins.catalog.home import files as locating
from ally_plugins.contract.manifest import Manifest, Origin
from ally_plugins.contract.process_spec import Daemon
from ally_plugins.contract.values.frozen import FrozenDict

__all__ = ["Discovery", "Found"]


@frozen(kw_only=True)
class Found:
    """One installed plugin. With a `problem` it cannot be loaded; then `manifest` may be None."""

    name: str
    distribution: str
    version: str
    entry_point: str
    manifest: Manifest | None = None
    manifest_path: str | None = None
    problem: str | None = None
    digest: str = ""
    """Changes when the code does: the hashes in RECORD, for editable code the times and sizes of its files."""
    editable: bool = False
    root: str = ""
    """The outermost package, the file of a single module, or the plugin's folder."""
    origin: Origin = "package"
    daemon: Daemon | None = None
    """What it ships in the place of a class, its paths absolute."""
    legacy: Any = None
    """The `LegacyPlugin` of a folder with a `plugin.json`."""
    files: Mapping[str, str] = field(default=FrozenDict(), repr=False)
    """The hashes of a folder's files; empty for a package."""

    def content_digest(self) -> str:
        """Return the hash of every file of the plugin. Reads them all; for folders, and with `consent = "files"`.

        Raises OSError for a folder that consent cannot cover.
        """
        if self.origin == "folder":
            return locating.folder_digest(locating.folder_files(self.root))
        return locating.content_digest(self.root, self.manifest_path) if self.root else ""


@frozen
class Discovery:
    """All that was found, by name. `problems` are about what has no usable plugin name; one line each."""

    found: tuple[Found, ...]
    problems: tuple[str, ...] = ()
    from_cache: bool = False

    def named(self, name: str) -> tuple[Found, ...]:
        """Return the plugins of this name."""
        return tuple(found for found in self.found if found.name == name)

    def get(self, name: str) -> Found | None:
        """Return the plugin of this name, None when none is installed."""
        return next((found for found in self.found if found.name == name), None)
