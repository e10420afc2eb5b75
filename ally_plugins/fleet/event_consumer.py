"""Takes the events of all homes for one plugin of a worker: its hooks run, then the message is acknowledged.

Workers of one plugin share what there is. What a worker that is killed has before it comes to another one after some
seconds, so that an event may come twice and none is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn, Self

import orjson

from ally_plugins.contract.values.errors import ConfigError, ProtocolError
from ally_plugins.contract.values.inert import inert
from ally_plugins.runtime.lanes.teardown import cancel_task

from .connection import FleetError, raise_if_cancelled
from .credentials import acknowledge_subject, consume_subject, events_stream
from .event_batches import ACK_WAIT_S, OtherVersion, Wanted, events_of, lost_before
from .event_instance import EventInstance, InstanceHung, InstanceLost

if TYPE_CHECKING:
    import socket

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js.client import JetStreamContext

    from ally_plugins.catalog.decide.record import PluginRecord

    from .credentials import Credentials

__all__ = ["EventConsumer"]

_log: Final = logging.getLogger(__name__)

FETCH: Final = 4
"""Messages of some hundred events that a worker takes at once: the next is there when one is done."""

REST_S: Final = 60.0
"""Seconds without events after a plugin's hooks have failed too often: a quarantine where nobody would release it."""

_WAIT_S: Final = 5.0  # that a look for messages waits for the first one
_ASK_S: Final = 5.0  # that the collector has for its answer
_PAUSES: Final = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between tries
_LATER_S: Final = (0.1, 1.0, 5.0, 30.0)  # before a message comes again that could not be handled


class EventConsumer:
    """Consumes for one plugin, in `run`, until that is cancelled.

    `open_link` waits until the plugin's process runs, and returns one end of a new link to it and its data folder;
    `end_process` ends one that hangs, to be started again.
    """

    def __init__(
        self,
        client: Client,
        who: Credentials,
        record: PluginRecord,
        digest: str,
        open_link: Callable[[], Awaitable[tuple[socket.socket, str | None]]],
        end_process: Callable[[], Awaitable[None]],
    ) -> None:
        self.client: Final = client
        self.who: Final = who
        self.record: Final = record
        self.digest: Final = digest
        self.open_link: Final = open_link
        self.end_process: Final = end_process
        self.delivered = 0
        """Events whose hooks have ended."""
        self._newer: Final[set[str]] = set()
        """Homes of which it was said that they send what this worker cannot read."""

    async def run(self) -> None:
        """Consume until cancelled; what fails is logged and tried again."""
        failures, reported = 0, ""
        while True:
            before = self.delivered
            try:
                await self._run_once()
            except (InstanceLost, FleetError, ConfigError, OSError) as error:
                reason = str(error)
            if self.delivered > before:
                failures, reported = 0, ""
            pause = _PAUSES[min(failures, len(_PAUSES) - 1)]
            failures += 1
            if reported != reason:  # once: a fleet need not have a collector
                _log.warning("%s gets no events: %s; it is tried again", self.record.name, inert(reason))
            reported = reason
            await asyncio.sleep(pause)

    async def _run_once(self) -> NoReturn:
        """Consume with one instance of the plugin. Raises what ends that."""
        ours, data_dir = await self.open_link()
        instance = EventInstance(self.record, data_dir)
        try:
            await instance.start(ours)
            await self._consume(instance)
        except InstanceHung:
            await self.end_process()
            raise
        finally:
            instance.close("is not needed any more")

    async def _consume(self, instance: EventInstance) -> NoReturn:
        subscription = await self.client.jetstream().pull_subscribe_bind(
            durable=self.digest, stream=events_stream(self.record.name)
        )
        try:
            while True:
                messages = await self._fetch(subscription)
                async with _Held(messages, self._say) as held:
                    raise_if_cancelled()
                    while held:
                        await self._handle(instance, held)
                        held.popleft()
                        raise_if_cancelled()
                        await self._rest(instance, held, 0)
        finally:
            with suppress(Exception):  # the connection may be closed
                await subscription.unsubscribe()

    async def _fetch(self, subscription: JetStreamContext.PullSubscription) -> list[Msg]:
        from nats.errors import Error, NoRespondersError
        from nats.js.errors import NotFoundError, ServiceUnavailableError

        try:
            return await subscription.fetch(FETCH, timeout=_WAIT_S)
        except (NoRespondersError, NotFoundError, ServiceUnavailableError):
            await self._ask()
        except (Error, OSError) as error:
            if not (isinstance(error, TimeoutError) and self.client.is_connected):
                raise FleetError(f"the server does not answer: {str(error) or type(error).__name__}") from error
        return []

    async def _ask(self) -> None:
        """Have the collector make a place in the stream. Raises FleetError."""
        from nats.errors import Error, NoRespondersError

        wanted = Wanted(self.record.name, self.digest, self.who.certificate or "")
        try:
            answer = await self.client.request(consume_subject(self.who.name), wanted.to_bytes(), timeout=_ASK_S)
            problem = orjson.loads(answer.data)["problem"]
        except NoRespondersError:
            raise FleetError("no collector runs, which makes the stream that they come in") from None
        except (Error, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise FleetError(f"the collector does not make the stream that they come in: {reason}") from error
        except (orjson.JSONDecodeError, TypeError, KeyError) as error:
            raise FleetError("what has answered is no collector") from error
        if problem is not None:
            raise FleetError(f"the collector does not make the stream that they come in: {problem!s:.300}")

    async def _handle(self, instance: EventInstance, held: _Held) -> None:
        """Give the instance what is in the first message, and acknowledge it then. Raises InstanceLost."""
        message = held[0]
        home = message.subject.rpartition(".")[2]
        try:
            self.who.check(message.subject, message.data, message.headers)
            events, lost = events_of(message.data, home), lost_before(message.data)
        except OtherVersion as error:
            # A worker of that version takes it; until there is one, it stays.
            if home not in self._newer:
                text = "%s: %r sends %s, which wait until a worker runs its version of ally-plugins"
                _log.warning(text, self.record.name, home, error)
            self._newer.add(home)
            return await self._say(message, _later(message))
        except (ProtocolError, ValueError) as error:
            _log.warning("%s: a message is refused that came as one of %r: %s", self.record.name, home, error)
            return await self._say(message, b"+TERM")  # it would come again and again
        if lost:
            text = "%s: %d events of %r were pruned there or too large, and were never sent: they are lost to it"
            _log.warning(text, self.record.name, lost, home)
        while done := await instance.deliver(events):
            self.delivered += done
            events = events[done:]
            if events:
                await self._rest(instance, held, 1)
        return await self._say(message, b"+ACK")

    async def _rest(self, instance: EventInstance, held: _Held, kept: int) -> None:
        """Leave a plugin alone whose hooks have failed too often; others may take all but the first messages."""
        if instance.is_crashing:
            _log.warning("%s: its hooks have failed too often; it gets no events for %g s", self.record.name, REST_S)
            await held.give_back(kept)
            await asyncio.sleep(REST_S)
            instance.forgive()

    async def _say(self, message: Msg, word: bytes) -> None:
        """Say what has become of a message, in JetStream's words, under the subject that is this worker's own."""
        place = message.reply.removeprefix(f"$JS.ACK.{events_stream(self.record.name)}.")
        await self.client.publish(f"{acknowledge_subject(self.who.token, self.record.name)}.{place}", word)


class _Held(deque["Msg"]):
    """Messages that this worker has before it: nobody else gets them, until they are done or given back."""

    def __init__(self, messages: list[Msg], say: Callable[[Msg, bytes], Awaitable[None]]) -> None:
        super().__init__(messages)
        self._say: Final = say
        self._beating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self:
            self._beating = asyncio.create_task(self._beat(), name="ally-held")
        return self

    async def __aexit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._beating is not None:
            await cancel_task(self._beating)
        # The first may be what its process has ended over; the others have only waited.
        if self and error is not None and issubclass(error, InstanceLost):
            message = self.popleft()
            with suppress(Exception):  # without a connection it comes again by itself
                await self._say(message, _later(message))
        await self.give_back(0)

    async def give_back(self, kept: int) -> None:
        """Have all but the first ones come to whoever asks for the next."""
        while len(self) > kept:
            message = self[kept]
            del self[kept]
            with suppress(Exception):  # as above
                await self._say(message, b"-NAK")

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(ACK_WAIT_S / 3)
            for message in [*self]:
                with suppress(Exception):  # as above
                    await self._say(message, b"+WPI")


def _later(message: Msg) -> bytes:
    """Return what has a message come again, the later the more often it has come."""
    seconds = _LATER_S[min(message.metadata.num_delivered or 1, len(_LATER_S)) - 1]
    return b'-NAK {"delay": %d}' % (seconds * 10**9)
