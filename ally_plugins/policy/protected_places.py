"""What no plugin is given, whatever was granted: the places from which it could free itself.

Paths here are real ones, with no link in them; finding those out is left to `catalog` and the host.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import frozen

from ally_plugins.contract.granted_paths import is_within

__all__ = ["ProtectedPlace", "protection_of"]


@frozen(order=True)
class ProtectedPlace:
    """A file or folder that is kept from plugins, and what it is, in words."""

    path: str
    what: str
    is_readable: bool = False
    """Whether a plugin may read it. Code that others run may be read; what changes it could act as they do."""


_READ: Final = "read"


def protection_of(path: str, topic: str, places: Iterable[ProtectedPlace]) -> str | None:
    """Return why a plugin may not `read` or `write` all that is at a path, None when it may."""
    for place in sorted(places):
        if place.is_readable and topic == _READ:
            continue
        # Both ways: a rule of the kernel holds for all that is below a folder, without exceptions.
        if is_within(place.path, path):
            return f"{path} holds {place.path}, {place.what}" if path != place.path else f"{path} is {place.what}"
        if is_within(path, place.path):
            return f"{path} lies in {place.path}, {place.what}"
    return None
