"""Which plugins are installed, read from package metadata and manifests; no plugin's code is imported, ever.

Every mistake is one line about one plugin or distribution, and all others are found. What the operator agreed to is
the registry's business; remembering the answer is `discovery_cache`'s.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from attrs import define, evolve, field, frozen

from . import discovery_cache, locating
from .errors import ManifestError
from .fields import describe
from .grants import is_plugin_name
from .home import read_capped
from .manifest import MAX_MANIFEST_BYTES, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Distribution = Any
"""importlib_metadata's; its releases name the type differently."""

__all__ = ["GROUP", "Discovery", "Found", "discover"]

GROUP: Final = "ally.plugins"

_NAME_RULE: Final = "lower-case letters, digits, '_' and '-', not starting with '-'"


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
    """The outermost package, or the file of a single module."""

    def content_digest(self) -> str:
        """Return the hash of every file of the plugin. Reads them all; for operators who set `consent = "files"`."""
        return locating.content_digest(self.root, self.manifest_path) if self.root else ""


@frozen
class Discovery:
    """All that was found, by name. `problems` are about what has no usable plugin name; one line each."""

    found: tuple[Found, ...]
    problems: tuple[str, ...] = ()
    from_cache: bool = False

    def get(self, name: str) -> Found | None:
        """Return the plugin of this name, None when none is installed."""
        return next((found for found in self.found if found.name == name), None)


def discover(cache_dir: Path | None = None) -> Discovery:
    """Find the installed plugins. With `cache_dir`, an answer that is still true is read from there.

    A change is seen by the times of the directories on `sys.path` and of the plugins' own files; what is edited in
    place in the metadata of a distribution without plugins is not. Raises nothing: a broken cache is as good as none.
    """
    remembered = discovery_cache.load(cache_dir) if cache_dir is not None else None
    if remembered is not None and (discovery := _thaw(remembered)) is not None:
        return discovery
    began = discovery_cache.now()
    scan = _Scan()
    discovery = scan.run()
    if cache_dir is not None:
        discovery_cache.save(cache_dir, _freeze(discovery, scan.tables), list(scan.stamps.values()), began)
    return discovery


def _freeze(discovery: Discovery, tables: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for found in discovery.found:
        row = {key: getattr(found, key) for key in _PLAIN}
        row["table"] = tables.get(found.name) if found.manifest is not None else None
        rows.append(row)
    return {"found": rows, "problems": discovery.problems}


_PLAIN: Final = (
    "name",
    "distribution",
    "version",
    "entry_point",
    "manifest_path",
    "problem",
    "digest",
    "editable",
    "root",
)


def _thaw(remembered: dict[str, Any]) -> Discovery | None:
    try:
        found = tuple(_thaw_row(row) for row in remembered["found"])
        return Discovery(found, tuple(remembered["problems"]), from_cache=True)
    except (ManifestError, KeyError, TypeError, AttributeError):
        return None


def _thaw_row(row: dict[str, Any]) -> Found:
    table = row.pop("table")
    manifest = None if table is None else Manifest.from_mapping(table, row["name"])
    return Found(manifest=manifest, **row)


@frozen
class _Installed:
    """One distribution that offers plugins. `place` is the directory that holds its metadata's directory."""

    dist: Distribution
    name: str
    version: str
    entry_points: tuple[Any, ...]

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}"


@define
class _Scan:
    """One look at everything that is installed; lives as long as one call of `discover`."""

    problems: list[str] = field(factory=list)
    stamps: dict[str, locating.Stamp] = field(factory=dict)
    tables: dict[str, Any] = field(factory=dict)

    def run(self) -> Discovery:
        by_name: defaultdict[str, list[Found]] = defaultdict(list)
        for installed in _active(self._installed(), self.problems):
            self._watch_metadata(installed.dist)
            for entry_point in installed.entry_points:
                if (found := self._found(installed, entry_point)) is not None:
                    by_name[found.name].append(found)
        all_found = tuple(_one_of(name, same) for name, same in sorted(by_name.items()))
        return Discovery(all_found, tuple(sorted(self.problems)))

    def _installed(self) -> Iterator[_Installed]:
        import importlib_metadata  # 20 ms, which a valid cache saves

        for dist in importlib_metadata.distributions():
            try:
                text = dist.read_text("entry_points.txt")
                if text and GROUP in text:
                    yield from _installed(dist)
            except Exception as error:  # noqa: BLE001  # somebody else's metadata, read by anybody's finder
                self.problems.append(f"the metadata of {_label(dist)} cannot be read: {_reason(error)}")

    def _watch_metadata(self, dist: Distribution) -> None:
        directory = _directory(dist)
        if directory:
            for name in ("entry_points.txt", "RECORD", "METADATA"):
                self._watch(os.path.join(directory, name))  # noqa: PTH118

    def _watch(self, path: str) -> None:
        self.stamps[path] = locating.stamp(path)

    def _found(self, installed: _Installed, entry_point: Any) -> Found | None:
        name = entry_point.name
        if not is_plugin_name(name):
            self.problems.append(f"{installed.label} names a plugin {describe(name)}, expected {_NAME_RULE}")
            return None
        found = Found(
            name=name,
            distribution=installed.name,
            version=installed.version,
            entry_point=entry_point.value,
        )
        try:
            module, attribute = entry_point.module, entry_point.attr
        except (ValueError, AttributeError):
            module, attribute = "", ""
        if not attribute or not all(part.isidentifier() for part in module.split(".")):
            return evolve(found, problem=f"entry point {describe(entry_point.value)} is not of the form MODULE:CLASS")
        return self._with_files(found, installed.dist, module)

    def _with_files(self, found: Found, dist: Distribution, module: str) -> Found:
        located = locating.locate(module)
        if located is None:
            advice = f"install {found.distribution!r} again, or uninstall it"
            return evolve(found, problem=f"module {module!r} is not there; {advice}")
        for directory in located.looked_in:
            self._watch(directory)
        found = self._with_digest(found, dist, located.root)
        if located.manifest is None:
            problem = f"it has no manifest, expected {located.expected}; does its wheel include the file?"
            return evolve(found, problem=problem)
        self._watch(located.manifest)
        return self._with_manifest(evolve(found, manifest_path=located.manifest))

    def _with_manifest(self, found: Found) -> Found:
        try:
            content = read_capped(found.manifest_path or "", MAX_MANIFEST_BYTES)
            if content is None:
                return evolve(found, problem=f"the manifest {found.manifest_path} is not there; a broken link?")
            table = Manifest.table_of(content, found.name)
            manifest = Manifest.from_mapping(table, found.name)
        except ManifestError as error:
            return evolve(found, problem=str(error))
        except OSError as error:
            return evolve(found, problem=f"the manifest {found.manifest_path} cannot be read: {_reason(error)}")
        self.tables[found.name] = table
        return evolve(found, manifest=manifest, problem=manifest.host_problem())

    def _with_digest(self, found: Found, dist: Distribution, root: str) -> Found:
        record = dist.read_text("RECORD")
        inside = os.path.normpath(str(dist.locate_file("")))
        if record and root.startswith(inside + os.sep) and not _says_editable(dist):
            return evolve(found, root=root, digest=_record_digest(record))
        stamps = locating.tree_stamps(root)
        self.stamps.update((stamp[0], stamp) for stamp in stamps)
        return evolve(found, root=root, editable=True, digest=_stamps_digest(stamps, root))


def _installed(dist: Distribution) -> Iterator[_Installed]:
    entry_points = tuple(dist.entry_points.select(group=GROUP))
    if entry_points:
        yield _Installed(dist, str(dist.name), str(dist.version), entry_points)


def _active(all_: Iterable[_Installed], problems: list[str]) -> Iterator[_Installed]:
    """Yield the distributions that an import would use: of several with one name, the first on the path.

    Two in the same directory are what an interrupted upgrade leaves behind; which of them is there cannot be told.
    """
    import importlib_metadata

    seen: set[str] = set()
    for installed in all_:
        key = re.sub(r"[-_.]+", "-", installed.name).lower()
        if key in seen:
            continue
        seen.add(key)
        same = list(importlib_metadata.distributions(name=installed.name))
        place = str(same[0].locate_file("")) if same else ""
        here = [dist for dist in same if str(dist.locate_file("")) == place]
        if len(here) > 1:
            versions = " and ".join(sorted({_version(dist) for dist in here}))
            problems.append(f"{installed.name!r} is installed twice in {place}: {versions}; install it again")
        elif not same or _directory(same[0]) == _directory(installed.dist):
            yield installed


def _one_of(name: str, same: list[Found]) -> Found:
    if len(same) == 1:
        return same[0]
    owners = sorted({f"{found.distribution} {found.version}" for found in same})
    if len(owners) == 1:
        problem = f"{owners[0]} offers the plugin {name!r} {len(same)} times, expected once; its author mends it"
    else:
        problem = f"{' and '.join(owners)} both offer the plugin {name!r}; uninstall one of them"
    return evolve(same[0], manifest=None, problem=problem)


def _directory(dist: Distribution) -> str:
    """Return the metadata's own directory, empty for distributions that are no directory."""
    return str(getattr(dist, "_path", ""))


def _label(dist: Distribution) -> str:
    directory = _directory(dist)
    return describe(os.path.basename(directory)) if directory else "a distribution"  # noqa: PTH119


def _version(dist: Distribution) -> str:
    try:
        return str(dist.version)
    except Exception:  # noqa: BLE001  # somebody else's metadata
        return "an unreadable version"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _says_editable(dist: Distribution) -> bool:
    origin = dist.read_text("direct_url.json") or ""
    return '"editable": true' in origin or '"editable":true' in origin


def _record_digest(record: str) -> str:
    """Hash the lines of RECORD that stand for code: not the metadata, and not what compiling adds."""
    lines = sorted(line for line in record.splitlines() if "__pycache__/" not in line and ".dist-info/" not in line)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _stamps_digest(stamps: list[locating.Stamp], root: str) -> str:
    start = len(os.path.dirname(root))  # noqa: PTH120
    lines = "\n".join(f"{path[start:]}\0{mtime}\0{size}" for path, mtime, size in stamps)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
