"""Positions in the journal, which the wire calls offsets, and the search through events from one of them.

Pure: blocks that were read are handed in, and searched a portion at a time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.eventjson import event_from_params
from ally_plugins.contract.values.events import Event

if TYPE_CHECKING:
    from ally_plugins.journal.reader import EventBlock
    from ally_plugins.journal.values import StoredEvent

__all__ = ["Place", "PlacedEvent", "Walk"]

_log: Final = logging.getLogger(__name__)

LOOKED_AT: Final = 1024
"""Events that one portion searches at most: reading their types takes less than a millisecond."""

_TEXT: Final = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})", re.ASCII)
"""What a daemon may send: numbers that fit SQLite's 64 bits, in no other script's digits."""


@frozen(order=True)
class Place:
    """A place in the journal: before it are all records up to `record`, and the first `events` events of that one.

    Its text is what the wire calls an offset, which is opaque to plugins.
    """

    record: int
    events: int = 0

    @override
    def __str__(self) -> str:
        return f"{self.record}.{self.events}"

    def before(self) -> Place:
        """Return the place before the event that this one is right after."""
        return Place(self.record, max(self.events - 1, 0))

    @classmethod
    def parse(cls, text: Any) -> Place:
        """Read the text of a place. Raises ValueError when it is none."""
        found = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ValueError(f"{text!r:.80} is not a place in the journal")
        return cls(int(found[1]), int(found[2]))


@frozen
class PlacedEvent:
    """An event, the place right after it, which is its offset, and its JSON as the journal has it."""

    place: Place
    event: Event
    encoded: bytes


class Walk:
    """A search through some blocks of the journal; `place` is how far it has come, and record `end` when it is over."""

    def __init__(self, blocks: Sequence[EventBlock], place: Place, end: int) -> None:
        self.place = place
        self.is_over = False
        self.pruned = 0
        """Events whose content had been removed when they were passed."""
        self._end = Place(end)
        self._events = self._stored(blocks, place)

    def portion(
        self,
        wants: Callable[[Event], bool],
        names: Callable[[str], bool],
        limit: int,
        admits: Callable[[str, Place], bool] = lambda *_: True,
    ) -> list[PlacedEvent]:
        """Return at most `limit` of the next wanted events.

        `names` filters their types, `admits` their sessions and places, `wants` the decoded events.
        """
        found: list[PlacedEvent] = []
        for _ in range(LOOKED_AT):
            pair = next(self._events, None)
            if pair is None:
                self.place, self.is_over = self._end, True
                break
            self.place, stored = pair
            if not names(stored.type) or not admits(stored.session_id, self.place):
                continue
            if (event := _event_of(stored)) is not None and wants(event):
                found.append(PlacedEvent(self.place, event, stored.body))
                if len(found) >= limit:
                    break
        return found

    def _stored(self, blocks: Sequence[EventBlock], start: Place) -> Iterator[tuple[Place, StoredEvent]]:
        for block in blocks:
            done = start.events if block.n == start.record else 0
            if block.content is None:
                self.pruned += max(0, len(block) - done)
                continue
            try:
                for number, stored in enumerate(block.events(), 1):
                    if number > done:
                        yield Place(block.n, number), stored
            # One block that nobody can read must not keep the events behind it from a plugin for ever.
            except (ValueError, KeyError, TypeError):
                _log.exception("record %d of the journal holds no events that can be read", block.n)


def _event_of(stored: StoredEvent) -> Event | None:
    """Return the event as it was emitted, stamped; None when its type is unknown or it cannot be read.

    The types of its data are not checked, as for an inline plugin: it gets what was emitted.
    """
    try:
        return event_from_params(stored.value())
    except (EventError, ValueError, TypeError, AttributeError) as error:
        _log.warning("the event %s in the journal cannot be read: %s", stored.id, type(error).__name__)
        return None
