"""Tool calls that have begun and are not decided: what they hold is not written to the journal before, for a while.

A gate may say that it is not to be kept. Plugins that observe get the event at once, as every other.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

from attrs import define, evolve, field

from ally_plugins.contract.values.events import DiffPreview, Event, ToolCallStart, stamp
from ally_plugins.contract.values.frozen import EMPTY

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import ToolCall
    from ally_plugins.contract.values.events import ToolCallEnd

__all__ = ["HOLD_S", "UndecidedCalls", "withheld"]

HOLD_S: Final = 1.0
"""Seconds that the journal waits for a decision: a guard answers in milliseconds, and what a host has not written when
it is killed is lost."""

_NEVER: Final = 2**63  # more than SQLite can hold, and so than any event's number
_WITHHELD: Final = "a gate has said that it is sensitive"
_E = TypeVar("_E", bound=Event)


@define(eq=False)
class UndecidedCalls:
    """Those of one session. Whoever calls holds the lock of its ring."""

    begun: dict[str, tuple[int, float]] = field(init=False, factory=dict)
    """Each start's event number, and until when it waits. Whether there are any may be asked without the lock."""

    sensitive: set[str | None] = field(init=False, factory=set)
    """The ids of those of which a gate has said that what they hold is not to be kept."""

    def begin(self, start: ToolCallStart, seq: int) -> None:
        """Note the start of a call, which is event number `seq`."""
        self.begun[start.call_id or start.tool_name] = (seq, time.monotonic() + HOLD_S)

    def end(self, call: ToolCall | ToolCallEnd) -> None:
        """Note that a call is decided, or has ended."""
        self.begun.pop(call.call_id or call.tool_name, None)

    def first(self) -> int:
        """Return the number of the first start that waits for its decision; more than there are events for none."""
        if not self.begun:
            return _NEVER
        now = time.monotonic()
        for key in [key for key, (_, until) in self.begun.items() if until <= now]:
            del self.begun[key]
        return min((seq for seq, _ in self.begun.values()), default=_NEVER)


def withheld(event: Event, call: ToolCall) -> Event:
    """Return an event of a call without what the call holds; another event as it is."""
    if event.call_id != call.call_id:
        return event
    if isinstance(event, ToolCallStart) and event.tool_name == call.tool_name:
        return _stamped(evolve(event, arguments=EMPTY, unshown=_WITHHELD), event)
    if isinstance(event, DiffPreview):
        return _stamped(evolve(event, old_content="", new_content=""), event)
    return event


def _stamped(new: _E, old: Event) -> _E:
    stamp(new, old.seq, old.timestamp, old.session_id, old.origin, old.turn_id)
    return new
