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
from typing import TYPE_CHECKING, Final, Self

import orjson

from ally_plugins.contract.values.errors import ConfigError, ProtocolError
from ally_plugins.contract.values.inert import inert
from ally_plugins.runtime.lanes.teardown import cancel_task

from .connection import FleetError
from .credentials import acknowledge_subject, consume_subject, events_stream
from .event_batches import ACK_WAIT_S, Wanted, events_of
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
_LATER_S: Final = (0.1, 1.0, 5.0, 30.0)  # before a message comes again over which a process has ended


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

    async def run(self) -> None:
        """Consume until cancelled; what fails is logged and tried again."""
        failures, reported = 0, ""
        while True:
            before = self.delivered
            pause: float | None = None
            try:
                pause = await self._run_once()
                reason = "its hooks have failed too often"
            except (InstanceLost, FleetError, ConfigError, OSError) as error:
                reason = str(error)
            if self.delivered > before:
                failures, reported = 0, ""
            if pause is None:
                pause = _PAUSES[min(failures, len(_PAUSES) - 1)]
            failures += 1
            if reported != reason:  # once: a fleet need not have a collector
                _log.warning("%s gets no events: %s; it is tried again", self.record.name, inert(reason))
            reported = reason
            await asyncio.sleep(pause)

    async def _run_once(self) -> float | None:
        """Consume with one instance of the plugin; return how long to rest, where that is because of its hooks."""
        ours, data_dir = await self.open_link()
        instance = EventInstance(self.record, data_dir)
        try:
            await instance.start(ours)
            await self._consume(instance)
        except InstanceHung:
            await self.end_process()
            raise
        except InstanceLost:
            if instance.is_crashing:
                return REST_S
            raise
        finally:
            instance.close("is not needed any more")
        return None

    async def _consume(self, instance: EventInstance) -> None:
        subscription = await self.client.jetstream().pull_subscribe_bind(
            durable=self.digest, stream=events_stream(self.record.name)
        )
        try:
            while True:
                messages = await self._fetch(subscription)
                async with _Held(messages, self._say) as held:
                    while held:
                        await self._handle(instance, held[0])
                        held.popleft()
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

    async def _handle(self, instance: EventInstance, message: Msg) -> None:
        """Give the instance what is in a message, and acknowledge it then. Raises InstanceLost."""
        home = message.subject.rpartition(".")[2]
        try:
            self.who.check(message.subject, message.data, message.headers)
            events = events_of(message.data, home)
        except (ProtocolError, ValueError) as error:
            _log.warning("%s: a message is refused that came as one of %r: %s", self.record.name, home, error)
            await self._say(message, b"+TERM")  # it would come again and again
            return
        await instance.deliver(events)
        self.delivered += len(events)
        await self._say(message, b"+ACK")

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
        first = True
        while self:
            message = self.popleft()
            # The first may be what its process has ended over; the others have only waited.
            is_fault = first and error is not None and issubclass(error, InstanceLost)
            first = False
            word = b'-NAK {"delay": %d}' % (_later(message) * 10**9) if is_fault else b"-NAK"
            with suppress(Exception):  # without a connection it comes again by itself
                await self._say(message, word)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(ACK_WAIT_S / 3)
            for message in [*self]:
                with suppress(Exception):  # as above
                    await self._say(message, b"+WPI")


def _later(message: Msg) -> float:
    return _LATER_S[min(message.metadata.num_delivered or 1, len(_LATER_S)) - 1]
