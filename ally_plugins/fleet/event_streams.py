"""The streams of homes' events, and the places that workers have in them; made by the collector, when a worker asks.

A worker cannot make them itself: whoever makes a consumer may have the server send to any subject, whomever it belongs
to.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import orjson

from ally_plugins.contract.values.errors import AllyError
from ally_plugins.contract.wording import describe

from .connection import FleetError
from .credentials import events_stream, events_subject
from .event_batches import ACK_WAIT_S, Wanted, is_digest
from .proofs import Certificate

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js.api import ConsumerConfig, StreamConfig

    from .credentials import Credentials

__all__ = ["EventStreams"]

_log: Final = logging.getLogger(__name__)

DUPLICATES_S: Final = 120.0
"""Seconds in which the server knows a message that comes again by its id."""

MOST_DIGESTS: Final = 32
"""Kinds of files of one plugin that are served at a time: a worker may say that it has any."""

EVENTS_BYTES: Final = 1024**3
"""Bytes of one plugin's events at the server, unless the stream was made otherwise: beyond that homes wait, and what no
worker takes leaves the disk to the records of all."""

MOST_OF_A_HOME: Final = 1024
"""Messages of one home for one kind of files at the server: one home does not take the place of the others."""

MOST_PENDING: Final = 64 * MOST_OF_A_HOME
"""Messages that workers of one plugin have before them, or have put off; else some homes' that nobody can handle yet
would hold up all others."""

FORGOTTEN_S: Final = 7 * 24 * 3600.0
"""Seconds without a worker after which its place is gone; what lies there for its files stays."""


class EventStreams:
    """Answers workers; it lives as long as the collector's connection."""

    def __init__(self, client: Client, who: Credentials, most_bytes: int = EVENTS_BYTES) -> None:
        self._client: Final = client
        self._who: Final = who
        self._most_bytes: Final = most_bytes
        self._unlimited: Final[set[str]] = set()

    async def answer(self, message: Msg) -> None:
        """Make what a worker asks for, where it is not there, and say so or why not."""
        problem = None
        try:
            await self._make(message.subject.rpartition(".")[2], Wanted.from_bytes(message.data))
        except (ValueError, AllyError) as error:
            problem = str(error)
        with suppress(Exception):  # it asks again
            await message.respond(orjson.dumps({"problem": problem}))

    async def _make(self, worker: str, wanted: Wanted) -> None:
        """Make a place in the stream of a plugin's events. Raises ProtocolError, ValueError, FleetError."""
        from nats.errors import Error
        from nats.js.errors import NotFoundError

        certificate = Certificate.read(wanted.certificate)
        certificate.check(self._who.authority or "")
        if certificate.worker != worker or wanted.plugin not in certificate.plugins or not is_digest(wanted.digest):
            raise ValueError(f"{worker!r} may not take the events of {describe(wanted.plugin)}")
        jetstream, name = self._client.jetstream(), events_stream(wanted.plugin)
        try:
            try:
                info = await jetstream.stream_info(name)
            except NotFoundError:
                info = await jetstream.add_stream(_stream(wanted.plugin, self._most_bytes))
            if (info.config.max_bytes or -1) < 0 and name not in self._unlimited:
                # Not by the collector: who lowers the limit of a stream removes what lies beyond it.
                text = (
                    "the stream %s was made without a limit, and may fill the server's disk; its operator may edit it"
                )
                _log.warning(text, name)
                self._unlimited.add(name)
            if info.state.consumer_count >= MOST_DIGESTS:
                await jetstream.consumer_info(name, wanted.digest)  # else it is one that is there
            await jetstream.add_consumer(name, _consumer(wanted))
        except NotFoundError as error:
            text = f"workers of {MOST_DIGESTS} kinds of files of {wanted.plugin!r} take its events"
            raise FleetError(f"{text}; one that is gone for a week makes room") from error
        except (Error, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise FleetError(f"the server does not make the stream {name}: {reason}") from error


def _stream(plugin: str, most_bytes: int) -> StreamConfig:
    from nats.js.api import DiscardPolicy, RetentionPolicy, StreamConfig

    return StreamConfig(
        name=events_stream(plugin),
        subjects=[events_subject(plugin, "*", "*")],
        # What was acknowledged is gone, and all else stays, however long no worker comes: then homes wait.
        retention=RetentionPolicy.WORK_QUEUE,
        max_bytes=most_bytes,
        max_msgs_per_subject=MOST_OF_A_HOME,
        discard=DiscardPolicy.NEW,
        discard_new_per_subject=True,
        duplicate_window=DUPLICATES_S,
        allow_direct=True,  # how a publisher learns what was the last
    )


def _consumer(wanted: Wanted) -> ConsumerConfig:
    from nats.js.api import AckPolicy, ConsumerConfig

    return ConsumerConfig(
        durable_name=wanted.digest,
        filter_subject=events_subject(wanted.plugin, wanted.digest, "*"),
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_S,
        max_deliver=-1,
        max_ack_pending=MOST_PENDING,
        inactive_threshold=FORGOTTEN_S,
    )
