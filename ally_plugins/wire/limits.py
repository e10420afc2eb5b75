"""What a peer may send before it is cut off."""

from __future__ import annotations

from typing import Any, Final

import attrs
from attrs import field, frozen

__all__ = ["DEFAULT_LIMITS", "FROM_HOST", "WireLimits"]

FRAME_BYTES: Final = 1_048_576  # design, section 7; what a line may make us hold in memory
DEPTH: Final = 64  # event data may have 32 (MAX_DATA_DEPTH); the codec itself would stop at 1024
# How long one frame may hold up the loop: 100,000 values that mean harm (lists in lists, as many keys) took 10 to 40 ms
# here, 1 MiB of text 3. A thread would not help: the codec holds the interpreter's lock.
NODES: Final = 100_000
MALFORMED: Final = 100  # each is answered with an error, so that a mistake is seen; a peer that sends noise is cut off
IN_FLIGHT: Final = 1_024  # far above every plugin's budget of calls in flight (32), which answers first


def _check(_: object, attribute: attrs.Attribute[int], value: Any) -> None:
    # By exact type: True is an `int`, too.
    if type(value) is not int or value < 1:
        raise ValueError(f"{attribute.name} is {value!r}; expected a whole number, 1 or more")


def _limit(default: int) -> Any:
    return field(default=default, validator=_check)


@frozen(kw_only=True)
class WireLimits:
    """The limits of one connection.

    Raises ValueError, which names the limit, for anything but a whole number above 0.
    """

    frame_bytes: int = _limit(FRAME_BYTES)
    """The longest line, without its newline: bounds the memory a peer can make us hold. A longer one is fatal."""
    depth: int = _limit(DEPTH)
    """How many lists and objects may stand inside each other: bounds recursion in whoever walks a value."""
    nodes: int = _limit(NODES)
    """How many values a frame may have: bounds time and memory of decoding."""
    malformed: int = _limit(MALFORMED)
    """How many malformed frames a connection survives less one: bounds the answers that garbage makes us send."""
    in_flight: int = _limit(IN_FLIGHT)
    """How many of the peer's requests may wait for their answer, and how many cancelled ones of ours are remembered."""


DEFAULT_LIMITS: Final = WireLimits()

FROM_HOST: Final = WireLimits(frame_bytes=16 * FRAME_BYTES, depth=DEPTH + 16, nodes=8_000_000)
"""What a daemon of ours takes of its host, which it trusts: a tool's whole output, and arguments as deep as values go.

No larger than what a host sends (`host.daemons.stream_link.LONGEST_OUT`), and room for the envelope around the deepest
value.
"""
