"""The commands' end of the control socket: which hosts run on a home, and their answers, within a time.

Blocking, and without asyncio: a command asks all hosts at once and goes on when the time is over.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from ally_plugins.runtime.processes.unixsocket import is_own

from .addresses import Address, addresses, is_supported
from .answers import answer_problem

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.wire.connection import Connection

__all__ = ["HostAnswer", "ListeningHost", "call", "call_all", "hosts_of"]

_CHUNK: Final = 64 * 1024
_SILENT: Final = "it does not answer"


@frozen
class ListeningHost:
    """A host that listens, by the id of its process."""

    pid: int
    address: Address


@frozen
class HostAnswer:
    """The answer of one host: its result, or in `error` why there is none; `is_silent` when none came in time.

    `reason` is that of an error, a word of `wire.codes`.
    """

    host: ListeningHost
    result: Mapping[str, Any] | None = None
    error: str = ""
    reason: str = ""
    is_silent: bool = False


def hosts_of(home: Home) -> list[ListeningHost]:
    """Return the hosts that run on a home; what dead ones have left there is removed. Raises nothing."""
    if not is_supported():
        return []
    found = []
    for address in addresses(home.run_dir):
        # A connection is the only proof: a killed host leaves the file.
        connection = _connect(address)
        if connection is not None:
            connection.close()
            found.append(ListeningHost(address.pid, address))
    return found


def call(host: ListeningHost, method: str, params: Mapping[str, Any] | None = None, timeout: float = 1.0) -> HostAnswer:
    """Send a request to one host and return its answer; `timeout` is in seconds. Raises nothing."""
    return call_all([host], method, params, timeout)[0]


def call_all(
    hosts: Iterable[ListeningHost], method: str, params: Mapping[str, Any] | None = None, timeout: float = 1.0
) -> list[HostAnswer]:
    """Send a request to all hosts at once and return their answers, in order. Raises nothing.

    `timeout` is in seconds, for all of them together.
    """
    calls = [_HostCall(host) for host in hosts]
    deadline = time.monotonic() + timeout
    with selectors.DefaultSelector() as waiting:
        for pending in calls:
            connection = pending.send(method, params or {})
            if connection is not None:
                waiting.register(connection, selectors.EVENT_READ, pending)
        while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                if key.data.read():
                    waiting.unregister(key.fileobj)
    for pending in calls:
        pending.close()
    return [pending.answer for pending in calls]


class _HostCall:
    """A request to one host, until it is answered."""

    def __init__(self, host: ListeningHost) -> None:
        self.host: Final = host
        self.answer = HostAnswer(host, error=_SILENT, is_silent=True)
        self._connection: socket.socket | None = None
        self._wire: Connection | None = None
        self._method = ""

    def send(self, method: str, params: Mapping[str, Any]) -> socket.socket | None:
        """Send the request; return what to wait for, None when there is nothing to wait for."""
        # Not at the top: most commands find no host, and start faster without it.
        from ally_plugins.wire.connection import Connection

        self._method = method
        self._connection = connection = _connect(self.host.address)
        if connection is None:
            self.answer = HostAnswer(self.host, error="it has ended")
            return None
        self._wire = Connection()
        self._wire.request(method, params)
        try:
            connection.sendall(self._wire.data_to_send())  # a few hundred bytes, for which an empty socket has room
        except OSError:  # a host that nobody can connect to any more, or that has just ended
            return None
        return connection

    def read(self) -> bool:
        """Read what has arrived; say whether the answer is complete, or none will come."""
        from ally_plugins.contract.values.errors import ProtocolError
        from ally_plugins.wire.messages import ErrorResponse, Response

        assert self._connection is not None  # noqa: S101 - `send` has returned it
        assert self._wire is not None  # noqa: S101
        try:
            data = self._connection.recv(_CHUNK)
            messages = self._wire.receive_data(data)
        # More of it is to come: `call_all` waits for all hosts at one time, and comes back here.
        except (BlockingIOError, InterruptedError):
            return False
        except (OSError, ProtocolError):
            data, messages = b"", []
        for message in messages:
            if isinstance(message, ErrorResponse):
                reason = message.data.get("reason") if isinstance(message.data, Mapping) else ""
                self.answer = HostAnswer(self.host, error=message.message, reason=str(reason))
            elif (
                isinstance(message, Response) and (problem := answer_problem(self._method, message.result)) is not None
            ):
                self.answer = HostAnswer(self.host, error=f"it answers nonsense: {problem}")
            elif isinstance(message, Response):
                self.answer = HostAnswer(self.host, message.result)
        return not data or not self.answer.is_silent

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()


def _connect(address: Address) -> socket.socket | None:
    """Return a connection that does not block; None when nobody listens, and then a dead host's socket is removed."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
    try:
        with suppress(BlockingIOError):  # its queue of connections is full: it is there, and will not answer in time
            connection.connect(str(address.path))
            if not is_own(connection):
                connection.close()
                return None
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        address.remove_if_dead()
        return None
    except OSError:  # not ours to connect to
        connection.close()
        return None
    return connection
