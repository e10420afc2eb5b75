"""The state machine of one connection: bytes in, messages out, and the other way round. Both ends use it.

It owns ids, the requests in flight both ways, the defined answer to malformed frames, and the counts of stray ones. Who
waits for an answer, how long, and what a method means is left to others; so is the transport.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final

from attrs import define

from ally_plugins.contract.values.errors import BudgetRefused, ProtocolError

from .codes import BUSY, CANCELLED, INVALID_REQUEST, REASONS, TOO_LARGE, UNAVAILABLE
from .framing import LineFramer
from .limits import DEFAULT_LIMITS, WireLimits
from .messages import (
    Cancel,
    ErrorResponse,
    Malformed,
    Message,
    MessageId,
    Notification,
    Request,
    Response,
    encode_error,
    encode_notification,
    encode_request,
    encode_response,
    parse,
)

__all__ = ["Connection", "WireCounts"]

_BLANK: Final = b" \t\r"
_SHORT: Final = 32  # the shortest message has more bytes; what is shorter may be a blank line


@define
class WireCounts:
    """What went astray on one connection, for as long as it lives. None of it is an error by itself."""

    late: int = 0
    """Responses to requests that had been cancelled."""
    double: int = 0
    """Responses to requests that had been answered."""
    unknown: int = 0
    """Responses to ids that were never sent."""
    malformed: int = 0
    """Frames that are no message."""
    busy: int = 0
    """Requests that were refused because too many were in flight."""
    dropped: int = 0
    """Answers and progress of our own for requests that had ended: cancelled, answered, or never there."""


class Connection:
    """One end of a connection, for its whole life.

    Give it what arrives (`receive_data`, `receive_eof`), send what `data_to_send` returns. Once it is closed, by
    `receive_eof` or a ProtocolError, `request`, `notify`, `write` and `receive_data` raise ProtocolError; what is about
    a request that has ended with it (`respond`, `fail`, `cancel`, `progress`) is dropped.
    """

    __slots__ = (
        "_cancelled",
        "_closed",
        "_framer",
        "_incoming",
        "_last_id",
        "_outgoing",
        "_output",
        "counts",
        "limits",
        "methods",
        "outgoing",
        "send_limit",
    )

    def __init__(self, *, limits: WireLimits = DEFAULT_LIMITS, methods: Container[str] | None = None) -> None:
        self.limits: Final = limits
        self.methods: Final = methods
        """The requests that this end answers; with them a call of another one is answered so, whatever its params."""
        self.counts: Final = WireCounts()
        self.send_limit = limits.frame_bytes
        """The longest line that the peer takes, in bytes; set it when the handshake names another limit."""
        self._framer: Final = LineFramer(limits.frame_bytes)
        self._output: Final[list[bytes]] = []
        self._outgoing: Final[dict[Any, str]] = {}
        self.outgoing: Final[Mapping[int, str]] = MappingProxyType(self._outgoing)
        self._incoming: Final[set[MessageId]] = set()
        self._cancelled: Final[dict[Any, None]] = {}  # no set: the oldest goes first when there are too many
        self._last_id = 0
        self._closed = ""

    @property
    def incoming(self) -> AbstractSet[MessageId]:
        """The ids of the peer's requests that have had no answer yet."""
        return self._incoming

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended, by the end of the stream or by a ProtocolError."""
        return bool(self._closed)

    # ------------------------------------------------------------------------------------------------ from the peer
    def receive_data(self, data: bytes) -> list[Message]:
        """Return the messages that `data` completes. What is malformed is answered and counted, not returned.

        Raises ProtocolError, and closes the connection, for a line over the limit and for the last malformed frame of
        those that the limits permit; its `received` holds the messages that came before.
        """
        if self._closed:
            raise ProtocolError(self._closed)
        messages: list[Message] = []
        framer = self._framer
        for frame in framer.receive_data(data):
            self._receive_frame(frame, messages)
        if framer.is_overflowed:
            self._break(f"a line of more than {self.limits.frame_bytes} bytes came; send less at once", messages)
        return messages

    def receive_eof(self) -> list[Message]:
        """Close the connection and return its last messages.

        First what stood behind the last newline; then an ErrorResponse (unavailable) for each request of ours that has
        had no answer, so that every request has an end. May be called after a ProtocolError, and again. The peer's own
        requests may still be answered: it may have closed only its half.
        """
        messages: list[Message] = []
        if not self._closed:
            with suppress(ProtocolError):  # what would have closed it
                self._receive_frame(self._framer.receive_eof(), messages)
            self._closed = self._closed or "the connection is closed"
        for id_, method in self._outgoing.items():
            messages.append(ErrorResponse(id_, method, UNAVAILABLE, self._closed, {"reason": REASONS[UNAVAILABLE]}))
        self._outgoing.clear()
        return messages

    # -------------------------------------------------------------------------------------------------- to the peer
    def request(self, method: str, params: Mapping[str, Any] | None = None) -> int:
        """Queue a request to the peer and return its id; send what `data_to_send` returns next.

        Raises BudgetRefused when the line is longer than the peer takes, EncodeError when `params` is not JSON.
        """
        id_ = self._last_id + 1
        self.write(self._fitting(encode_request(id_, method, params), method))
        # Counted only now: what could not be encoded or is too long was no request, and uses no id.
        self._last_id = id_
        self._outgoing[id_] = method
        return id_

    def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Queue a notification to the peer. Raises what `request` does."""
        self.write(self._fitting(encode_notification(method, params), method))

    def respond(self, id_: MessageId, result: Any) -> None:
        """Answer a request of the peer's; one that has ended is dropped and counted.

        A result that is longer than the peer takes becomes an error. Raises EncodeError when it is not JSON; the
        request is still there then.
        """
        if id_ not in self._incoming:
            self.counts.dropped += 1
            return
        # Before the request is let go: a result that is no JSON leaves it there, to be answered with an error.
        line = encode_response(id_, result)
        if len(line) - 1 > self.send_limit:
            text = f"the result has {len(line)} bytes where the peer takes {self.send_limit}"
            # An error instead: the peer refuses a longer line, and its request would never be answered.
            line = _error(id_, TOO_LARGE, text, budget="frame_bytes")
        self._incoming.discard(id_)
        self._output.append(line)

    def fail(self, id_: MessageId, code: int, message: str, data: Any = None) -> None:
        """Answer a request of the peer's with an error, as `respond` does.

        Without `data`, the reason word of the code is sent, where the code is one of ours.
        """
        if id_ not in self._incoming:
            self.counts.dropped += 1
            return
        if data is None and code in REASONS:
            data = {"reason": REASONS[code]}
        line = encode_error(id_, code, message, data)
        if len(line) - 1 > self.send_limit:
            line = _error(id_, code, "the error was too long to be sent")
        self._incoming.discard(id_)
        self._output.append(line)

    def cancel(self, id_: int) -> None:
        """Cancel a request of ours: its answer, which may still come, is dropped. Does nothing when it has ended."""
        if self._closed or self._outgoing.pop(id_, None) is None:
            return
        if len(self._cancelled) >= self.limits.in_flight:  # a peer that never answers must not make us remember it all
            del self._cancelled[next(iter(self._cancelled))]
        self._cancelled[id_] = None
        self._output.append(encode_notification("$/cancel", {"id": id_}))

    def progress(self, id_: MessageId, progress: float | None = None, message: str | None = None) -> None:
        """Report how far a request of the peer's is, `progress` from 0 to 1; for one that has ended it is dropped."""
        if id_ not in self._incoming or self._closed:
            self.counts.dropped += 1
            return
        params = {"id": id_, "progress": progress, "message": message}
        self.notify("$/progress", {name: value for name, value in params.items() if value is not None})

    def write(self, prepared: bytes) -> None:
        """Queue whole lines that were encoded before, newlines included, so that many peers share one encoding.

        Raises ProtocolError once the connection is closed.
        """
        if self._closed:
            raise ProtocolError(self._closed)
        self._output.append(prepared)

    @property
    def has_data(self) -> bool:
        """Whether `data_to_send` would return anything."""
        return bool(self._output)

    def data_to_send(self) -> bytes:
        """Return everything that is to be sent, and forget it; after a ProtocolError its last line names the reason."""
        if not self._output:
            return b""
        data = b"".join(self._output)
        self._output.clear()
        return data

    # ------------------------------------------------------------------------------------------------------- inside
    def _receive_frame(self, frame: bytes, messages: list[Message]) -> None:
        if len(frame) < _SHORT and not frame.strip(_BLANK):
            return
        try:
            message = parse(frame, self.limits, self._outgoing, self.methods)
        # Told apart here and not before: blank lines are rare, and looking at each frame for them is not free.
        except Malformed as malformed:
            if frame.strip(_BLANK):
                self._answer_malformed(malformed, messages)
            return
        cls = message.__class__
        if cls is Notification or self._is_expected(cls, message, messages):
            messages.append(message)

    def _is_expected(self, cls: type, message: Any, messages: list[Message]) -> bool:
        """Update what is in flight by a message; return whether the message is to be handed on."""
        if cls is Response or cls is ErrorResponse:
            return self._outgoing.pop(message.id, None) is not None or self._count_astray(message.id)
        if cls is Request:
            return self._admit(message.id, messages)
        if cls is Cancel:
            return self._end_cancelled(message.id)
        return message.id in self._outgoing  # progress of what has ended is nobody's any more

    def _admit(self, id_: MessageId, messages: list[Message]) -> bool:
        incoming = self._incoming
        if id_ in incoming:
            # Without the id: an answer with it would be taken for the answer to the request that is in flight.
            self._answer_malformed(Malformed(INVALID_REQUEST, f"a request with the id {id_!r} is in flight"), messages)
            return False
        if len(incoming) >= self.limits.in_flight:
            self.counts.busy += 1
            # Answered right here, so it is not in flight itself.
            text = f"{len(incoming)} requests are in flight; wait for answers"
            self._output.append(_error(id_, BUSY, text, budget="calls_in_flight"))
            return False
        incoming.add(id_)
        return True

    def _end_cancelled(self, id_: MessageId) -> bool:
        if id_ not in self._incoming:
            return False  # it crossed the answer on its way
        self._incoming.discard(id_)
        self._output.append(_error(id_, CANCELLED, "cancelled"))
        return True

    def _count_astray(self, id_: Any) -> bool:
        if id_ in self._cancelled:
            del self._cancelled[id_]
            self.counts.late += 1
        elif id_.__class__ is int and 0 < id_ <= self._last_id:
            self.counts.double += 1
        else:
            self.counts.unknown += 1
        return False

    def _answer_malformed(self, malformed: Malformed, messages: list[Message]) -> None:
        # A frame whose form is fine does not count: a peer is not cut off for integers that are too long.
        self.counts.malformed += malformed.is_broken
        if malformed.is_answered:
            self._output.append(_error(malformed.id, malformed.code, malformed.text))
        if malformed.is_broken and self.counts.malformed >= self.limits.malformed:
            self._break(f"{self.counts.malformed} malformed messages came; the last: {malformed.text}", messages)

    def _break(self, text: str, messages: list[Message]) -> None:
        self._closed = text
        # No answer may follow the last line, which says why.
        self._incoming.clear()
        self._output.append(_error(None, INVALID_REQUEST, text))
        raise ProtocolError(text, received=tuple(messages))

    def _fitting(self, line: bytes, method: str) -> bytes:
        if len(line) - 1 > self.send_limit:
            text = f"{method!r} has {len(line)} bytes where the peer takes {self.send_limit}; send less"
            raise BudgetRefused(text, budget="frame_bytes")
        return line


def _error(id_: MessageId | None, code: int, text: str, **facts: str) -> bytes:
    return encode_error(id_, code, text, {"reason": REASONS[code], **facts})
