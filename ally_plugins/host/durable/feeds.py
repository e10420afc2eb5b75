"""Durable subscriptions: a plugin gets the events of its durable types from the journal, not from the session's ring.

They begin where the plugin last acknowledged, across restarts of daemon and host, and cover every session of the home,
also those of other hosts and of earlier ones. How far each plugin is stands in the journal's file as a bookmark. Of the
hosts that share a home, one feeds a given plugin: who holds the lock `run/durable-NAME.lock`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import define, field

from ally_plugins.catalog.home.folder import try_lock
from ally_plugins.contract.values.errors import JournalError, NotFoundRefused
from ally_plugins.journal.owned_files import open_file
from ally_plugins.journal.reader import JournalReader
from ally_plugins.runtime.lanes.lane import Lane

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.journal.journal import Journal
    from ally_plugins.runtime.lanes.plugin import Plugin
    from ally_plugins.runtime.lanes.protocol import AnyLane

    from .feed import Feed  # noqa: TC004 - nobody reads this annotation at run time

__all__ = ["Feeds"]

_log: Final = logging.getLogger(__name__)

POLL_S: Final = 1.0
"""How often to look for what nobody tells of: events of other hosts, and the end of one that feeds a plugin."""

SPACING_S: Final = 0.01
"""Between two looks at the journal while much happens, each of which makes it commit: a hundred a second at most."""


@define(eq=False)
class _Claim:
    """The right to feed one plugin, which one host has at a time; within a process it is given at once."""

    path: Path | None
    _descriptor: int | None = field(init=False, default=None)
    _told: bool = field(init=False, default=False)

    def get(self) -> bool:
        """Say whether this host has it now."""
        if self.path is None or self._descriptor is not None:
            return True
        try:
            descriptor = open_file(self.path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if not self._told:
                _log.warning("the lock %r cannot be opened: %s", str(self.path), error.strerror or error)
            self._told = True
            return False
        if not try_lock(descriptor):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def let_go(self) -> None:
        """Give it back; the file stays, since another host may be waiting for it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@define(eq=False)
class _Held:
    """A feed, and the right to feed."""

    feed: Feed
    claim: _Claim
    _is_beginning: bool = field(init=False, default=False)

    async def begin(self) -> None:
        """Let the feed begin, if no other host feeds this plugin."""
        feed = self.feed
        if feed.is_begun or feed.is_closing or self._is_beginning or not self.claim.get():
            return
        self._is_beginning = True
        try:
            await feed.begin()
        except JournalError as error:
            _log.warning("the durable subscription of %r cannot begin: %s", feed.plugin.name, error)
        finally:
            self._is_beginning = False

    async def close(self) -> None:
        """End the feed, then let another host feed."""
        try:
            await self.feed.close()
        finally:
            self.claim.let_go()


class Feeds:
    """The durable subscriptions of one host's plugins; belongs to its loop, and lives until `close`.

    Close it after the daemons have ended, whose last acknowledgements it takes, and before the journal.
    """

    def __init__(self, journal: Journal, home: Home | None) -> None:
        self._journal: Final = journal
        self._home: Final = home
        self._reading: Final = JournalReader(journal.path)  # not the journal's, which the loop itself reads with
        self._held: Final[dict[str, _Held]] = {}
        self._ending: Final[dict[str, asyncio.Task[None]]] = {}
        self._bell: Final = asyncio.Event()
        self._is_new = False
        self._task: asyncio.Task[None] | None = None

    async def add(self, plugin: Plugin, lane: AnyLane, types: Iterable[str]) -> Feed:
        """Feed a plugin; where a new one begins is on disk when it returns. A feed of the same name is ended before.

        `types` are the manifest's durable types. Call it once an inline plugin has started; a daemon may start later.
        Never raises for the journal's sake: what cannot be read now is tried again. Once the lane is abandoned, by a
        quarantine, the feed ends by itself: add it again with the new lane.
        """
        name = plugin.name
        await self._end(name)
        feed = self._new_feed(plugin, lane, types)
        path = self._home.run_dir / f"durable-{name}.lock" if self._home is not None else None
        held = self._held[name] = _Held(feed, _Claim(path))
        await held.begin()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._tend(), name="ally-durable")
        self.wake()  # for what waits to be written, too
        return feed

    def _new_feed(self, plugin: Plugin, lane: AnyLane, types: Iterable[str]) -> Feed:
        if isinstance(lane, Lane):
            from .inline import InlineFeed  # only where there is one

            return InlineFeed(plugin, lane, types, self._journal, self._reading)
        from ally_plugins.host.daemons.lane import RemoteLane

        from .process import ProcessFeed

        assert isinstance(lane, RemoteLane)  # noqa: S101 - there is no third kind
        return ProcessFeed(plugin, lane, types, self._journal, self._reading)

    def wake(self) -> None:
        """Say that events were handed to the journal. Cheap: once a burst."""
        if self._held:
            self._is_new = True
            self._bell.set()

    def connected(self, plugin: str) -> None:
        """Say that a daemon is ready, or reads again; after a restart everything after its last word is sent again."""
        if (held := self._held.get(plugin)) is not None:
            held.feed.look()

    def disconnected(self, plugin: str) -> None:
        """Say that a daemon is gone."""
        if (held := self._held.get(plugin)) is not None:
            held.feed.disconnected()

    async def acknowledge(self, plugin: str, offset: str) -> None:
        """Take a daemon's word that it has done everything up to an offset; on disk when it returns.

        Raises RefusedError; see `Feed.acknowledge`.
        """
        held = self._held.get(plugin)
        if held is None:
            text = f"plugin {plugin!r} has no durable subscription; its manifest needs `durable` in [events]"
            raise NotFoundRefused(text, plugin=plugin)
        await held.feed.acknowledge(offset)

    async def remove(self, plugin: Plugin) -> None:
        """Feed a plugin no more: it was stopped. Where it is stays known. Waits a second for a hook that runs.

        Another plugin that has taken its name meanwhile is left alone. Cancelling does not take it back.
        """
        held = self._held.get(plugin.name)
        if held is not None and held.feed.plugin is plugin:
            await self._end(plugin.name)

    async def _end(self, name: str) -> None:
        """End the feed of this name, and wait for one that ends already."""
        self._let_go(name)
        if (ending := self._ending.get(name)) is not None:
            await asyncio.shield(ending)

    def _let_go(self, name: str) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            task = self._ending[name] = asyncio.get_running_loop().create_task(held.close())  # `add` waits for it
            task.add_done_callback(lambda _: self._ending.get(name) is task and self._ending.pop(name))

    async def close(self) -> None:
        """End all feeds. May be called again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await asyncio.gather(*(self._end(name) for name in [*self._held, *self._ending]))
        self._reading.close()

    # --- the task ---

    async def _tend(self) -> None:
        while True:
            await self._wait()
            is_new, self._is_new = self._is_new, False
            try:
                await self._look(is_new=is_new)
            except Exception:  # noqa: BLE001 - whatever it is, the next look may do better
                _log.exception("durable subscriptions failed; this is a fault of ours")
            if is_new:
                await asyncio.sleep(SPACING_S)

    async def _look(self, *, is_new: bool) -> None:
        if is_new:
            await self._flush()
        for name, held in list(self._held.items()):
            if held.feed.is_over:
                self._let_go(name)  # to another host, where the plugin may do better
                continue
            await held.begin()
            held.feed.look()

    async def _wait(self) -> None:
        needs_look = self._is_new or any(held.feed.is_held_up for held in self._held.values())
        is_shared = self._home is not None and bool(self._held)
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S if is_shared or needs_look else None):
                await self._bell.wait()
        self._bell.clear()

    async def _flush(self) -> None:
        """Have what was emitted written. While the disk fails it is kept by the journal, and found later."""
        try:
            await self._journal.flush()
        except JournalError:
            self._is_new = True  # the journal has said so; tried again at the next look
