"""Where a plugin's durable events begin: what it has acknowledged, which stands in the journal's file."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from .offsets import Place

if TYPE_CHECKING:
    from ally_plugins.journal.journal import Journal
    from ally_plugins.journal.reader import JournalReader

__all__ = ["begin_place", "bookmark_of"]

_log: Final = logging.getLogger(__name__)


def bookmark_of(plugin: str) -> str:
    """Return the name of a plugin's bookmark."""
    return f"durable:{plugin}"


async def begin_place(plugin: str, journal: Journal, reading: JournalReader, *, leads: bool = True) -> Place | None:
    """Return the place of a plugin's bookmark; a new subscription begins at the journal's end, which is then on disk.

    None where there is none yet and `leads` is false: whoever leads makes it. Raises JournalError. Cancelling may leave
    it made.
    """
    name = bookmark_of(plugin)
    text = await asyncio.to_thread(reading.bookmark, name)
    if text is None:
        await journal.flush()  # queued events were emitted before the subscription
    end = Place(await asyncio.to_thread(reading.last_n) + 1)
    if text is not None:
        with suppress(ValueError):
            if (place := Place.parse(text)) <= end:
                return place
    if not leads:
        return None
    if text is not None:
        # As after the file was put back from an older copy.
        _log.error("the journal has no place %r, which %r had read up to; it begins at the end", text, plugin)
    await journal.put_bookmark(name, str(end))
    return end
