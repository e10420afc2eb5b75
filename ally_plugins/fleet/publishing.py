"""Sending a message without waiting, from where nothing can be awaited: a transport's `write`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nats.aio.client import Client

__all__ = ["publish_now"]


def publish_now(client: Client, subject: str, payload: bytes, reply: str = "") -> None:
    """Hand a message to the client, which writes it in the next turn of the loop.

    While the server is away it is dropped: what it would have been part of has ended with the connection.
    """
    if not client.is_connected:
        return
    from nats.errors import Error

    sending = client.publish(subject, payload, reply)
    # It appends the message to what its own task writes, and has nothing to wait for but a queue that is never full:
    # only one wake-up of that task is in it. A task of its own for each message would cost a turn of the loop.
    with suppress(StopIteration, Error):
        sending.send(None)
    sending.close()
