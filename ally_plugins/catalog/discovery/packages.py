"""The source of packages: plugins in installed distributions, read from metadata and manifests; none is imported, ever.

Every mistake is one line about one plugin or distribution, and all others are found. What the operator agreed to is
joined in `catalog.registry`; the answer is remembered by `cache`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import define, evolve, field, frozen

from ally_plugins.catalog.home import files as locating
from ally_plugins.catalog.home.folder import read_capped
from ally_plugins.contract.grants import is_plugin_name
from ally_plugins.contract.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import ManifestError
from ally_plugins.contract.wording import describe

from . import cache as discovery_cache
from .cache_rows import from_rows, to_rows
from .found import Discovery, Found
from .source import Search, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ally_plugins.contract.process_spec import Daemon
__all__ = ["GROUP", "Discovery", "Found", "Packages", "discover"]

GROUP: Final = "ally.plugins"

Distribution = Any
"""importlib_metadata's; its releases name the type differently."""

_SEPARATORS: Final = re.compile(r"[-_.]+")
_NAME_RULE: Final = "lower-case letters, digits, '_' and '-', not starting with '-'"


class Packages(Source):
    """The source of what pip and its like install."""

    @override
    def find(self, search: Search) -> Discovery:
        """Return the plugins in installed distributions; see `discover`."""
        return discover(search.cache_dir, search.about)


def discover(cache_dir: Path | None = None, about: str | None = None) -> Discovery:
    """Find the installed plugins. With `cache_dir`, an answer that is still true is read from there.

    With `about`, only the plugin of that name is looked at, and the problems of others may be missing.

    A change is seen by the times of the directories on `sys.path` and of the plugins' own files; what is edited in
    place in the metadata of a distribution without plugins is not. Raises nothing: a broken cache is as good as none.
    """
    key = discovery_cache.key()
    remembered = discovery_cache.load(cache_dir, key) if cache_dir is not None else None
    if remembered is not None and (discovery := from_rows(remembered, about)) is not None:
        return discovery
    began = discovery_cache.now()
    scan = _Scan(about if cache_dir is None else None)  # what is remembered is all of it
    discovery = scan.run()
    if cache_dir is not None:
        discovery_cache.save(cache_dir, key, to_rows(discovery), list(scan.stamps.values()), began)
    return discovery


@frozen
class _Offering:
    """One distribution that offers plugins, with their entry points."""

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

    about: str | None = None
    problems: list[str] = field(factory=list)
    directories: list[str] = field(factory=list)
    stamps: dict[str, locating.Stamp] = field(factory=dict)

    def run(self) -> Discovery:
        by_name: defaultdict[str, list[Found]] = defaultdict(list)
        # All offerings first: `_active` compares them with the directories of every distribution, which they leave
        # behind.
        for offering in _active(list(self._offerings()), self.directories, self.problems):
            self._watch_metadata(offering.dist)
            for entry_point in offering.entry_points:
                if self.about not in {None, entry_point.name}:
                    continue
                if (found := self._found(offering, entry_point)) is not None:
                    by_name[found.name].append(found)
        all_found = tuple(_one_of(name, same) for name, same in sorted(by_name.items()))
        return Discovery(all_found, tuple(sorted(self.problems)))

    def _offerings(self) -> Iterator[_Offering]:
        import importlib_metadata  # 20 ms, which a valid cache saves

        for dist in importlib_metadata.distributions():
            self.directories.append(_directory(dist))
            try:
                if _may_have_plugins(dist):
                    yield from _offering_of(dist)
            except Exception as error:  # noqa: BLE001  # somebody else's metadata, read by anybody's finder
                self.problems.append(f"the metadata of {_label(dist)} cannot be read: {_reason(error)}")

    def _watch_metadata(self, dist: Distribution) -> None:
        directory = _directory(dist)
        if directory:
            for name in ("entry_points.txt", "RECORD", "METADATA"):
                self._watch(os.path.join(directory, name))  # noqa: PTH118

    def _watch(self, path: str) -> None:
        self.stamps[path] = locating.stamp(path)

    def _found(self, offering: _Offering, entry_point: Any) -> Found | None:
        name = entry_point.name
        if not is_plugin_name(name):
            self.problems.append(f"{offering.label} names a plugin {describe(name)}, expected {_NAME_RULE}")
            return None
        found = Found(
            name=name,
            distribution=offering.name,
            version=offering.version,
            entry_point=entry_point.value,
        )
        try:
            return self._inspected(found, offering.dist, entry_point)
        except Exception as error:  # noqa: BLE001  # damaged files, and finders of anybody's
            return evolve(found, problem=f"what is installed of it cannot be read: {_reason(error)}")

    def _inspected(self, found: Found, dist: Distribution, entry_point: Any) -> Found:
        try:
            module, attribute = entry_point.module, entry_point.attr
        except (ValueError, AttributeError, AssertionError):  # by release of importlib_metadata
            module, attribute = "", ""
        malformed = f"entry point {describe(entry_point.value)} is not of the form MODULE:CLASS"
        if not all(part.isidentifier() for part in module.split(".")):
            return evolve(found, problem=malformed)
        found = self._with_files(found, dist, module)
        if not attribute and found.daemon is None:  # only a daemon is nothing to import
            return evolve(found, manifest=None, problem=found.problem or malformed)
        return found

    def _with_files(self, found: Found, dist: Distribution, module: str) -> Found:
        located = locating.locate(module)
        if located is None or located.manifest is None:
            # Before the other two reasons: in a zip nothing is missing, and installing it again would not help.
            archive = locating.archive_of(module)
            if archive is not None:
                self._watch(archive)
                reason = f"its code lies in {archive!r}, and plugins inside a zip are not supported"
                return evolve(found, problem=f"{reason}; install {found.distribution!r} into a folder")
        if located is None:
            advice = f"install {found.distribution!r} again, or uninstall it"
            return evolve(found, problem=f"module {module!r} is not there; {advice}")
        for directory in located.searched:
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
            manifest = Manifest.from_mapping(Manifest.table_of(content, found.name), found.name)
        except ManifestError as error:
            return evolve(found, problem=str(error))
        except OSError as error:
            return evolve(found, problem=f"the manifest {found.manifest_path} cannot be read: {_reason(error)}")
        found = evolve(found, manifest=manifest, problem=manifest.host_problem())
        return found if manifest.daemon is None else _with_daemon(found, manifest.daemon)

    def _with_digest(self, found: Found, dist: Distribution, root: str) -> Found:
        record = dist.read_text("RECORD")
        inside = os.path.normpath(str(dist.locate_file("")))
        # RECORD has no hashes of what lies elsewhere or is edited in place: there the times of the files count.
        if record and root.startswith(inside + os.sep) and not _says_editable(dist):
            return evolve(found, root=root, digest=_record_digest(record))
        stamps = locating.tree_stamps(root)
        self.stamps.update((stamp[0], stamp) for stamp in stamps)
        return evolve(found, root=root, editable=True, digest=_stamps_digest(stamps, root))


def _with_daemon(found: Found, daemon: Daemon) -> Found:
    """Return a plugin with the daemon that its package ships; paths are relative to the folder of the manifest."""
    folder, file = os.path.split(found.manifest_path or "")
    if file != MANIFEST_NAME:
        problem = f"{found.manifest_path} has a [daemon], which only a package can ship: its files need a folder"
        return evolve(found, problem=found.problem or problem)
    return evolve(found, daemon=daemon.at(folder))


def _may_have_plugins(dist: Distribution) -> bool:
    """Say whether the group's name occurs in the entry points at all; that rules out nearly every distribution.

    A plain file is read without pathlib, which halves the time of a scan; the rest is left to the distribution.
    """
    directory = getattr(dist, "_path", None)
    if not isinstance(directory, Path):
        return GROUP in (dist.read_text("entry_points.txt") or "")
    path = f"{directory}/entry_points.txt"
    if not os.access(path, os.F_OK):  # cheaper than the exception that most would end in
        return False
    with open(path, "rb") as file:  # noqa: PTH123
        return GROUP.encode() in file.read()


def _offering_of(dist: Distribution) -> Iterator[_Offering]:
    entry_points = tuple(dist.entry_points.select(group=GROUP))
    if entry_points:
        yield _Offering(dist, *_name_and_version(dist), entry_points)


def _name_and_version(dist: Distribution) -> tuple[str, str]:
    """Return the two header fields that matter. Raises ValueError without them.

    `dist.name` and `dist.version` would import the email parser for them, which takes twice as long as all the rest.
    """
    fields: dict[str, str] = {}
    for line in (dist.read_text("METADATA") or dist.read_text("PKG-INFO") or "").splitlines():
        key, colon, value = line.partition(":")
        if not colon:
            break  # the end of the headers; a continued line belongs to a longer field, after these two
        fields.setdefault(key.lower(), value.strip())
        if "name" in fields and "version" in fields:
            return fields["name"], fields["version"]
    raise ValueError("its METADATA has no Name and Version")


def _active(all_: list[_Offering], directories: list[str], problems: list[str]) -> Iterator[_Offering]:
    """Yield the distributions that an import would use: of several with one name, the first on the path.

    Two in the same directory are what an interrupted upgrade leaves behind; which one's files are there is uncertain.
    """
    seen: set[str] = set()
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for directory in dict.fromkeys(directories) if all_ else ():  # a folder may stand on the path twice
        by_name[_distribution_of(directory)].append(directory)
    for offering in all_:
        key = _normalized(offering.name)
        if key in seen:
            continue
        seen.add(key)
        same = by_name[key]
        here = [path for path in same if os.path.dirname(path) == os.path.dirname(same[0])]  # noqa: PTH120
        if len(here) > 1:
            names = " and ".join(sorted(os.path.basename(path) for path in here))  # noqa: PTH119
            problems.append(f"{offering.name!r} is installed twice: {names}; install it again")
        elif not same or same[0] == _directory(offering.dist):
            yield offering


def _normalized(name: str) -> str:
    # The normal form of PEP 503, in which installers compare names.
    return _SEPARATORS.sub("-", name).lower()


def _distribution_of(directory: str) -> str:
    """Return whose metadata lies in `name-version.dist-info`, `name-version-py3.egg-info` or `name.egg-info`."""
    # A `-` within the name is written as `_` there, so that the first one ends it.
    return _normalized(os.path.basename(directory).rpartition(".")[0].partition("-")[0])  # noqa: PTH119


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
    # A private attribute: no public one leads to where the metadata lie.
    return str(getattr(dist, "_path", ""))


def _label(dist: Distribution) -> str:
    directory = _directory(dist)
    return describe(os.path.basename(directory)) if directory else "a distribution"  # noqa: PTH119


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _says_editable(dist: Distribution) -> bool:
    origin = dist.read_text("direct_url.json") or ""
    # As pip writes JSON, and as writers without spaces do; nothing else of the file matters.
    return '"editable": true' in origin or '"editable":true' in origin


def _record_digest(record: str) -> str:
    """Hash the lines of RECORD that stand for code: not the metadata, and not what compiling adds."""
    lines = sorted(line for line in record.splitlines() if "__pycache__/" not in line and ".dist-info/" not in line)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _stamps_digest(stamps: list[locating.Stamp], root: str) -> str:
    # Without the place, so that a project that is moved as it is has the same digest.
    start = len(os.path.dirname(root))  # noqa: PTH120
    lines = "\n".join(f"{path[start:]}\0{mtime}\0{size}" for path, mtime, size in stamps)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
