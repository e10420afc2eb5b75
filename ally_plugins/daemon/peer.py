"""This end of the connection on a loop: requests to the host and their futures, and what the host sends, by method."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from ally_plugins.contract.values.errors import AllyError, BudgetRefused, EventError, ProtocolError, UnavailableRefused
from ally_plugins.wire.codes import INVALID_PARAMS, REASONS, read_error, write_error
from ally_plugins.wire.messages import Cancel, ErrorResponse, Message, Notification, Request, Response

from .channel import open_channel
from .logs import write_failure
from .sandbox_refusals import SHARED, is_shared, refused_grant

if TYPE_CHECKING:
    from ally_plugins.wire.connection import Connection

    from .channel import Channel, ThreadChannel
    from .streams import Descriptors

__all__ = ["Handler", "Peer"]


class Handler(Protocol):
    """Takes what the host sends; called from the loop, one after the other, and never waits."""

    def request(self, message: Request) -> None:
        """Take a request; it is to be answered with `Peer.respond`, `Peer.refuse` or `Peer.fail`."""

    def notification(self, message: Notification) -> None:
        """Take a notification."""

    def cancelled(self, request_id: int | str) -> None:
        """Stop working on a request, which has been answered."""

    def ended(self, why: str) -> None:
        """Take the end of the connection: the host has closed it (`why` is empty), or broke the protocol."""


_Waiting = tuple["asyncio.Future[Any]", Callable[[Any], None] | None]


class Peer:
    """The connection to the host; it lives as long as its descriptors. Only for the loop's thread."""

    def __init__(self, connection: Connection, handler: Handler, name: str = "") -> None:
        self.connection = connection
        self.handler = handler
        self.name = name
        self._channel: Channel | ThreadChannel | None = None
        self._waiting: dict[int, _Waiting] = {}

    def open(self, descriptors: Descriptors) -> None:
        """Begin to read."""
        self._channel = open_channel(descriptors, self._receive, drain=self.connection.data_to_send)

    def close(self) -> None:
        """Write what is left, as far as the host takes it, and let go of the descriptors; what waits is refused."""
        if self._channel is not None:
            self._channel.flush_now()
            self._channel.close()
        self._fail_all("the connection is closed")

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent to the host."""
        return self._channel is not None and not self._channel.is_closed and not self.connection.is_closed

    # --- to the host ---

    async def call(self, method: str, params: Mapping[str, Any], *, then: Callable[[Any], None] | None = None) -> Any:
        """Send a request to the host and return its result; `then` gets it first, before the next message is read.

        Raises what the same call raises in a host, and UnavailableRefused when there is no connection any more.
        Cancelling it cancels the request at the host.
        """
        channel = self._channel
        if channel is None or not self.is_open:
            raise UnavailableRefused(f"the host of {self.name!r} has stopped", plugin=self.name)
        request_id = self.connection.request(method, params)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = (future, then)
        channel.flush()
        try:
            return await future
        except asyncio.CancelledError:
            # None where its answer came in the same turn of the loop: there is nothing to cancel then.
            if self._waiting.pop(request_id, None) is not None:
                self.connection.cancel(request_id)
                self._flush()
            raise

    def notify(self, method: str, params: Mapping[str, Any], *, may_drop: bool = False) -> None:
        """Send a notification; with `may_drop` it is dropped while the host does not read."""
        if self.is_open and self._channel is not None and not (may_drop and self._channel.is_full):
            with suppress(BudgetRefused):  # longer than the host takes: it has nobody to answer to
                self.connection.notify(method, params)
            self._flush()

    def respond(self, request_id: int | str, result: Any) -> None:
        """Answer a request. Raises EncodeError for a result that JSON cannot represent; nothing is sent then."""
        self.connection.respond(request_id, result)
        self._flush()

    def refuse(self, request_id: int | str, error: BaseException) -> None:
        """Answer a request with an error: the text of a refusal crosses, of anything else only its type's name.

        With the grant that would allow what a sandbox has refused.
        """
        answer = write_error(error, names_type=True)
        grant = refused_grant(error)
        data = answer.data if grant is None else {**answer.data, "grant": grant}
        data = {**data, "lacks": SHARED} if is_shared(error) else data
        self.fail(request_id, answer.code, answer.message, data)

    def fail(self, request_id: int | str, code: int, text: str, data: Mapping[str, Any] | None = None) -> None:
        """Answer a request with an error."""
        self.connection.fail(request_id, code, text, data)
        self._flush()

    def _flush(self) -> None:
        # Not with nothing to write: closely after an answer that would be another turn of the loop.
        if self._channel is not None and self.connection.has_data:
            self._channel.flush()

    # --- from the host ---

    def _receive(self, data: bytes) -> None:
        if not data:
            # Before `ended`: calls that wait for the host are refused first, and what stops may run on.
            self._take(self.connection.receive_eof())
            self.handler.ended("")
            return
        if self.connection.is_closed:  # by what broke the protocol: what follows it is not read
            return
        try:
            messages = self.connection.receive_data(data)
        except ProtocolError as error:
            # What came whole before the broken line counts.
            self._take(list(error.received))
            self._take(self.connection.receive_eof())
            self.handler.ended(str(error))
            return
        self._take(messages)

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, Request):
                self._take_request(message)
            elif isinstance(message, Notification):
                self.handler.notification(message)
            elif isinstance(message, Response):
                self._resolve(message.id, message.result)
            elif isinstance(message, ErrorResponse):
                self._reject(message.id, read_error(message.code, message.message, message.data))
            elif isinstance(message, Cancel):
                self.handler.cancelled(message.id)
        self._flush()

    def _take_request(self, message: Request) -> None:
        try:
            self.handler.request(message)
        except EventError as error:  # a field of the params; the text is ours
            self.fail(message.id, INVALID_PARAMS, str(error), {"reason": REASONS[INVALID_PARAMS], "field": error.path})
        except Exception as error:  # noqa: BLE001 - what is wrong with one request must not stop the others
            if not isinstance(error, AllyError):
                write_failure(message.method, error)
            self.refuse(message.id, error)

    def _resolve(self, request_id: int, result: Any) -> None:
        future, then = self._waiting.pop(request_id, (None, None))
        # Done: its caller was cancelled in this turn, and has not run yet.
        if future is None or future.done():
            return
        try:
            if then is not None:
                then(result)
        except Exception as error:  # noqa: BLE001 - the host's answer is not what it should be
            future.set_exception(error)
        else:
            future.set_result(result)

    def _reject(self, request_id: int, error: Exception) -> None:
        future, _ = self._waiting.pop(request_id, (None, None))
        if future is not None and not future.done():
            future.set_exception(error)

    def _fail_all(self, why: str) -> None:
        for request_id in list(self._waiting):
            self._reject(request_id, UnavailableRefused(why, plugin=self.name))
