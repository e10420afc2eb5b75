"""Sends what one home has committed to the server: its chain, in order, each record once, and what it has for plugins.

The server knows how far it has come: the last message on the home's own subject says it, and the next is taken only
after that one. So nothing is kept on disk here, two publishers of one home do no harm, and a lost answer is no double.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from ally_plugins.contract.values.errors import AuditError, ProtocolError
from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.journal.chain import Head
from ally_plugins.journal.reader import JournalReader
from ally_plugins.runtime.lanes.teardown import cancel_task

from .answers import ANSWER_S, Answers
from .batches import Alive, RecordBatch, decode, encode
from .connection import FleetError, connected, raise_if_cancelled
from .credentials import STREAM, alive_subject, records_subject
from .event_publisher import EventPublisher

if TYPE_CHECKING:
    from pathlib import Path

    from nats.aio.client import Client

    from ally_plugins.journal.values import ChainedRecord, StoredRecord

    from .batches import Held
    from .credentials import Credentials
    from .subscriptions import Subscription

__all__ = ["Publisher", "publish"]

_log: Final = logging.getLogger(__name__)

POLL_S: Final = 0.2
"""Seconds between looks for new records, as `audit --follow` has."""

ALIVE_S: Final = 10.0
"""Seconds between messages that say that the home is there; a collector takes it for silent after some of them."""

HELD_S: Final = 60.0
"""Seconds between looks at what the home holds: that reads the files of its plugins."""

_READ_BYTES: Final = 512 * 1024  # of one message; more in one is no faster, and a server's own limit is 1 MiB
_PAUSES: Final = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between tries while the server is away

_WRONG_LAST: Final = 10071  # JetStream: the last message on the subject is another one than was said


@attrs.frozen
class _Place:
    """How far the server has come: `head` is None before the first record, `sequence` is the stream's of the last."""

    head: Head | None
    sequence: int
    fault: str | None = None
    """What was the last that this home has said to be wrong with its journal."""


async def publish(
    who: Credentials,
    journal: Path,
    *,
    once: bool = False,
    on_sent: Callable[[Head], None] = lambda _: None,
    held: Callable[[], Held | None] = lambda: None,
    subscriptions: Callable[[], Sequence[Subscription]] = tuple,
) -> None:
    """Send what the journal has, and go on as it grows, until cancelled; with `once`, until all was sent.

    `held` says, in a thread, what the home holds besides; it is asked once a minute, and at the end of `once`.
    `subscriptions` are those of plugins that workers run. A server that goes away is waited for. Raises FleetError when
    it cannot be reached at the start or refuses this home, AuditError when the journal is not the one that was
    published before, JournalError when it cannot be read, ConfigError for credentials that sign nothing.
    """
    answers = Answers()
    async with connected(who, answers.give_up) as client:
        with JournalReader(journal) as reader:
            events = EventPublisher(client, answers, who, journal, subscriptions)
            publisher = Publisher(client, answers, who, reader, on_sent, held, events.words)
            try:
                if once:
                    await publisher.catch_up()
                    try:
                        await events.catch_up()
                    finally:  # with what waits
                        await publisher.say_alive()
                        await client.flush()
                else:
                    await _both(publisher.follow(), events.follow())
            except AuditError as error:
                await publisher.say_fault(str(error))
                raise
            finally:
                await events.close()


async def _both(records: Coroutine[Any, Any, None], events: Coroutine[Any, Any, None]) -> None:
    """Run both until one fails, and raise what it has."""
    tasks = [asyncio.ensure_future(each) for each in (records, events)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        for each in tasks:
            await cancel_task(each)


class Readable(Protocol):
    """What a publisher asks of a journal; see `JournalReader`."""

    @property
    def path(self) -> Path: ...
    def chain(self) -> str: ...
    def head(self) -> Head: ...
    def record(self, n: int, /) -> StoredRecord | None: ...
    def chained(self, after_n: int, max_bytes: int, /) -> list[ChainedRecord]: ...


class Publisher:
    """Sends what one journal has over one connection; `publish` makes one. Lives as long as the connection."""

    def __init__(
        self,
        client: Client,
        answers: Answers,
        who: Credentials,
        reader: Readable,
        on_sent: Callable[[Head], None] = lambda _: None,
        held: Callable[[], Held | None] = lambda: None,
        events: Mapping[str, str] = FrozenDict(),
    ) -> None:
        self.client: Final = client
        self.answers: Final = answers
        self.who: Final = who
        self.reader: Final = reader
        self.on_sent: Final = on_sent
        self.held: Final = held
        self.events: Final = events
        """What `Alive` says of events; it changes meanwhile."""
        # None: the server is to be asked. Not for each look at the journal: idle homes would be most of its load.
        self.known: _Place | None = None
        self._held: tuple[float, Held | None] | None = None

    async def follow(self) -> None:
        """Send what there is and what comes, until cancelled; a server that goes away is waited for."""
        async with self.shown_alive():
            failures = 0
            while True:
                try:
                    await self.catch_up()
                    failures = 0
                    await asyncio.sleep(POLL_S)
                except FleetError as error:
                    self.known = None  # an answer that was lost may have been a yes
                    pause = _PAUSES[min(failures, len(_PAUSES) - 1)]
                    failures += 1
                    _log.warning("%s; it is tried again in %g s", error, pause)
                    # Homes that all lost the same server would all be back in the same moment.
                    await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret

    async def catch_up(self) -> None:
        """Send all that there is. Raises FleetError when the server does not take it."""
        self.known = self.known or await self.place()
        while (batch := await asyncio.to_thread(self.next_batch, self.known.head)) is not None:
            # None: somebody else was faster, or the server has lost what it had, and it is asked anew.
            self.known = await self.send(batch, self.known) or await self.place()

    def next_batch(self, head: Head | None) -> RecordBatch | None:
        """Return what comes after `head`, None where nothing does.

        Raises AuditError where the journal has another record there, or none.
        """
        chain = self.reader.chain()
        after = 0
        if head is not None and head.chain == chain:
            after = head.n
            own = self.reader.record(head.n)
            if own is None or own.hash != head.hash.hex():
                fault = "ends before" if own is None else "has another"
                text = f"the journal {str(self.reader.path)!r} {fault} record {head.n}, which was published"
                raise AuditError(f"{text}; nothing more is, see `ally-plugins audit verify`", record=head.n)
        records = self.reader.chained(after, _READ_BYTES)
        if self.who.level == "metadata":
            records = [each._replace(content=None) for each in records]
        return RecordBatch(chain, records) if records else None

    async def send(self, batch: RecordBatch, place: _Place) -> _Place | None:
        """Send one batch; return the new place, None where the server has come farther meanwhile."""
        payload = encode(batch, self.client.max_payload - 1024)
        headers = {
            "Nats-Expected-Stream": STREAM,
            "Nats-Expected-Last-Subject-Sequence": str(place.sequence),
            # With the name: two homes of one image have one chain, and the second's would be taken for doubles.
            "Nats-Msg-Id": f"{self.who.name}-{batch.chain}-{batch.records[0].n}-{batch.head.n}",
        }
        done = await self.put(payload, headers)
        if done is None:
            return None
        self.on_sent(batch.head)
        return _Place(batch.head, done)

    async def put(self, payload: bytes, headers: dict[str, str]) -> int | None:
        """Send one message; return its number, None where the last one is another than the headers say."""
        from nats.errors import Error
        from nats.js.errors import APIError

        subject = records_subject(self.who.name)
        headers |= self.who.signed(subject, payload)
        try:
            stream = self.client.jetstream(timeout=ANSWER_S)
            return (await self.answers.wait(stream.publish(subject, payload, headers=headers))).seq
        except APIError as error:
            if error.err_code == _WRONG_LAST:
                return None
            raise FleetError(f"the server does not take records: {error.description}") from error
        except (Error, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            text = (
                f"the server has not acknowledged records: {reason}; where it is there, its log says why: a full disk?"
            )
            raise FleetError(text) from error

    async def place(self) -> _Place:
        """Ask the server how far it has come. Raises FleetError."""
        from nats.errors import Error
        from nats.js.errors import NotFoundError

        subject = records_subject(self.who.name)
        try:
            stream = self.client.jetstream(timeout=ANSWER_S)
            last = await self.answers.wait(stream.get_last_msg(STREAM, subject, direct=True))
        except NotFoundError:
            return _Place(None, 0)
        except (Error, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise FleetError(
                f"the server does not say how far {self.who.name!r} has come: {reason}; does a collector run?"
            ) from error
        sequence, payload = last.seq or 0, last.data or b""
        try:
            self.who.check(subject, payload, last.headers)
            found = decode(payload)
        except (ProtocolError, ValueError) as error:
            # All is sent again, after that one: the collector knows by its records what it has.
            _log.warning("the last message of %r at the server is none of its own: %s", self.who.name, error)
            return _Place(None, sequence)
        return _Place(found.head, sequence, found.problem if isinstance(found, Alive) else None)

    @asynccontextmanager
    async def shown_alive(self) -> AsyncGenerator[None]:
        """Say again and again that the home is there, until the end of the block."""
        task = asyncio.ensure_future(self.show_alive())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def show_alive(self) -> None:
        """Say again and again how far the journal has come."""
        while True:
            # Whoever cannot be told now is told the next time; the records themselves are acknowledged.
            with suppress(Exception):
                await self.say_alive()
            raise_if_cancelled()
            await asyncio.sleep(ALIVE_S)

    async def say_alive(self) -> None:
        """Say that the home is there, and what it holds."""
        head = await asyncio.to_thread(self.reader.head)
        now = asyncio.get_running_loop().time()
        if self._held is None or now - self._held[0] >= HELD_S:
            self._held = now, await asyncio.to_thread(self.held)
        subject, payload = alive_subject(self.who.name), Alive(head, None, self._held[1], self.events).to_bytes()
        await self.client.publish(subject, payload, headers=self.who.signed(subject, payload))

    async def say_fault(self, problem: str) -> None:
        """Leave word of what is wrong with the journal behind the records, for a collector that comes later, too.

        It is the last thing that is done: what the server does not take, an operator reads here.
        """
        try:
            while True:
                place = await self.place()
                if place.head is None or place.fault == problem:
                    return
                payload = Alive(place.head, problem).to_bytes()
                headers = {
                    "Nats-Expected-Stream": STREAM,
                    "Nats-Expected-Last-Subject-Sequence": str(place.sequence),
                }
                if await self.put(payload, headers) is not None:
                    return
        except FleetError as error:
            _log.warning("what is wrong with the journal of %r is known here only: %s", self.who.name, error)
