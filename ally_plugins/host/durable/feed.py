"""One plugin's durable subscription in one host: what it has acknowledged, where it reads, and how it is delivered.

Which feeds there are, which host runs one, and when they look for events is decided in `feeds`; the two ways to deliver
are in `inline` and `process`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.errors import JournalError, NotFoundRefused, UnavailableRefused, ValidationRefused
from ally_plugins.contract.values.ids import is_replayed
from ally_plugins.journal.process_identity import ProcessIdentity
from ally_plugins.runtime.lanes.observers import is_for, is_own
from ally_plugins.runtime.lanes.tables import durable_names

from .bookmarks import begin_place, bookmark_of
from .offsets import Place, Walk
from .progress import Look, Progress

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event
    from ally_plugins.journal.journal import Journal
    from ally_plugins.journal.reader import EventBlock, JournalReader
    from ally_plugins.runtime.lanes.plugin import Plugin
    from ally_plugins.runtime.lanes.protocol import AnyLane

    from .offsets import PlacedEvent

__all__ = ["GRACE", "Feed"]

_log: Final = logging.getLogger(__name__)

GRACE: Final = 1.0
"""Seconds that a hook has to return when its feed is closed, before it is interrupted and its event comes again."""

PORTION: Final = 32
"""Events that are decoded from the journal before the loop has another turn: half a millisecond."""

SAVE_S: Final = 0.05
"""Seconds between two saves that nobody waits for; after a kill, events of this time are delivered again."""

LOOK_S: Final = 0.25
"""Seconds after which it is looked again who has which session, while events that were read are still delivered."""

HOLD_S: Final = 1.0
"""Seconds that are left to another host to open a session that was let go, before the host that leads feeds it."""

FAR: Final = 10_000
"""Records without an event for the plugin that are passed before the bookmark is moved past them."""


class Feed:
    """Delivers one plugin's durable events in the journal's order; it lives from `Feeds.add` until `close`.

    At least once: what is not acknowledged when the plugin, the daemon or the host ends comes again. Nothing is
    promised about the order relative to other events, gates and transforms; `Session.drained` does not wait for it.
    """

    def __init__(
        self,
        plugin: Plugin,
        lane: AnyLane,
        types: Iterable[str],
        journal: Journal,
        reading: JournalReader,
        host_id: str,
    ) -> None:
        self.plugin: Final = plugin
        self.progress = Progress(Place(0), leads=False)
        self.pruned = 0
        """Events that were pruned before the plugin had acknowledged them."""
        self.is_begun = False
        self.is_closing = False
        self._lane: Final = lane
        self._names: Final = durable_names(types)
        self._journal: Final = journal
        self._reading: Final = reading
        self._host_id: Final = host_id
        self._known = Place(0)  # up to which an offset may be one that was acknowledged before
        self._position = Place(0)
        self._looked_at = -math.inf
        self._releases = 0  # a look that was begun before one has the session as this host's
        self._progressed = asyncio.Event()
        self._walk: Walk | None = None
        self._is_behind = True
        self._has_failed = False
        self._changed: Final = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None

    # --- life ---

    @property
    def acknowledged(self) -> Place:
        """Everything that was sent before it is done, and not delivered again."""
        return self.progress.acknowledged

    async def begin(self, *, leads: bool) -> None:
        """Start delivering after the plugin's bookmark, for a new subscription at the journal's end.

        `leads` says whether this host holds the lock of the feed; one that does not begins once there is a bookmark.
        Raises JournalError; call it again then. Cancelling leaves the feed not begun.
        """
        place = await begin_place(self._name, self._journal, self._reading, leads=leads)
        if self.is_closing or place is None:
            return
        self.progress = Progress(place, leads)
        self._position = place
        self._known = place if leads else self._known
        self.is_begun = True
        self._task = asyncio.get_running_loop().create_task(self._work(), name=f"ally-durable-{self.plugin.name}")

    def lead(self) -> None:
        """Feed the sessions that belong to no host too; the host that did has ended."""
        if not self.progress.leads:
            self.progress.leads = True
            self._known = max(self._known, self.progress.base)
            self.wake()

    async def close(self) -> None:
        """Deliver no more, wait `GRACE` for what runs, and save what was acknowledged.

        Cancelling may lose that save: events come again then.
        """
        self.is_closing = True
        self._changed.set()
        tasks = [task for task in (self._task, self._saving) if task is not None]
        if self._task is not None:
            await asyncio.wait([self._task], timeout=GRACE)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self.is_begun:
            try:
                await self._save()
            except JournalError as error:
                _log.warning("what %r has acknowledged is not written down: %s", self._name, error)

    # --- what `Feeds` and the daemon call ---

    def wake(self) -> None:
        """Look for events: there may be new ones, or what delayed delivery may be over."""
        self._is_behind = True
        self._changed.set()

    def disconnected(self) -> None:
        """Forget what was sent to a daemon that is gone; an inline feed has nothing to forget."""

    @property
    def needs_polling(self) -> bool:
        """Whether it waits for something that calls no `wake`, so that it has to be woken at intervals."""
        return self._has_failed or not self.is_begun

    @property
    def is_over(self) -> bool:
        """Whether nothing can be delivered any more, since the lane has ended."""
        return not self._lane.is_open

    async def acknowledge(self, offset: object) -> None:
        """Record that the plugin is done with everything up to an event; on disk when it returns.

        An offset that was acknowledged before changes nothing. Raises ValidationRefused for what is no offset,
        NotFoundRefused for one that was never sent, UnavailableRefused when it cannot be written: acknowledge again.
        Cancelling does not take it back: it is saved soon.
        """
        try:
            place = Place.parse(offset)
        except ValueError:
            text = f"offset is {offset!r:.80}; expected the `offset` of an event, as `on_event` gave it"
            raise ValidationRefused(text, plugin=self._name, field="offset") from None
        if self._was_sent(place):
            self._finish_until(place)
        elif place > self._known:
            text = f"offset {offset!r} was not sent to {self._name!r}; expected the `offset` of an event that was"
            raise NotFoundRefused(text, plugin=self._name)
        try:
            await self._save()
        except asyncio.CancelledError:
            self._save_soon()  # nobody waits any more, but the plugin has acknowledged it
            raise
        except JournalError as error:
            self._save_soon()  # in case the plugin does not acknowledge again
            raise UnavailableRefused(f"the acknowledgement is not on disk: {error}", plugin=self._name) from None

    # --- what differs by placement ---

    @abstractmethod
    def _can_deliver(self) -> bool:
        """Say whether events can be delivered now."""

    @abstractmethod
    async def _deliver(self, found: list[PlacedEvent]) -> None:
        """Deliver events that were found."""

    def _room(self) -> int:
        """Return how many events may be delivered at once."""
        return PORTION

    def _was_sent(self, place: Place) -> bool:  # noqa: ARG002
        """Say whether an event with this offset was sent and not acknowledged."""
        return False

    def _finish_until(self, place: Place) -> None:
        """Finish what was sent, up to the event with this offset."""

    def _is_idle(self) -> bool:
        """Say whether everything that was delivered is acknowledged."""
        return True

    def _unfinished(self) -> list[tuple[str, Place]]:
        """Return what was sent and may not be acknowledged, by session and place."""
        return []

    def _at_work(self) -> list[tuple[str, Place]]:
        """Return what of it somebody is at work on."""
        return self._unfinished()

    def _finish(self, session_id: str, place: Place) -> None:
        """Note that an event was acknowledged."""
        self.progress.finish(session_id, place)
        self._known = max(self._known, place)
        self._note_progress()

    def _note_progress(self) -> None:
        """Wake who waits for events to be done."""
        # A new one for who waits next: on one that is set nobody would wait.
        event, self._progressed = self._progressed, asyncio.Event()
        event.set()

    def _on_saved(self) -> None:
        """Do what follows when what is acknowledged is on disk."""

    # --- the task ---

    @property
    def _name(self) -> str:
        return self.plugin.name

    @property
    def _bookmark(self) -> str:
        return bookmark_of(self.plugin.name)

    async def _work(self) -> None:
        reported = ""
        while not self.is_closing:
            try:
                await self._step()
                reported, self._has_failed = "", False
            except JournalError as error:
                if reported != str(error):
                    _log.warning("the events for %r cannot be read: %s", self._name, error)
                reported, self._is_behind, self._has_failed = str(error), False, True  # until the next `wake`
            except Exception:  # noqa: BLE001 - whatever it is, the events are still there
                _log.exception("the durable subscription of %r failed; this is a fault of ours", self._name)
                await asyncio.sleep(1)  # a bug that comes again must not fill the log

    async def _step(self) -> None:
        if not await self._until(self._has_work):
            return
        if self._walk is None:
            await self._load()
            return
        if asyncio.get_running_loop().time() - self._looked_at > LOOK_S:
            releases = self._releases
            look = await asyncio.to_thread(self._look)
            if releases == self._releases:
                self._take(look)
            return
        # No await from here to the writing: `_can_deliver` was true just now, and must still be.
        walk = self._walk
        found = walk.portion(self._wants, self._names, self._room(), self._admits)
        self._position = walk.place
        for one in found:
            self.progress.send(one.event.session_id, one.place)
        if walk.is_over:
            self._walk = None
            # Once for what was read: the count is complete only now.
            self._warn_of_pruned(walk.pruned)
        await self._deliver(found)
        if self._walk is None and self._is_idle():
            self._skip_irrelevant()
        await asyncio.sleep(0)  # an inline portion without a hook to call would not yield to the loop at all

    def _has_work(self) -> bool:
        return self._can_deliver() and (self._walk is not None or self._is_behind)

    async def _until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition; return false when the feed is closed instead."""
        while not self.is_closing:
            if condition():
                return True
            # Nothing sets it between the look and this: both are in one turn of the loop.
            self._changed.clear()
            await self._changed.wait()
        return False

    async def _load(self) -> None:
        """Read the next blocks, in a thread: a disk may be slow."""
        # Before the reading: a `wake` that comes meanwhile is about what this does not find.
        self._is_behind = False
        start, releases = self._position, self._releases
        blocks, end, look = await asyncio.to_thread(self._read, start.record)
        if releases != self._releases:
            self._is_behind = True
        elif self._take(look) and end > start.record:
            self._walk, self._is_behind = Walk(blocks, start, end), True

    def _read(self, record: int) -> tuple[list[EventBlock], int, Look]:
        """Read blocks of events, then who has which session: a session is claimed before it has an event."""
        blocks, end = self._reading.event_blocks(record)
        return blocks, end, self._look()

    def _look(self) -> Look:
        # In this order: what a session's host has marked is on disk before another one has the session, and a mark goes
        # once the bookmark is past it.
        leases = self._reading.leases()
        marks = self._reading.bookmarks(f"{self._bookmark}:")
        is_dead = cache(ProcessIdentity.is_dead)  # a look at /proc for each host, and not for each session
        return Look(
            _parsed(self._reading.bookmark(self._bookmark)),
            {session_id: place for session_id, text in marks.items() if (place := _parsed(text)) is not None},
            frozenset(row.session_id for row in leases if row.host == self._host_id),
            frozenset(row.session_id for row in leases if row.host != self._host_id and not row.is_free(is_dead)),
        )

    def _take(self, look: Look) -> bool:
        """Take what is on disk by now; return false when earlier events have come to this host: they are read first."""
        self._looked_at = asyncio.get_running_loop().time()
        back = self.progress.take(look)
        if back is None or back >= self._position:
            return True
        self._walk, self._position, self._is_behind = None, back, True
        return False

    def _admits(self, session_id: str, place: Place) -> bool:
        # What a replay emits has happened before, and is no news to a plugin.
        return not is_replayed(session_id) and self.progress.admits(session_id, place)

    def _wants(self, event: Event) -> bool:
        return self.plugin.grants.receives(event.type) and is_for(event, self._name) and not is_own(event, self._name)

    def _warn_of_pruned(self, count: int) -> None:
        if count:
            self.pruned += count
            text = "%d events were pruned before %r had acknowledged them; if some were for it, they are lost to it"
            _log.warning(text, count, self._name)

    # --- what is on disk ---

    def _skip_irrelevant(self) -> None:
        """Acknowledge what did not concern the plugin, so that it is not read again at the next start."""
        progress = self.progress
        progress.acknowledged = max(progress.acknowledged, self._position)
        if self._place_to_save().record - progress.base.record > FAR:
            self._save_soon()

    def _place_to_save(self) -> Place:
        """Return the bookmark as it may be on disk; one host moves it, for all."""
        if not self.progress.leads:
            return self.progress.base
        return self.progress.bookmark(self._position, self._unfinished())

    def _save_soon(self) -> None:
        if self._saving is None and not self.is_closing:
            self._saving = asyncio.get_running_loop().create_task(self._save_until_done())

    async def _save_until_done(self) -> None:
        try:
            while self._place_to_save() > self.progress.base or self.progress.unmarked(self._place_to_save()):
                await asyncio.sleep(SAVE_S)
                try:
                    await self._save()
                except JournalError:  # the journal has logged it, and recovers by itself
                    await asyncio.sleep(1)
        finally:
            self._saving = None

    async def _save(self) -> None:
        """Move the bookmark to where everything is done, and mark what is done beyond it. Raises JournalError."""
        progress, place = self.progress, self._place_to_save()
        marks = progress.unmarked(place)
        writing = [self._journal.put_bookmark(f"{self._bookmark}:{name}", str(mark)) for name, mark in marks.items()]
        if place > progress.base:
            # Written in the order of these calls.
            writing.append(self._journal.put_bookmark(self._bookmark, str(place)))
        if not writing:
            return
        await asyncio.gather(*writing)
        progress.marked.update(marks)
        # Not before the bookmark that covers them is on disk.
        for name, mark in progress.move_base(place).items():
            self._journal.drop_bookmark(f"{self._bookmark}:{name}", str(mark))
        self._note_progress()
        self._on_saved()

    async def settle(self, session_id: str) -> None:
        """Send no more of a session that is about to be let go, and wait `GRACE` until what was sent is done.

        Another host would send it again. Cancelling ends the waiting only.
        """
        self.progress.closing.add(session_id)
        with suppress(TimeoutError, JournalError):
            async with asyncio.timeout(GRACE):
                while self._is_open_in(session_id):
                    await self._progressed.wait()
                await self._save()

    def let_go(self, session_id: str) -> None:
        """Note that a session belongs to this host no longer."""
        self.progress.let_go(session_id)
        self._releases += 1
        asyncio.get_running_loop().call_later(HOLD_S, self._end_hold, session_id)

    def _end_hold(self, session_id: str) -> None:
        self.progress.released.discard(session_id)
        self.wake()

    def _is_open_in(self, session_id: str) -> bool:
        done = self.progress.done.get(session_id, self.progress.base)
        return any(name == session_id and place > done for name, place in self._at_work())


def _parsed(text: str | None) -> Place | None:
    """Return a place of the journal's, None for what is none."""
    try:
        return Place.parse(text)
    except ValueError:
        return None
