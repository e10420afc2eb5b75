"""Durable subscriptions: a plugin gets the events of its durable types from the journal, not from the session's ring.

They begin where the plugin last acknowledged, across restarts of daemon and host, and cover every session of the home,
also those of earlier hosts. The bookmark of each plugin is in the journal's file. Of the hosts that share a home, each
delivers the events of the sessions that it has; those of sessions that belong to none are delivered by the host that
holds the lock `run/durable-NAME.lock`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import define, field

from ally_plugins.catalog.home.folder import try_lock, unlock
from ally_plugins.contract.values.errors import JournalError, NotFoundRefused
from ally_plugins.journal.owned_files import open_file
from ally_plugins.runtime.lanes.lane import Lane

from .bookmarks import begin_place

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.journal.journal import Journal
    from ally_plugins.runtime.lanes.plugin import Plugin
    from ally_plugins.runtime.lanes.protocol import AnyLane

    from .feed import Feed  # noqa: TC004 - nobody reads this annotation at run time

__all__ = ["Feeds"]

_log: Final = logging.getLogger(__name__)

POLL_S: Final = 1.0
"""Seconds between looks for what wakes nobody: events of other hosts, and a lock that one of them has released."""

SPACING_S: Final = 0.01
"""Seconds between two looks while events come, each of which makes the journal commit: a hundred a second at most."""


@define(eq=False)
class _FeedLock:
    """The lock of one plugin's feed, which one host has at a time; without a path it is always free."""

    path: Path | None
    _descriptor: int | None = field(init=False, default=None)
    _is_reported: bool = field(init=False, default=False)

    def acquire(self) -> bool:
        """Take the lock if it is free; say whether this host has it now."""
        if self.path is None or self._descriptor is not None:
            return True
        try:
            descriptor = open_file(self.path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if not self._is_reported:
                _log.warning("the lock %r cannot be opened: %s", str(self.path), error.strerror or error)
            self._is_reported = True
            return False
        if not try_lock(descriptor):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Release the lock; the file stays, since another host may be about to lock it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            unlock(descriptor)


@define(eq=False)
class _OwnedFeed:
    """A feed and its lock."""

    feed: Feed
    lock: _FeedLock
    _is_beginning: bool = field(init=False, default=False)

    async def begin(self) -> None:
        """Begin the feed, and let it lead if no other host has the lock; else the next look tries again."""
        feed = self.feed
        if feed.is_closing or self._is_beginning:
            return
        # At every look: the host that had it may have ended.
        leads = self.lock.acquire()
        if feed.is_begun:
            if leads:
                feed.lead()
            return
        self._is_beginning = True
        try:
            await feed.begin(leads=leads)
        except JournalError as error:
            _log.warning("the durable subscription of %r cannot begin: %s", feed.plugin.name, error)
        finally:
            self._is_beginning = False

    async def close(self) -> None:
        """Close the feed, then release the lock to other hosts."""
        try:
            await self.feed.close()
        finally:
            self.lock.release()


class Feeds:
    """The durable subscriptions of one host's plugins; belongs to its loop, and lives until `close`.

    Close it after the daemons have ended, so that their last acknowledgements count, and before the journal.
    """

    def __init__(self, journal: Journal, home: Home | None, host_id: str = "") -> None:
        self._host_id: Final = host_id  # as in the leases of its sessions
        self._journal: Final = journal
        self._home: Final = home
        self._reading: Final = journal.new_reader()  # not the journal's own, which the loop itself reads with
        self._owned: Final[dict[str, _OwnedFeed]] = {}
        self._ending: Final[dict[str, asyncio.Task[None]]] = {}
        self._wake_event: Final = asyncio.Event()
        self._is_new = False
        self._task: asyncio.Task[None] | None = None

    async def add(self, plugin: Plugin, lane: AnyLane, types: Iterable[str]) -> Feed:
        """Start the feed of a plugin; the bookmark of a new one is on disk when it returns. Ends one of the same name.

        `types` are the manifest's durable types. Call it once an inline plugin has started; a daemon may start later.
        Raises no JournalError: what cannot be read now is tried again. Once the lane is abandoned, by a quarantine, the
        feed ends by itself: add it again with the new lane. Cancelling leaves a feed that begins later; `remove` ends
        it.
        """
        name = plugin.name
        # That of the instance before: two would deliver everything twice.
        await self._end(name)
        feed = self._new_feed(plugin, lane, types)
        path = self._home.run_dir / f"durable-{name}.lock" if self._home is not None else None
        owned = self._owned[name] = _OwnedFeed(feed, _FeedLock(path))
        await owned.begin()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="ally-durable")
        self.wake()  # events that are queued in the journal count too
        return feed

    async def begin_elsewhere(self, plugin: str) -> None:
        """See to it that a plugin's bookmark is on disk: its events are sent from there by `fleet publish`.

        Where the journal cannot be written now, that makes it, later. Cancelling may leave it made.
        """
        try:
            await begin_place(plugin, self._journal, self._reading)
        except JournalError as error:
            _log.warning("the durable subscription of %r cannot begin: %s", plugin, error)

    def _new_feed(self, plugin: Plugin, lane: AnyLane, types: Iterable[str]) -> Feed:
        if isinstance(lane, Lane):
            from .inline import InlineFeed  # only where there is one

            return InlineFeed(plugin, lane, types, self._journal, self._reading, self._host_id)
        from ally_plugins.host.daemons.lane import RemoteLane

        from .process import ProcessFeed

        assert isinstance(lane, RemoteLane)  # noqa: S101 - there is no third kind
        return ProcessFeed(plugin, lane, types, self._journal, self._reading, self._host_id)

    def wake(self) -> None:
        """Look for events soon: some were handed to the journal. Cheap; called once a burst."""
        if self._owned:
            self._is_new = True
            self._wake_event.set()

    @asynccontextmanager
    async def handing_over(self, session_id: str) -> AsyncGenerator[None]:
        """Let go of a session in the block: what was sent of it is done first, or a second has passed.

        Cancelling ends the waiting.
        """
        feeds = [owned.feed for owned in self._owned.values() if owned.feed.is_begun]
        try:
            await asyncio.gather(*(feed.settle(session_id) for feed in feeds))
            yield
        finally:
            for feed in feeds:
                feed.let_go(session_id)
            self.wake()

    def connected(self, plugin: str) -> None:
        """Go on with a daemon that is ready, or reads again; a new process gets all that was not acknowledged."""
        if (owned := self._owned.get(plugin)) is not None:
            owned.feed.wake()

    def disconnected(self, plugin: str) -> None:
        """Forget what was sent to a daemon, which is gone."""
        if (owned := self._owned.get(plugin)) is not None:
            owned.feed.disconnected()

    async def acknowledge(self, plugin: str, offset: str) -> None:
        """Record that a daemon is done with everything up to an offset; on disk when it returns.

        Raises RefusedError; see `Feed.acknowledge`, also for cancelling.
        """
        owned = self._owned.get(plugin)
        if owned is None:
            text = f"plugin {plugin!r} has no durable subscription; its manifest needs `durable` in [events]"
            raise NotFoundRefused(text, plugin=plugin)
        await owned.feed.acknowledge(offset)

    async def remove(self, plugin: Plugin) -> None:
        """End the feed of a plugin that was stopped; its bookmark stays. Waits a second for a hook that runs.

        The feed of another plugin that has its name by now goes on. Cancelling does not take it back.
        """
        owned = self._owned.get(plugin.name)
        if owned is not None and owned.feed.plugin is plugin:
            await self._end(plugin.name)

    async def _end(self, name: str) -> None:
        """End the feed of this name, and wait until it has ended, also when another call ends it."""
        self._close_soon(name)
        if (ending := self._ending.get(name)) is not None:
            # It ends for all who wait; and half ended, the feed would keep its lock.
            await asyncio.shield(ending)

    def _close_soon(self, name: str) -> None:
        owned = self._owned.pop(name, None)
        if owned is not None:
            task = self._ending[name] = asyncio.get_running_loop().create_task(owned.close())  # `add` waits for it
            task.add_done_callback(lambda _: self._ending.get(name) is task and self._ending.pop(name))

    async def close(self) -> None:
        """End all feeds. May be called again. Cancelling may leave some open: call it again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await asyncio.gather(*(self._end(name) for name in [*self._owned, *self._ending]))
        self._reading.close()

    # --- the task ---

    async def _run(self) -> None:
        while True:
            await self._wait()
            is_new, self._is_new = self._is_new, False
            try:
                await self._wake_all(is_new=is_new)
            except Exception:  # noqa: BLE001 - whatever it is, the next look may do better
                _log.exception("durable subscriptions failed; this is a fault of ours")
            if is_new:
                await asyncio.sleep(SPACING_S)

    async def _wake_all(self, *, is_new: bool) -> None:
        if is_new:
            await self._flush()
        for name, owned in list(self._owned.items()):
            if owned.feed.is_over:
                self._close_soon(name)  # and release its lock: on another host the plugin may not be in quarantine
                continue
            await owned.begin()
            owned.feed.wake()

    async def _wait(self) -> None:
        needs_look = self._is_new or any(owned.feed.needs_polling for owned in self._owned.values())
        is_shared = self._home is not None and bool(self._owned)
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S if is_shared or needs_look else None):
                await self._wake_event.wait()
        self._wake_event.clear()

    async def _flush(self) -> None:
        """Have the journal write what it was given. While the disk fails it keeps that, and it is found later."""
        try:
            await self._journal.flush()
        except JournalError:
            self._is_new = True  # the journal has logged it; tried again at the next look
