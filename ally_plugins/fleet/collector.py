"""Takes the chains of all homes from the server, verifies them on arrival and keeps them in one file.

A message is acknowledged when its records are on disk; one that comes again is known by its records' numbers. The
stream of the records is made here; those of events are made where a worker asks for one (`event_streams`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.errors import ProtocolError
from ally_plugins.journal.audit import Problem

from .batches import Alive, check, decode
from .connection import FleetError, connected, raise_if_cancelled
from .credentials import COLLECTOR, STREAM, alive_subject, consume_subject, records_subject
from .event_streams import DUPLICATES_S, EVENTS_BYTES, EventStreams

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js.client import JetStreamContext

    from .credentials import Credentials
    from .store import FleetStore

__all__ = ["collect"]

_log: Final = logging.getLogger(__name__)

_FETCH: Final = 64  # messages in one transaction; of half a MiB at most each
_WAIT_S: Final = 0.5  # that a look for messages waits for the first one
_PAUSE_S: Final = 2.0  # between tries while the server is away

# A home that is away for longer sends again what is not known here any more; the server refuses what is too much, and
# homes wait: their journals have it all.
KEEP_S: Final = 30 * 24 * 3600.0
"""Seconds that the server keeps a record, unless the stream was made otherwise."""


async def collect(
    who: Credentials,
    store: FleetStore,
    *,
    once: bool = False,
    keep_s: float | None = None,
    replicas: int | None = None,
    events_bytes: int = EVENTS_BYTES,
) -> None:
    """Take what homes send until cancelled; with `once`, until there is nothing more for now.

    For how many seconds records are kept at the server, on how many machines of its cluster, and how many bytes of one
    plugin's events, counts where the stream is made. Raises FleetError when the server cannot be reached at the start,
    refuses this collector, or has a stream that is made otherwise.
    """
    async with connected(who) as client:
        try:
            await asyncio.to_thread(store.expect, who.homes)
        except store.errors as error:
            raise FleetError(f"the records cannot be kept: {' '.join(str(error).split())}") from error
        collector = _Collector(client, store, who, events_bytes)
        await collector.open(keep_s, replicas)
        await collector.take(once=once)


class _Collector:
    def __init__(self, client: Client, store: FleetStore, who: Credentials, events_bytes: int) -> None:
        self.client: Final = client
        self.who: Final = who
        self.store: Final = store
        self.events: Final = EventStreams(client, who, events_bytes)
        self.unread: Final[dict[str, str]] = {}
        """What was said last of homes whose words cannot be read."""
        # The latest word of each home, and the latest with a problem; kept with the next messages, since a write of its
        # own for each would be a sync of the disk every ten seconds for every home.
        self.words: dict[tuple[str, bool], tuple[Alive, float]] = {}

    async def open(self, keep_s: float | None, replicas: int | None) -> None:
        """Make the stream where there is none, and hear homes that say that they are there."""
        from nats.errors import Error
        from nats.js.api import DiscardPolicy, StreamConfig
        from nats.js.errors import NotFoundError

        stream = self.client.jetstream()
        wanted = StreamConfig(
            name=STREAM,
            subjects=[records_subject("*")],
            max_age=KEEP_S if keep_s is None else keep_s,
            num_replicas=1 if replicas is None else replicas,
            duplicate_window=DUPLICATES_S,
            discard=DiscardPolicy.NEW,  # a full server refuses, and loses nothing that it has acknowledged
            allow_direct=True,  # how a publisher learns what was the last
            deny_delete=True,
            deny_purge=True,
        )
        try:
            try:
                found = (await stream.stream_info(STREAM)).config
            except NotFoundError:
                found = (await stream.add_stream(wanted)).config
            if keep_s not in {None, found.max_age} or replicas not in {None, found.num_replicas}:
                # What is kept for shorter would be removed at once, which a collector must not be able to do.
                text = f"keeps records for {found.max_age:g} s on {found.num_replicas} machines"
                raise FleetError(f"the stream {STREAM} is there already and {text}; its server's operator may edit it")
            await self.client.subscribe(alive_subject("*"), cb=self.note_alive)
            await self.client.subscribe(consume_subject("*"), cb=self.events.answer)
        except (Error, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise FleetError(f"the server does not let {COLLECTOR!r} have the stream {STREAM}: {reason}") from error

    async def take(self, *, once: bool) -> None:
        from nats.errors import Error

        subscription: JetStreamContext.PullSubscription | None = None
        while True:
            raise_if_cancelled()
            try:
                subscription = subscription or await self.subscribe()
                messages = await subscription.fetch(_FETCH, timeout=_WAIT_S)
            except (Error, OSError) as error:
                # What its parts raise when nothing came is its own TimeoutError or Python's; the server is there.
                if isinstance(error, TimeoutError) and self.client.is_connected:
                    await self.keep_all((), once=once)
                    if once:
                        return
                    continue
                if once:
                    raise FleetError(f"the server does not answer: {error}") from error
                _log.warning("the server does not answer: %s; it is tried again", str(error) or type(error).__name__)
                subscription = None
                await asyncio.sleep(_PAUSE_S)
                continue
            if not messages:  # as the server says when it ends a fetch early
                continue
            await self.keep_all(messages, once=once)
            # All before it are acknowledged with the last.
            await messages[-1].ack()

    async def subscribe(self) -> JetStreamContext.PullSubscription:
        from nats.js.api import AckPolicy, ConsumerConfig

        return await self.client.jetstream().pull_subscribe(
            records_subject("*"), durable=COLLECTOR, stream=STREAM, config=ConsumerConfig(ack_policy=AckPolicy.ALL)
        )

    async def keep_all(self, messages: Sequence[Msg], *, once: bool) -> None:
        """Keep messages, however long that takes: those after them would seem to have a gap before them.

        What homes have said of themselves is kept with them. With `once`, raises FleetError where that cannot be.
        """
        words, self.words = self.words, {}
        while messages or words:
            try:
                await asyncio.to_thread(self.keep, messages, words)
            except self.store.errors as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                if once:
                    raise FleetError(f"the records cannot be kept: {reason}; they stay at the server") from error
                _log.warning("the records cannot be kept: %s; it is tried again", reason)
                await asyncio.sleep(_PAUSE_S)
                with suppress(*self.store.errors):
                    await asyncio.to_thread(self.store.open_again)
            else:
                return

    def keep(self, messages: Sequence[Msg], words: Mapping[tuple[str, bool], tuple[Alive, float]]) -> None:
        """Verify what came and bring it to disk, all or nothing."""
        self.store.begin()
        try:
            for message in messages:
                self.add(message)
            for (home, _), (said, heard) in words.items():
                self.compare(home, said, heard)
            self.store.commit()
        except BaseException:
            with suppress(*self.store.errors):  # nothing is left to be rolled back where the database is gone
                self.store.roll_back()
            raise

    def add(self, message: Msg) -> None:
        home, now = message.subject.rpartition(".")[2], self.store.now_ms()
        head = self.store.head(home)
        at, chain = (1, "") if head is None else (head.n + 1, head.chain)
        try:
            self.who.check(message.subject, message.data, message.headers)
            batch = decode(message.data)
        # Acknowledged all the same: it would come again and again, and hold up all other homes.
        except ProtocolError as error:
            finding = Problem("unreadable", at, f"somebody else's message came under the name of {home!r}: {error}")
            return self.store.add_findings(home, chain, [finding], now)
        except ValueError as error:
            finding = Problem("unreadable", at, f"a message of {home!r} cannot be read: {error}")
            return self.store.add_findings(home, chain, [finding], now)
        if isinstance(batch, Alive):
            text = batch.problem or "the home says that something is wrong with its journal"
            return self.store.add_findings(home, batch.head.chain, [Problem("replaced", batch.head.n, text)], now)
        new, findings = check(head, batch)
        findings += [
            Problem("altered", each.n, f"record {each.n} came again, and is not the one that came before")
            for each in batch.records
            if (known := self.store.hash_of(home, batch.chain, each.n)) is not None and known != each.hash
        ]
        self.store.add_findings(home, batch.chain, findings, now)
        if new:
            self.store.add(home, batch.head, new, now)
        return None

    async def note_alive(self, message: Msg) -> None:
        """Take a home's word that it is there."""
        home = message.subject.rpartition(".")[2]
        try:
            self.who.check(message.subject, message.data, message.headers)
            said = Alive.from_bytes(message.data)
        except (ProtocolError, ValueError) as error:
            if self.unread.get(home) != str(error):  # it says so every ten seconds
                _log.warning("the home %r says what cannot be read: %s", home, error)
            self.unread[home] = str(error)
        else:
            self.words[home, said.problem is not None] = said, time.monotonic()

    def compare(self, home: str, said: Alive, heard: float) -> None:
        """Note what a home has said at a time (monotonic), and compare that with what is here of its journal."""
        # By the store's clock, less how long the word has waited.
        at, findings = self.store.now_ms() - round((time.monotonic() - heard) * 1000), []
        # That it has fewer records proves nothing: what it sent later may have come earlier. Its publisher knows.
        if said.problem is not None:
            findings.append(Problem("replaced", said.head.n, said.problem))
        known = self.store.hash_of(home, said.head.chain, said.head.n)
        if known is not None and known != said.head.hash:
            text = f"record {said.head.n} is not the one that came from this journal"
            findings.append(Problem("replaced", said.head.n, text))
        self.store.add_findings(home, said.head.chain, findings, at)
        self.store.note_alive(home, said.head.n, at, said.held, said.events)
