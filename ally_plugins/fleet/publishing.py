"""Sending a message without waiting, from where nothing can be awaited: a transport's `write`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from .frames import CHUNK

if TYPE_CHECKING:
    from nats.aio.client import Client

__all__ = ["chunk_of", "publish_now"]

_HEADERS: Final = 1024  # of a message, which the server counts to its size


def chunk_of(client: Client) -> int:
    """Return how many bytes of a stream one message may carry: as the server takes, and no more than is good."""
    return max(1, min(CHUNK, client.max_payload - _HEADERS))


def publish_now(client: Client, subject: str, payload: bytes, reply: str = "") -> bool:
    """Write a message, or have the client do so where something waits before it; return whether it was taken.

    While the server is away it takes none: what the message would have been part of has ended with the connection.
    """
    if not client.is_connected:
        return False
    from nats.errors import Error

    if (writer := _idle_writer(client)) is not None:
        from nats.protocol.command import pub_cmd

        writer.write(pub_cmd(subject, reply, payload))
        return True
    sending = client.publish(subject, payload, reply)
    # It appends the message to what its own task writes, and has nothing to wait for but a queue that is never full:
    # only one wake-up of that task is in it. A task of its own for each message would cost a turn of the loop.
    try:
        sending.send(None)
    except StopIteration:
        return True
    except Error:
        return False
    sending.close()
    return False


def _idle_writer(client: Client) -> asyncio.StreamWriter | None:
    """Return what writes to the server, where nothing waits to be written.

    The client would wake a task of its own for that, which is a turn of the loop for each message of a gate.
    """
    writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001 - it has no other way
    if not isinstance(writer, asyncio.StreamWriter) or client._pending or writer.transport.get_write_buffer_size():  # noqa: SLF001
        return None
    return writer
