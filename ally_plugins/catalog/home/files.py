"""Where the code and the manifest of an entry point lie, found without importing anything.

`find_spec` of a submodule would import its parents; so only the top-level name is looked up, by the finders that an
import would use (editable installs put theirs there), and the rest of the way is walked on disk.
"""

from __future__ import annotations

# Strings all the way: finders give strings, and pathlib would double the time of a scan.
# ruff: noqa: PTH108, PTH112, PTH113, PTH114, PTH116, PTH118, PTH119, PTH120, PTH123, PTH206
import hashlib
import importlib.util
import os
import stat
import sys
from contextlib import suppress
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ModuleSpec, PathFinder
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen

from ally_plugins.contract.manifest import MANIFEST_NAME
from ally_plugins.journal.owned_files import acting_as
from ally_plugins.policy.owned_files import is_foreign, shared_with

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "MAX_FILES",
    "MAX_FOLDER_FILES",
    "NO_BYTECODE",
    "UNREAD_BYTECODE",
    "Located",
    "Stamp",
    "archive_of",
    "content_digest",
    "drop_bytecode",
    "folder_digest",
    "folder_files",
    "locate",
    "stamp",
    "tree_stamps",
]

MAX_FILES: Final = 5_000
"""Files of one plugin whose times are watched; the largest published plugins of comparable hosts have some hundreds."""

MAX_FOLDER_FILES: Final = 10_000
"""Files of a plugin's folder, all of which are agreed to; a `node_modules` of a small program has some thousands."""

MAX_FOLDER_BYTES: Final = 256 * 1024 * 1024
"""Bytes of a plugin's folder, all of which are read whenever plugins are looked at: 0.2 s for this many."""

NO_BYTECODE: Final = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": ""}
"""The variables of every process of a plugin's folder: it leaves nothing compiled there, or where others can write."""

UNREAD_BYTECODE: Final = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": os.devnull}
"""The variables that make Python read sources only, below a place where there can be no file. A start takes some 0.7 s
longer then, since the standard library is compiled too."""

_SUFFIXES: Final = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)
"""In the order of an import; `all_suffixes` has the sources first, and consent would cover a file that is not run."""

_CACHE: Final = "__pycache__"
_COMPILED: Final = (".pyc", ".pyo")
_SKIPPED: Final = frozenset({"__pycache__", ".git", ".hg", ".tox", ".venv", "node_modules"})
_NOT_AGREED: Final = frozenset({"__pycache__", ".git", ".hg"})
_DATA: Final = (".log", ".pid", ".sock", ".db", ".sqlite", ".sqlite3", "-journal", "-wal", "-shm")
"""What a program writes beside itself, and nobody runs: its change needs no consent."""

Stamp = tuple[str, int, int]
"""A path, its mtime in nanoseconds and its size; -1 and -1 when nothing is there."""


@frozen
class Located:
    """Where an entry point's code is. `root` is its outermost package, or the file of a single module."""

    root: str
    manifest: str | None
    expected: str
    """Where the manifest was looked for first."""
    searched: tuple[str, ...] = field(default=())
    """The directories whose change could change this answer."""


@frozen
class _Place:
    """A module on disk: the packages around it, from the outermost, and its own file when it is not a package."""

    packages: tuple[str, ...]
    file: str | None
    namespaces: tuple[str, ...] = ()


def locate(module: str) -> Located | None:
    """Find a dotted module and the manifest beside it; None when the module is not there. Imports nothing."""
    place = _find(module.split("."))
    if place is None:
        return None
    candidates = tuple(_candidates(place, module.rpartition(".")[2]))
    # A broken link counts, and is reported: the manifest of an outer package is not meant.
    manifest = next((path for path in candidates if os.path.lexists(path)), None)
    root = place.packages[0] if place.packages else place.file or ""
    searched = tuple(dict.fromkeys([os.path.dirname(path) for path in candidates] + list(place.namespaces)))
    return Located(root, manifest, candidates[0], searched)


def archive_of(module: str) -> str | None:
    """Return the file that holds a module's code with that of others, such as a zip; None when it is in a folder."""
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except Exception:  # noqa: BLE001  # anybody's finder
        return None
    places: list[str] = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec is not None else []
    for place in places:
        there = place
        # A path in an archive goes on behind the archive's own: the first part that is there is that.
        while there and not os.path.lexists(there):
            there = os.path.dirname(there)
        if there != place and os.path.isfile(there):
            return there
    return None


def _candidates(place: _Place, name: str) -> Iterator[str]:
    if place.file is not None:
        yield os.path.join(os.path.dirname(place.file), f"{name}.{MANIFEST_NAME}")
    for package in reversed(place.packages):
        yield os.path.join(package, MANIFEST_NAME)


def _find(parts: list[str]) -> _Place | None:
    try:
        spec = importlib.util.find_spec(parts[0])
    except Exception:  # noqa: BLE001  # anybody's finder; and a ValueError for a module without a spec
        return None
    return _from_spec(spec, parts, 1)


def _from_spec(spec: ModuleSpec | None, parts: list[str], depth: int) -> _Place | None:
    """Continue from the spec that a finder returned for the first `depth` parts."""
    if spec is None:
        return None
    directories = tuple(spec.submodule_search_locations or ())
    # A namespace package has folders, and no file of its own.
    is_file = spec.has_location and spec.origin is not None
    if not directories:
        return _Place((), spec.origin) if is_file and depth == len(parts) else None
    place = _Place((directories[0],), None) if is_file else _Place((), None, directories)
    return _walk(parts, depth, place, directories)


def _query_finders(parts: list[str], depth: int) -> _Place | None:
    """Try the finders that installed themselves, for what no directory has.

    setuptools maps the packages of an editable namespace by their full names, and gives the namespace no directory. A
    finder is called without the parents being imported; `importlib.util.find_spec` would import them.
    """
    for length in range(depth + 1, len(parts) + 1):
        name = ".".join(parts[:length])
        for finder in sys.meta_path:
            # What PathFinder would look through was walked already.
            if finder is not PathFinder and (spec := _spec_of(finder, name)) is not None:
                return _from_spec(spec, parts, length)
    return None


def _spec_of(finder: Any, name: str) -> ModuleSpec | None:
    try:
        spec = finder.find_spec(name, None)
    except Exception:  # noqa: BLE001  # anybody's finder, called without the parents that it may expect
        return None
    return spec if isinstance(spec, ModuleSpec) and spec.has_location else None


def _walk(parts: list[str], depth: int, place: _Place, directories: tuple[str, ...]) -> _Place | None:
    for position, name in enumerate(parts[depth:], depth):
        step = _step(name, directories)
        if step is None:
            return _query_finders(parts, position)
        path, kind = step
        if kind == "module":
            return _Place(place.packages, path, place.namespaces) if position == len(parts) - 1 else None
        if kind == "package" or place.packages:
            place = _Place((*place.packages, path), None, place.namespaces)
            directories = (path,)
        else:
            directories = tuple(there for parent in directories if os.path.isdir(there := os.path.join(parent, name)))
            place = _Place((), None, place.namespaces + directories)
    return _end(place, directories)


def _end(place: _Place, directories: tuple[str, ...]) -> _Place:
    """Return the place of a package; a namespace that is itself the plugin counts as one, by its first part."""
    return place if place.packages else _Place((directories[0],), None, place.namespaces)


def _step(name: str, directories: tuple[str, ...]) -> tuple[str, str] | None:
    """Return path and kind of `name` in the first directory that has it; regular ones go before namespaces."""
    namespace = None
    for directory in directories:
        path = os.path.join(directory, name)
        if _first_file(os.path.join(path, "__init__")):
            return path, "package"
        if (file := _first_file(path)) is not None:
            return file, "module"
        if namespace is None and os.path.isdir(path):
            namespace = (path, "namespace")
    return namespace


def _first_file(stem: str) -> str | None:
    return next((stem + suffix for suffix in _SUFFIXES if os.path.isfile(stem + suffix)), None)


def stamp(path: str) -> Stamp:
    """Return what changes when a file or a directory does. Raises nothing: see `Stamp` for what is not there."""
    try:
        # An empty entry on the search path is the working directory.
        found = os.stat(path or ".")
    # ValueError for a NUL, which a folder on the search path may have as any text.
    except (OSError, ValueError):
        return (path, -1, -1)
    return (path, found.st_mtime_ns, found.st_size)


def _files(root: str, skipped: frozenset[str]) -> Iterator[str]:
    """Yield the files of a package, or the one module, in one order; links to directories are not followed."""
    if not os.path.isdir(root):
        yield root
        return
    for directory, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in skipped)
        yield from (os.path.join(directory, file) for file in sorted(files))


def tree_stamps(root: str) -> list[Stamp]:
    """Return the stamps of the first `MAX_FILES` files of a package or module."""
    return [stamp(path) for path in islice(_files(root, _SKIPPED), MAX_FILES)]


def content_digest(root: str, manifest: str | None) -> str:
    """Return the hash of what the files of a package or module hold, and of the manifest. Reads all of them."""
    total = hashlib.sha256()
    base = os.path.dirname(root)
    # Paths count from the folder around the root, so that the same files elsewhere have the same hash. A NUL ends each:
    # no path has one in it.
    for path in [*_files(root, _NOT_AGREED), *([manifest] if manifest else [])]:
        total.update(f"{os.path.relpath(path, base)}\0".encode("utf-8", "surrogateescape"))
        total.update(_file_digest(path))
    return total.hexdigest()


def _file_digest(path: str) -> bytes:
    try:
        # A pipe would keep the open waiting, and a device might never end.
        if not os.path.isfile(path):
            return b"not a file"
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        # It counts as well: the digest is another one as soon as the file can be read.
        return f"unreadable {error.errno}".encode()


def folder_files(root: str) -> dict[str, str]:
    """Return the hash of every file of a plugin's folder by its path in it, but for those that a program writes.

    Unlike a package's, `node_modules` and the like count, since a program loads them by itself. Raises
    OSError for what consent could not cover: a link to a folder elsewhere, what everybody can write, or more than
    `MAX_FOLDER_FILES` or `MAX_FOLDER_BYTES`.
    """
    hashes: dict[str, str] = {}
    size = 0
    # With a separator at the end: a neighbour whose name begins alike is outside.
    inside = os.path.realpath(root) + os.sep
    # os.walk passes over folders that it cannot read, and the files there would be agreed to unseen.
    for directory, names, files in os.walk(root, onerror=_raise):
        names[:] = sorted(name for name in names if name not in _NOT_AGREED)
        for name in names:
            path = os.path.join(directory, name)
            _check_mode(path)
            if os.path.islink(path):  # not walked: what it leads to is, and where it leads is agreed to
                target = _inner_target(path, inside)
                hashes[os.path.relpath(path, root)] = hashlib.sha256(os.fsencode(target)).hexdigest()
        for name in sorted(files):
            path = os.path.join(directory, name)
            if not name.endswith(_DATA) and (os.path.isfile(path) or os.path.islink(path)):
                _check_mode(path)
                size += max(stamp(path)[2], 0)
                if size > MAX_FOLDER_BYTES:
                    raise OSError(None, f"it has more than {MAX_FOLDER_BYTES >> 20} MiB, expected its data elsewhere")
                hashes[os.path.relpath(path, root)] = _file_digest(path).hex()
        if len(hashes) > MAX_FOLDER_FILES:
            raise OSError(None, f"it has more than {MAX_FOLDER_FILES} files, expected its dependencies elsewhere")
    return hashes


def drop_bytecode(root: str) -> None:
    """Remove what lies compiled in the `__pycache__` of a plugin's folder. Raises OSError for what cannot be removed.

    Consent does not cover it, and Python would run it in the place of a source of the same time and size, whatever it
    holds. To be called before each start; a process of the plugin's may write it anew.
    """
    for directory, names, files in os.walk(root, onerror=_raise):
        if _CACHE in names and os.path.islink(cache := os.path.join(directory, _CACHE)):
            os.unlink(cache)  # it leads to a folder elsewhere, which stays as it is
            # It is no link any more, so the walk would go there, and find nothing to list.
            names.remove(_CACHE)
        if os.path.basename(directory) == _CACHE:
            for name in files:
                if name.endswith(_COMPILED):
                    os.unlink(os.path.join(directory, name))


def _raise(error: OSError) -> None:
    raise error


def _inner_target(path: str, inside: str) -> str:
    """Return where a link to a folder leads. Raises OSError unless the files there are agreed to as well."""
    target = os.path.realpath(path)
    if not target.startswith(inside):
        raise OSError(None, f"{path!r} links to a folder outside of it")
    if unseen := _NOT_AGREED.intersection(target.removeprefix(inside).split(os.sep)):
        raise OSError(None, f"{path!r} links into {min(unseen)!r}, whose files nobody agrees to")
    return target.removeprefix(inside)


def _check_mode(path: str) -> None:
    """Raise OSError for a file that another user could change after consent; of a link, its target is checked."""
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        with suppress(OSError):  # it leads nowhere: there is nothing to run
            found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return
    if is_foreign(found, acting_as()):
        raise OSError(None, f"{path!r} belongs to the user {found.st_uid}, expected one of yours")
    if shared := shared_with(path, found, acting_as()):
        raise OSError(None, f"{path!r} {shared}")


def folder_digest(files: dict[str, str]) -> str:
    """Return one hash for all of a folder's files."""
    lines = "\n".join(f"{path}\0{digest}" for path, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
