"""Sends a home's events to plugins that it has placed `shared`: what is committed, granted, and of the home's level.

Each plugin has a bookmark in the journal, the one that a durable subscription has in every placement. It is moved when
the server has acknowledged: at least once, and once where nobody is killed between the two.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self

from ally_plugins.contract.values.errors import AllyError, ConfigError, JournalError, ProtocolError
from ally_plugins.contract.values.ids import is_replayed
from ally_plugins.host.durable.bookmarks import begin_place, bookmark_of
from ally_plugins.host.durable.offsets import Place, Walk
from ally_plugins.journal.contents import Omission
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.runtime.lanes.tables import durable_names
from ally_plugins.runtime.lanes.teardown import cancel_task
from ally_plugins.wire.eventlines import FRAME_BYTES
from ally_plugins.wire.limits import DEFAULT_LIMITS

from .answers import ANSWER_S
from .connection import FleetError
from .credentials import events_stream, events_subject
from .event_batches import EventBatch, end_of

if TYPE_CHECKING:
    from pathlib import Path

    from nats.aio.client import Client

    from .answers import Answers
    from .credentials import Credentials
    from .subscriptions import Subscription

__all__ = ["EventPublisher"]

_log: Final = logging.getLogger(__name__)

BATCH_EVENTS: Final = 256
"""Events of one message, all of which come again when its worker dies: as many as a daemon may have before it."""

BATCH_BYTES: Final = 256 * 1024
"""Bytes of one message, before the event that exceeds it."""

POLL_S: Final = 0.2
"""Seconds between looks for new events, as for records."""

FAR: Final = 10_000
"""Records without an event for the plugin that are passed before the bookmark is moved past them."""

_OFFSET_BYTES: Final = 64  # of what the worker adds to an event, beside the name of its home
_PAUSES: Final = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between tries while the server does not take them
_WRONG_LAST: Final = 10071  # JetStream: the last message on the subject is another one than was said


class EventPublisher:
    """Sends the events of one home; it lives as long as the connection."""

    def __init__(
        self,
        client: Client,
        answers: Answers,
        who: Credentials,
        journal: Path,
        subscriptions: Callable[[], Sequence[Subscription]],
    ) -> None:
        self.client: Final = client
        self.answers: Final = answers
        self.who: Final = who
        self.path: Final = journal
        self.subscriptions: Final = subscriptions
        self.omission: Final = Omission(secrets.token_hex())
        """What leaves contents out. Its key is nobody's: the journal's own goes to the collector with the records."""
        self.words: Final[dict[str, str]] = {}
        """Why the events for a plugin wait, and how many were lost to it; nothing of one that has all."""
        self._journal: Journal | None = None

    def journal(self) -> Journal:
        """Return the home's journal, where the bookmarks are. Raises JournalError."""
        if self._journal is None:
            self._journal = Journal.open(self.path)
        return self._journal

    async def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            await self._journal.close()

    async def catch_up(self) -> None:
        """Send all that there is, but what no worker has asked for yet.

        Raises FleetError when the server does not take it, ConfigError, JournalError.
        """
        for each in await asyncio.to_thread(self.subscriptions):
            with JournalReader(self.path) as reader:
                feed = _Feed(self, each, reader)
                try:
                    await feed.catch_up()
                    self._note(each.plugin, feed, "")
                except FleetError as error:
                    self._note(each.plugin, feed, str(error))
                    if not isinstance(error, _NoWorker):
                        raise
                    _log.warning("%s", error)

    async def follow(self) -> None:
        """Send what there is and what comes, until cancelled; what fails is logged and tried again."""
        async with _Tasks() as tasks:
            reported = ""
            while True:
                try:
                    wanted: Sequence[Subscription] = await asyncio.to_thread(self.subscriptions)
                    reported = ""
                except AllyError as error:
                    # What was granted is not known: then it is nothing.
                    wanted = ()
                    if reported != str(error):
                        _log.warning("no events are sent: %s", error)
                    reported = str(error)
                await tasks.keep(dict.fromkeys(wanted, self._follow))
                for plugin in self.words.keys() - {each.plugin for each in wanted}:
                    del self.words[plugin]
                await asyncio.sleep(POLL_S)

    def _note(self, plugin: str, feed: _Feed | None, problem: str) -> None:
        count = 0 if feed is None else feed.lost
        lost = f"{count} events were pruned or too large, and not sent" if count else ""
        self.words.pop(plugin, None)
        if problem or lost:
            self.words[plugin] = "; ".join(filter(None, (problem, lost)))

    async def _follow(self, subscription: Subscription) -> None:
        failures, reported = 0, ""
        feed: _Feed | None = None
        with ExitStack() as closing:
            while True:
                try:
                    # Kept over what fails: it has the message of which the server may have taken note.
                    feed = feed or _Feed(self, subscription, closing.enter_context(JournalReader(self.path)))
                    await feed.catch_up()
                    failures, reported = 0, ""
                    self._note(subscription.plugin, feed, "")
                    await asyncio.sleep(POLL_S)
                except (FleetError, JournalError, ConfigError) as error:
                    if reported != str(error):  # once: a worker may be wanted for days
                        _log.warning("%s; it is tried again", error)
                    reported = str(error)
                    self._note(subscription.plugin, feed, reported)
                    await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
                    failures += 1


class _NoWorker(FleetError):
    """There is no stream of the events yet: that is made when a worker asks for it."""


class _Tasks:
    """One task for each subscription that there is now."""

    def __init__(self) -> None:
        self._tasks: Final[dict[Subscription, asyncio.Task[None]]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.keep({})

    async def keep(self, wanted: dict[Subscription, Callable[[Subscription], Any]]) -> None:
        """Run these and no others."""
        for key in [*self._tasks.keys() - wanted.keys()]:
            await cancel_task(self._tasks.pop(key))
        for key, work in wanted.items():
            task = self._tasks.get(key)
            if task is None or task.done():
                if task is not None and not task.cancelled() and (error := task.exception()) is not None:
                    _log.error("sending events to %r failed; this is a fault of ours", key.plugin, exc_info=error)
                self._tasks[key] = asyncio.create_task(work(key), name=f"ally-events-{key.plugin}")


class _Feed:
    """One plugin's events: how far the server has them, and what is sent next."""

    def __init__(self, publisher: EventPublisher, subscription: Subscription, reader: JournalReader) -> None:
        self.publisher: Final = publisher
        self.subscription: Final = subscription
        self.reader: Final = reader
        who, plugin = publisher.who, subscription.plugin
        self._subject: Final = events_subject(plugin, subscription.digest, who.name)
        self._stream: Final = events_stream(plugin)
        self._names: Final = durable_names(subscription.types)
        self._chain = ""
        self._place: Place | None = None
        self._marked = Place(0)
        self._sequence = 0
        self._walk: Walk | None = None
        # Until it is acknowledged: sent again as it is, the server knows it; with later events in it, it would not.
        self._batch: EventBatch | None = None
        self._lost = 0
        """Events that could not be sent, which the next message says."""
        self._said_lost = 0

    @property
    def lost(self) -> int:
        """How many events could not be sent: they were pruned, or no message holds them."""
        return self._lost + self._said_lost

    async def catch_up(self) -> None:
        """Send all that there is. Raises FleetError when the server does not take it, JournalError."""
        try:
            place = self._place or await self._find_place()
            while (batch := await self._next(place)) is not None:
                place = await self._send(batch)
            if self._place is not None and self._place.record - self._marked.record > FAR:
                await self._mark(self._place)
        except BaseException:
            self._place = self._walk = None
            raise

    async def _find_place(self) -> Place:
        publisher, plugin = self.publisher, self.subscription.plugin
        self._marked = place = await begin_place(plugin, publisher.journal(), self.reader) or Place(0)
        self._chain = await asyncio.to_thread(self.reader.chain)
        last = await self._last()
        if last is not None:
            chain, end = last
            # Sent, and its bookmark was not moved. One that this journal has no place for is of one that was cut.
            if chain == self._chain and place < end <= Place(await asyncio.to_thread(self.reader.last_n) + 1):
                place = end
        self._place, self._walk = place, None
        # What is not in the message that waits is passed again.
        self._lost = self._batch.lost if self._batch is not None and self._batch.begin == place else 0
        return place

    async def _last(self) -> tuple[str, Place] | None:
        """Return how far the last message came that the server still has of this home; note its number."""
        from nats.errors import Error
        from nats.js.errors import NotFoundError

        who = self.publisher.who
        self._sequence = 0
        try:
            jetstream = self.publisher.client.jetstream(timeout=ANSWER_S)
            last = await self.publisher.answers.wait(jetstream.get_last_msg(self._stream, self._subject, direct=True))
        except NotFoundError:
            return None
        except (Error, TimeoutError, OSError) as error:
            raise self._failed(error) from error
        self._sequence = last.seq or 0
        payload = last.data or b""
        try:
            who.check(self._subject, payload, last.headers)
            return end_of(payload)
        except (ProtocolError, ValueError):
            return None  # somebody else's, which its worker refuses

    async def _next(self, place: Place) -> EventBatch | None:
        if self._batch is None or self._batch.begin != place:
            self._batch = await asyncio.to_thread(self._read, place)
        return self._batch

    def _read(self, place: Place) -> EventBatch | None:
        """Return the events after a place, None when there are none; the place is moved past what is not for it."""
        while True:
            if self._walk is None or self._walk.is_over:
                blocks, end = self.reader.event_blocks(place.record)
                if end <= place.record:
                    self._place = place
                    return None
                self._walk = Walk(blocks, place, end)
            found, walk = self._collect(self._walk), self._walk
            if walk.pruned:
                text = "%d events were pruned before they were sent to %r; if some were for it, they are lost to it"
                _log.warning(text, walk.pruned, self.subscription.plugin)
                self._lost, walk.pruned = self._lost + walk.pruned, 0
            if found:
                return EventBatch(self._chain, place, walk.place, found, self._lost)
            place = walk.place

    def _collect(self, walk: Walk) -> list[bytes]:
        most = min(BATCH_BYTES, self.publisher.client.max_payload // 4)
        found: list[bytes] = []
        size = 0
        while not walk.is_over and size < most and len(found) < BATCH_EVENTS:
            # One by one: the next may be larger than the rest of a message.
            for one in walk.portion(self.subscription.wants, self._names, 1, _is_original):
                shown = self._shown(one.encoded, one.event.id)
                if shown is None:
                    self._lost += 1
                else:
                    found.append(shown)
                    size += len(shown)
        return found

    def _shown(self, encoded: bytes, event_id: str) -> bytes | None:
        """Return as much of an event as may leave the home and fits."""
        publisher = self.publisher
        if publisher.who.level == "metadata":
            encoded = publisher.omission.event(encoded)
        room = min(DEFAULT_LIMITS.frame_bytes, publisher.client.max_payload // 2) - FRAME_BYTES - _OFFSET_BYTES
        room -= 2 * len(publisher.who.name)
        if len(encoded) <= room:
            return encoded
        size, encoded = len(encoded), publisher.omission.event(encoded)
        is_sent = len(encoded) <= room
        what = "its contents stay" if is_sent else "it is not sent, and lost to it"
        _log.warning(
            "the event %s takes %d bytes, more than %r reads: %s", event_id, size, self.subscription.plugin, what
        )
        return encoded if is_sent else None

    async def _send(self, batch: EventBatch) -> Place:
        """Send one batch; return the place to go on from."""
        from nats.errors import Error
        from nats.js.errors import APIError

        publisher, payload = self.publisher, batch.to_bytes()
        headers = {
            "Nats-Expected-Stream": self._stream,
            "Nats-Expected-Last-Subject-Sequence": str(self._sequence),
            # With the name: two homes of one image have one chain.
            "Nats-Msg-Id": f"{publisher.who.name}-{batch.id}",
            **publisher.who.signed(self._subject, payload),
        }
        try:
            jetstream = publisher.client.jetstream(timeout=ANSWER_S)
            done = await publisher.answers.wait(jetstream.publish(self._subject, payload, headers=headers))
        except APIError as error:
            if error.err_code == _WRONG_LAST:
                # A worker has taken the last one, or another publisher was faster.
                return await self._find_place()
            raise FleetError(f"the server does not take events: {error.description}") from error
        except (Error, TimeoutError, OSError) as error:
            raise self._failed(error) from error
        self._place, self._sequence, self._batch = batch.end, done.seq, None
        self._lost -= batch.lost
        self._said_lost += batch.lost
        await self._mark(batch.end)
        return batch.end

    async def _mark(self, place: Place) -> None:
        await self.publisher.journal().put_bookmark(bookmark_of(self.subscription.plugin), str(place))
        self._marked = place

    def _failed(self, error: Exception) -> FleetError:
        from nats.errors import NoRespondersError
        from nats.js.errors import NoStreamResponseError

        if isinstance(error, (NoRespondersError, NoStreamResponseError)):
            text = f"no worker has asked for the events of {self.subscription.plugin!r} yet, which wait in the journal"
            return _NoWorker(text)
        return FleetError(f"the server does not answer: {str(error) or type(error).__name__}")


def _is_original(session_id: str, _: Place) -> bool:
    # What a replay emits has happened before, and is no news to a plugin.
    return not is_replayed(session_id)
