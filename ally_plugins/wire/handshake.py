"""Versions of the protocol, and what may be sent before both ends have agreed on one.

The host offers all the versions that it speaks, the daemon answers with the one it takes; `initialize` comes first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ally_plugins.contract.values.errors import VersionError

__all__ = ["PROTOCOL", "PROTOCOLS", "check_protocol", "choose", "find_early_problem"]

PROTOCOLS: Final = ("1",)
"""The versions that this end speaks, the newest first."""
PROTOCOL: Final = PROTOCOLS[0]

SHOWN: Final = 40  # characters of a peer's version in a text; ours have one


def choose(offered: Iterable[str], supported: Iterable[str] = PROTOCOLS) -> str:
    """Return the newest version that both sides speak. Raises VersionError when there is none."""
    theirs, ours = tuple(offered), tuple(supported)
    for version in ours:
        if version in theirs:
            return version
    raise _refuse(theirs, ours)


def check_protocol(answered: object, supported: Iterable[str] = PROTOCOLS) -> str:
    """Return the version that a peer answered with, when it is one that was offered. Raises VersionError."""
    ours = tuple(supported)
    if isinstance(answered, str) and answered in ours:
        return answered
    raise _refuse((answered,) if isinstance(answered, str) else (), ours)


def find_early_problem(method: str, *, is_ready: bool) -> str | None:
    """Return why a request or notification is refused (not_initialized), before or after `initialize` was answered.

    `initialize` is the first one, and comes once.
    """
    if method == "initialize":
        return "'initialize' came again; it opens a connection, once" if is_ready else None
    return None if is_ready else f"{method!r} came before 'initialize'; that opens a connection"


def _refuse(theirs: tuple[str, ...], ours: tuple[str, ...]) -> VersionError:
    text = f"the peer speaks {_name(theirs)}, this side {_name(ours)}; update the older of the two"
    return VersionError(text, offered=theirs, known=ours)


def _name(versions: tuple[str, ...]) -> str:
    if not versions:
        return "no version of the protocol that can be read"
    # Eight of a peer's versions, cut: a text of ours must not be as long as it likes.
    names = ", ".join(repr(version[:SHOWN]) for version in versions[:8])
    return f"version {names} of the protocol"
