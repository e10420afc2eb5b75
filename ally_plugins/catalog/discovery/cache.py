"""The remembered answer of the last discovery, and the file times that show whether it is still true.

It holds only what was read from the files that it watches, in a directory that is the owner's alone; what an operator
agreed to never stands here.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

from ally_plugins.catalog.home.files import Stamp, stamp
from ally_plugins.catalog.home.folder import read_capped, write_atomically
from ally_plugins.contract.manifest import HOST_API

__all__ = ["key", "load", "now", "save"]

_FORMAT: Final = 4  # raised with every change of what is kept: an old answer would lack it, and nobody would know

_MAX_BYTES: Final = 8 * 1024 * 1024

_SETTLED_NS: Final = 2_000_000_000
"""How old a change must be before its time differs from that of a later one: FAT counts in steps of two seconds. An
answer with a younger one is not remembered, as in git's index."""

_KEPT: Final = 8
"""Caches of other interpreters and paths that stay beside the newest."""


def now() -> int:
    """Return the time that mtimes are compared with, in nanoseconds."""
    return time.time_ns()


def key() -> str:
    """Return what an answer depends on beside files.

    To be taken before the scan: that imports importlib_metadata, which adds a finder to `sys.meta_path`.
    """
    # Finders count, since editable installs find by some of their own; by their names, as their addresses differ in
    # each process.
    finders = [f"{type(f).__module__}.{getattr(f, '__name__', type(f).__name__)}" for f in sys.meta_path]
    here = ""
    if any(not os.path.isabs(entry) for entry in sys.path):  # noqa: PTH117
        with suppress(OSError):  # it was removed, and nothing is found in it
            here = os.getcwd()  # noqa: PTH109
    return "\n".join([str(_FORMAT), HOST_API, sys.version, sys.prefix, here, *sys.path, "", *finders])


def _file(cache_dir: Path, key_: str) -> Path:
    name = hashlib.blake2b(key_.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return Path(cache_dir, f"discovery-{name}.json")


def load(cache_dir: Path, key_: str) -> dict[str, Any] | None:
    """Return the remembered answer, None when the file is damaged or something that it depends on has changed."""
    try:
        seal, _, content = (read_capped(_file(cache_dir, key_), _MAX_BYTES) or b"").partition(b"\n")
        # Sealed outside of the JSON, so that nothing damaged is parsed; what has a right seal has all the keys.
        if not content or seal != _seal(content):
            return None
        kept: dict[str, Any] = orjson.loads(content)
    except (OSError, ValueError):
        return None
    return kept["answer"] if kept["key"] == key_ and _still(kept["stamps"]) else None


def _seal(content: bytes) -> bytes:
    """Return a checksum against torn writes. It proves no author: the directory's mode keeps others from writing."""
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode()


def _still(stamps: list[list[Any]]) -> bool:
    # An answer without a single time would be true for ever.
    return bool(stamps) and all(stamp(path) == (path, mtime, size) for path, mtime, size in stamps)


def save(cache_dir: Path, key_: str, answer: dict[str, Any], watched: list[Stamp], began: int) -> None:
    """Remember the answer of a scan that began at `began`, if every time in it is settled. Raises nothing.

    `key_` is what `key` returned before the scan.
    """
    stamps = [*(stamp(entry) for entry in sys.path), *watched]
    if any(mtime > began - _SETTLED_NS for _, mtime, _ in stamps):
        return
    with suppress(OSError, TypeError):  # a cache that cannot be written only costs time
        content = orjson.dumps({"key": key_, "stamps": stamps, "answer": answer})
        # Without waiting for the disk: what a crash leaves torn has a wrong seal.
        write_atomically(_file(cache_dir, key_), _seal(content) + b"\n" + content, durable=False)
        _prune(cache_dir)


def _prune(cache_dir: Path) -> None:
    caches = [path for path in cache_dir.iterdir() if path.name.startswith("discovery-")]
    if len(caches) > _KEPT:
        caches.sort(key=lambda path: path.stat().st_mtime_ns)
        for path in caches[:-_KEPT]:
            # Another command may prune at the same time.
            path.unlink(missing_ok=True)
