"""The connection to the server, and its errors as sentences for an operator."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.errors import AllyError, ConfigError

if TYPE_CHECKING:
    from nats.aio.client import Client

    from .credentials import Credentials

__all__ = ["FleetError", "connected", "raise_if_cancelled"]

_log: Final = logging.getLogger(__name__)

CONNECT_S: Final = 5
"""Seconds that a connection may take."""


class FleetError(AllyError):
    """The server cannot be reached, or refuses."""


PING_S: Final = 5
"""Seconds between questions whether the server is there, of which two may stay unanswered."""


def raise_if_cancelled() -> None:
    """Raise CancelledError where this task was cancelled; to be called after what the client does, in each loop.

    Python's `wait_for`, with which nats-py waits, swallows a cancellation that comes together with the answer until
    3.12, and whoever waits for the task would wait for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@asynccontextmanager
async def connected(who: Credentials, on_broken: Callable[[], None] = lambda: None) -> AsyncGenerator[Client]:
    """Connect, and close at the end; a connection that breaks later is made anew without end.

    `on_broken` is called each time that it breaks. Raises ConfigError where nats-py is not installed, FleetError when
    the first connection fails.
    """
    try:
        import_module("nkeys")  # nats-py signs with it
        from nats.aio.client import Client
    except ImportError as error:
        raise ConfigError(
            f"a fleet needs {error.name}, which is not installed: pip install 'ally-plugins[fleet]'"
        ) from error

    client, is_open = Client(), False

    async def note(error: Exception) -> None:
        # What it reports beside a call: a connection that broke, a subject that is not permitted. The first connection
        # it would try for ever as well, with a key that is refused too.
        if not is_open:
            raise error
        _log.debug("the server: %s", error)

    async def note_break() -> None:
        on_broken()

    try:
        await client.connect(
            who.server.replace("tls:", "nats:", 1),
            name=f"ally-plugins {who.name}",
            nkeys_seed_str=who.seed,
            inbox_prefix=who.inbox,
            connect_timeout=CONNECT_S,
            reconnect_time_wait=1,
            max_reconnect_attempts=-1,
            error_cb=note,
            disconnected_cb=note_break,
            ping_interval=PING_S,
            max_outstanding_pings=2,
            tls=_tls(who) if who.server.startswith("tls:") else None,
        )
    except ConfigError:
        raise
    except BaseException as error:
        with suppress(Exception):  # it fails with what broke, and after a failed handshake it would wait for ever
            async with asyncio.timeout(CONNECT_S / 10):
                await client.close()
        _abort(client)
        if not isinstance(error, Exception):
            raise
        # nats-py raises what its parts raise: OSError, ssl.SSLError, binascii.Error of a seed, its own errors.
        reason = str(error) or type(error).__name__
        raise FleetError(f"the server {who.server!r} does not take {who.name!r}: {reason}") from error
    is_open = True
    try:
        raise_if_cancelled()
        yield client
    finally:
        try:
            async with asyncio.timeout(CONNECT_S):
                await client.close()
        except TimeoutError:
            # It writes first what waits to be written, for as long as the server does not read; and has no other way.
            _abort(client)


def _abort(client: Client) -> None:
    writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001
    if isinstance(writer, asyncio.StreamWriter):
        writer.transport.abort()


def _tls(who: Credentials) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=who.ca)
    except OSError as error:
        raise ConfigError(f"ca: {who.ca!r} cannot be read: {error.strerror or error}", path="ca") from error
