"""Which plugins could not be started when a host last tried: kept in the home, for `list`, `info` and `doctor`.

What is installed is read without importing it, so a broken import shows only when a host loads the plugin.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import orjson

from .folder import MAX_STATE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .folder import Home

__all__ = ["failed_starts", "remember_starts"]

_MAX_REASON: Final = 500  # characters; the text of an exception is the plugin's, and may be long


def remember_starts(home: Home, tried: Iterable[tuple[str, str, str]]) -> None:
    """Keep which plugins a host could start: for each its name, its version, and why it failed or "".

    What is kept of other plugins stays. Raises nothing for a disk that fails: only a remark would be missing.
    """
    before = _read(home)
    latest = {name: (version, reason[:_MAX_REASON]) for name, version, reason in tried}
    kept = {name: entry for name, entry in (before | latest).items() if entry[1]}
    if kept != before:
        with suppress(OSError):
            # Without waiting for the disk, at each start of a host: the next one writes it again.
            home.write(home.failed_starts_file, orjson.dumps(kept), MAX_STATE_BYTES, durable=False)


def failed_starts(home: Home, versions: Mapping[str, str]) -> dict[str, str]:
    """Return why plugins could not start, by name; only where the failure was of the version that is installed now."""
    return {name: reason for name, (version, reason) in _read(home).items() if versions.get(name) == version}


def _read(home: Home) -> dict[str, tuple[str, str]]:
    with suppress(OSError, ValueError, TypeError):  # only for a remark; without the file there is none
        kept = orjson.loads(home.read(home.failed_starts_file, MAX_STATE_BYTES) or b"{}")
        if isinstance(kept, dict):
            return {name: (str(version), str(reason)) for name, (version, reason) in kept.items()}
    return {}
