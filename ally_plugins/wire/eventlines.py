"""Events as `on_event` notifications: the JSON of each, which is made elsewhere, framed and joined."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ally_plugins.contract.values.errors import EncodeError

__all__ = ["FRAME_BYTES", "event_lines", "with_offset"]

_HEAD: Final = b'{"jsonrpc":"2.0","method":"on_event","params":'
_END: Final = b"}\n"
_BETWEEN: Final = _END + _HEAD

FRAME_BYTES: Final = len(_BETWEEN)
"""Bytes of a line beside the event's own."""


def event_lines(events: Iterable[bytes]) -> bytes:
    """Return a line for each event's JSON, one at least, ready to be written: one join costs less than a line each."""
    return b"%b%b%b" % (_HEAD, _BETWEEN.join(events), _END)


def with_offset(event: bytes, offset: str) -> bytes:
    """Return an event's JSON with the `offset` of a durable subscription, which is plain ASCII, spliced in.

    Raises EncodeError for a text, of a journal that somebody else has written, that would not stay one line's object.
    """
    if not event.endswith(b"}") or b"\n" in event:
        raise EncodeError("the event's text is not one JSON object on one line, as a journal has it")
    return b'%b,"offset":"%b"}' % (event[:-1], offset.encode())
