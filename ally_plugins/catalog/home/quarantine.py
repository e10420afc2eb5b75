"""Which plugins stay stopped until they are released, on disk in the home."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import orjson

from ally_plugins.contract.values.errors import ConfigError

from .folder import read_capped, write_atomically

if TYPE_CHECKING:
    from .folder import Home

__all__ = ["quarantined", "set_quarantine"]

_MAX_BYTES: Final = 1024 * 1024


def quarantined(home: Home) -> dict[str, str]:
    """Return the reason by plugin. Without the file, a plugin that fails is stopped again soon enough."""
    with suppress(OSError, ValueError):
        kept = orjson.loads(read_capped(home.quarantine_file, _MAX_BYTES) or b"{}")
        if isinstance(kept, dict):
            return {name: str(reason) for name, reason in kept.items()}
    return {}


def set_quarantine(home: Home, name: str, reason: str | None) -> None:
    """Write down why a plugin is stopped, or with None that it is not. Raises ConfigError.

    The caller holds the home's lock.
    """
    kept = quarantined(home)
    if kept.get(name) == reason:
        return
    changed = {**kept, name: reason}
    content = orjson.dumps({key: value for key, value in changed.items() if value is not None})
    file = home.quarantine_file
    try:
        write_atomically(file, content)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}", file=str(file)) from error
