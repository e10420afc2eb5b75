"""What a daemon sends besides the calls of its plugin: offers in full, acknowledgements, logs, crashes, its token.

One class for the params of each message, as in `contract.calls`; the host reads them strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from attrs import field, frozen

from ally_plugins.contract.calls import CAUSE, SESSION
from ally_plugins.contract.shapes import FLAG, INTEGER, TEXT, one_of, several
from ally_plugins.contract.tables import holds, keys, object_of

from .offers import ToolOffer

__all__ = [
    "LOG_LEVELS",
    "AckEvents",
    "ConnectParams",
    "Log",
    "RegisterActionParams",
    "RegisterToolParams",
    "ReportCrash",
    "ReportTimes",
]

LOG_LEVELS: Final = ("debug", "info", "warning", "error")


@frozen(kw_only=True)
class _Frame:
    """What each of them may carry: where it belongs, and what it reacts to."""

    session_id: str | None = field(default=None, metadata=SESSION)
    cause: str | None = field(default=None, metadata=CAUSE)


@frozen(kw_only=True)
class _Registration(ToolOffer):
    """The same for an offer, since a class with slots can have one base with fields only."""

    session_id: str | None = field(default=None, metadata=SESSION)
    cause: str | None = field(default=None, metadata=CAUSE)


@frozen(kw_only=True)
class RegisterToolParams(_Registration):
    """Offer a tool from now on, until it is unregistered or the daemon ends."""


@frozen(kw_only=True)
class RegisterActionParams(_Registration):
    """Offer an action from now on, until it is unregistered or the daemon ends."""


@frozen(kw_only=True)
class AckEvents(_Frame):
    """Everything up to this event of a durable subscription is done, and is not sent again. On disk when answered."""

    offset: str = field(metadata=holds(TEXT, "the `offset` of the last event that is done, as it was sent"))


@frozen(kw_only=True)
class Log(_Frame):
    """Write a line into the plugin's log."""

    level: Literal["debug", "info", "warning", "error"] = field(
        metadata=holds(one_of(*LOG_LEVELS), "how much it matters")
    )
    message: str = field(metadata=holds(TEXT, "the line"))


@frozen(kw_only=True)
class ReportCrash(_Frame):
    """A hook of the daemon's failed on an event, which has no answer that could report it. It is counted as a crash."""

    hook: str = field(metadata=holds(TEXT, "the hook"))
    error: str = field(metadata=holds(TEXT, "the name of the error's type, and nothing else"))
    event_id: str | None = field(default=None, metadata=holds(TEXT, "the event that it failed on"))
    is_final: bool = field(default=False, metadata=holds(FLAG, "whether the daemon cannot go on"))


_TIME: Final = object_of(keys(("seq", "us"), seq=INTEGER, us=INTEGER, hook=TEXT))


@frozen(kw_only=True)
class ReportTimes(_Frame):
    """How long hooks of the daemon have taken for events of a session, for whoever looks at these later.

    Once a second at most, and before `drain` is answered. Of an event that it was not sent, nothing is kept.
    """

    times: tuple[Mapping[str, Any], ...] = field(
        metadata=holds(several(_TIME), "for each event its `seq`, the microseconds `us`, and the `hook` if it was one")
    )


@frozen(kw_only=True)
class ConnectParams:
    """The first frame on the host's own socket, by a `socket` daemon that talks back: here is my token."""

    token: str = field(repr=False, metadata=holds(TEXT, "what the environment has as ALLY_TOKEN"))
    protocol: str = field(metadata=holds(TEXT, "the version of the wire that it speaks"))
    name: str | None = field(default=None, metadata=holds(TEXT, "its own name; the token decides who it is"))
