"""The host's end of a daemon's connection: bytes to and from `wire.Connection`, fairly and without blocking the loop.

Events that go out in one turn of the loop are written together; a request or an answer goes out at once, and what
follows it closely with the next turn. What comes in is taken in small portions, so that a daemon that floods the host
takes turns with all others: while a portion waits nothing more is read, and the flood stays in the daemon's own pipe.
"""

# ruff: noqa: D102 - asyncio.Protocol says what its methods are for

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import AllyError, ProtocolError
from ally_plugins.runtime.lanes.link import BROKE_PROTOCOL, Answer, DaemonGone, NotSent, RemoteCrash
from ally_plugins.wire.codes import INTERNAL_ERROR, read_error
from ally_plugins.wire.connection import Connection
from ally_plugins.wire.messages import Cancel, ErrorResponse, Notification, Progress, Request, Response

from .unread import Unread

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event
    from ally_plugins.wire.limits import WireLimits

__all__ = ["Peer"]

_log: Final = logging.getLogger(__name__)

PORTION: Final = 64
"""Messages that are taken before others have their turn: some 3 ms of the busiest kind."""

HIGH_WATER: Final = 256 * 1024
"""Bytes that may wait for a daemon that does not read, before its lane stops: a few hundred events."""

LONGEST_OUT: Final = 16 * 1024 * 1024
"""Bytes of one line to a daemon, which trusts its host: a tool's whole output may be in a question about it."""

MOST_WAITING: Final = 8 * 1024 * 1024
"""Bytes that may wait for a daemon before nothing more is read from it: who reads no answers asks nothing."""

JOINED: Final = 20e-6
"""Seconds after a write within which what is to go out waits for more: a turn of the loop costs as much as a write."""

FIRST_WORDS: Final = 200
"""Bytes of what a daemon said first that are kept, to show what it said instead of the protocol."""


class Peer(asyncio.Protocol):
    """One connection to one daemon; it lives as long as that connection.

    `on_request` starts to answer a request and returns what can be cancelled; it answers with `respond` or `fail`.
    `on_notice` takes notifications; `on_lost` is told once, in words, why the connection is no more.
    """

    takes_lines = True

    def __init__(
        self,
        name: str,
        limits: WireLimits,
        *,
        on_request: Callable[[Peer, Request], asyncio.Future[Any] | None],
        on_notice: Callable[[Peer, Notification], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self.name = name
        self.connection = Connection(limits=limits)
        self.connection.send_limit = LONGEST_OUT
        self.first_words = b""
        self.is_greeted = False
        """Whether `initialize` was answered, so that the daemon may make calls."""
        self._on_request = on_request
        self._on_notice = on_notice
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._answers: dict[int, Answer] = {}
        self._unsent: list[Answer] = []
        self._working: dict[int | str, asyncio.Future[Any]] = {}
        self._watched: dict[int | str, Callable[[Progress], None]] = {}
        self._arrived: deque[Any] = deque()
        self._is_flushing = False
        self._written_at = 0.0
        self._unread = Unread()
        self._is_paused = False
        self._is_lost = False
        self._is_held = False
        self._is_swamped = False
        self._is_reading = True
        self._will_take = False
        self.hello: Any = None
        """What the daemon answered to `initialize`."""
        self.is_strict = True
        """Whether a single line that is no message ends it: before the daemon has been greeted."""
        self.is_nonsense = False
        """Whether what it said was no protocol."""
        self.is_watched = False
        """Whether somebody finds out why it broke and says so to `close`: until then, what is asked has no answer."""

    # --- asyncio.Protocol ---

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's transports are not derived from it
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        if len(self.first_words) < FIRST_WORDS:
            self.first_words += data[: FIRST_WORDS - len(self.first_words)]
        try:
            messages = self.connection.receive_data(data)
        except ProtocolError as error:
            self._arrived.extend(error.received)  # what it said before its mistake counts
            while self._arrived and not self._is_held:
                self._take_one(self._arrived.popleft())
            self._flush()
            self.is_nonsense = True
            self.lose(f"{BROKE_PROTOCOL}: {error}")
            return
        is_greeted = bool(messages) and self.first_words.startswith(b"{")  # its answer may be in the same portion
        if self.is_strict and self.connection.counts.malformed and not is_greeted:
            self.is_nonsense = True
            self.lose("spoke no protocol")
            return
        self._arrived.extend(messages)
        if not self._will_take:
            self._take()
        self._flush()  # malformed input is answered by the connection itself

    @override
    def eof_received(self) -> bool:
        before = self.connection.counts.malformed
        self.connection.receive_eof()
        if self.connection.counts.malformed > before and not self.first_words.startswith(b"{"):
            self.is_nonsense = True  # else it was cut short by its end
        return False

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.lose("closed its connection" if exc is None else f"broke its connection ({type(exc).__name__})")

    @override
    def pause_writing(self) -> None:
        self._is_paused = True

    @override
    def resume_writing(self) -> None:
        self._is_paused = self._is_swamped = False
        self._mind_reading()
        self.on_writable()

    def on_writable(self) -> None:
        """Be told that more may be written; the supervisor puts the lane's `wake` in this place."""

    # --- Link ---

    @property
    def can_write(self) -> bool:
        """Whether more events may be written; false while the daemon does not read."""
        return not self._is_paused and not self._is_over

    def has_read(self) -> bool:
        """Say whether the daemon has read, since this was asked last, of what waited for it then."""
        return self._transport is not None and not self._is_over and self._unread.has_shrunk(self._transport)

    @property
    def _is_over(self) -> bool:
        """Whether nothing may be sent any more: it was lost, or the other end has said its last word."""
        return self._is_lost or self.connection.is_closed

    def request(self, method: str, params: Mapping[str, Any]) -> asyncio.Future[Any]:
        """Send a request; the future gets its result, the error that its answer stands for, DaemonGone or NotSent."""
        if self._is_over:
            unsent = Answer(_nothing)
            self._unsent.append(unsent)
            if not self.is_watched:
                self._let_go("is gone")
            return unsent
        try:
            number = self.connection.request(method, params)
        except AllyError as error:  # larger than the daemon takes, or nothing that JSON can say
            refused = Answer(_nothing)
            refused.set_exception(NotSent(f"{method!r} was not sent to {self.name!r}: {error}", plugin=self.name))
            refused.exception()
            return refused
        answer = self._answers[number] = Answer(partial(self._take_back, number))
        self._flush_soon()
        return answer

    def watch(self, future: asyncio.Future[Any], told: Callable[[Progress], None]) -> None:
        """Let `told` hear how far the answer to a request is, until there is one."""
        number = next((number for number, waiting in self._answers.items() if waiting is future), None)
        if number is not None:
            self._watched[number] = told
            future.add_done_callback(lambda _: self._watched.pop(number, None))

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Send a notification."""
        if not self._is_over:
            self.connection.notify(method, params)
            self._schedule_flush()

    def write(self, lines: bytes) -> None:
        """Send ready lines."""
        if not self._is_over:
            self.connection.write(lines)
            self._schedule_flush()

    def write_events(self, events: Sequence[Event]) -> None:  # noqa: ARG002
        """Refuse: this link takes lines."""
        raise TypeError("a peer takes lines")

    def close(self, reason: str = "was closed") -> None:
        """Close the connection after what was written; what waits is told the reason."""
        if self._transport is not None:
            self._flush()
            self._transport.close()
        self.lose(reason)
        self.is_watched = False
        self._let_go(reason)

    # --- what whoever answers calls ---

    def respond(self, number: int | str, result: Any) -> None:
        """Answer a request."""
        if not self._is_lost:
            self._working.pop(number, None)  # here and not when its task ends: a callback costs a turn of the loop
            self.connection.respond(number, result)
            self._flush_soon()

    def fail(self, number: int | str, code: int, message: str, data: Mapping[str, Any] | None = None) -> None:
        """Answer a request with an error."""
        if not self._is_lost:
            self._working.pop(number, None)
            self.connection.fail(number, code, message, data)
            self._flush_soon()

    def lose(self, reason: str) -> None:
        """End it, whoever noticed: all that waits is told, and `on_lost` hears the reason, once."""
        if self._is_lost:
            return
        self._is_lost = True
        self._arrived.clear()
        if not self.is_watched:
            self._let_go(reason)
        for work in self._working.values():
            self._loop.call_soon(work.cancel)
        self._working.clear()
        if self._transport is not None:
            self._transport.abort() if self._is_paused else self._transport.close()
        self._on_lost(reason)

    def _let_go(self, reason: str) -> None:
        waiting = [*self._answers.values(), *self._unsent]
        self._answers.clear()
        self._unsent.clear()
        for answer in waiting:
            if not answer.done():
                answer.set_exception(DaemonGone(f"the process of {self.name!r} {reason}", plugin=self.name))
                answer.exception()  # who asked may be gone
                if answer.told is not None:
                    self._loop.call_soon(answer.told, answer)  # after all that its end means to others

    # --- in ---

    def go_on(self) -> None:
        """Take what came after the answer to `initialize`, which waits until the answer has been taken on."""
        self._is_held = False
        self._take()

    def _take(self) -> None:
        self._will_take = False
        arrived = self._arrived
        for _ in range(min(PORTION, len(arrived))):
            if self._is_held or not arrived:  # lost meanwhile, which empties it
                break
            self._take_one(arrived.popleft())
        if arrived and not self._is_held:
            self._will_take = True
            self._loop.call_soon(self._take)
        self._mind_reading()

    def _mind_reading(self) -> None:
        """Read only when all that came has been taken, and the answers to it are read."""
        transport = self._transport
        is_wanted = not self._arrived and not self._is_swamped
        if is_wanted is self._is_reading or transport is None or self._is_lost or transport.is_closing():
            return
        self._is_reading = is_wanted
        if is_wanted:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def _take_one(self, message: Any) -> None:
        try:
            self._sort(message)
        except Exception:  # noqa: BLE001 - logged; one message must not end the connection
            _log.exception("a message of the daemon %r could not be taken", self.name)

    def _sort(self, message: Any) -> None:
        cls = message.__class__
        if cls is Request:
            work = self._on_request(self, message)
            if work is not None and not work.done():
                self._working[message.id] = work
        elif cls is Response or cls is ErrorResponse:
            self._take_answer(message)
        elif cls is Notification:
            self._on_notice(self, message)
        elif cls is Cancel:
            if (work := self._working.pop(message.id, None)) is not None:
                self._loop.call_soon(work.cancel)  # not before its first step, or it could not count itself out
        elif cls is Progress and (told := self._watched.get(message.id)) is not None:
            told(message)

    def _take_answer(self, message: Response | ErrorResponse) -> None:
        answer = self._answers.pop(message.id, None)
        self._is_held = self._is_held or message.method == "initialize"
        if answer is None or answer.done():
            return
        if isinstance(message, Response):
            answer.set_result(message.result)
        else:
            answer.set_exception(self._error_of(message))
            answer.exception()  # who asked may be gone
        if answer.told is not None:
            answer.told(answer)

    def _error_of(self, message: ErrorResponse) -> AllyError:
        """Return what an error stands for; what a daemon's code raised by itself is only named."""
        if message.code != INTERNAL_ERROR:
            return read_error(message.code, message.message, message.data)
        kind = message.data.get("type") if isinstance(message.data, dict) else None
        what = f"{kind:.80}" if isinstance(kind, str) and kind.isidentifier() else "an error"
        text = f"{what} in its {message.method}; the traceback is in `ally-plugins logs {self.name}`"
        return RemoteCrash(text, plugin=self.name)

    def _take_back(self, number: int) -> None:
        if self._answers.pop(number, None) is not None and not self._is_lost:
            self.connection.cancel(number)
            self._schedule_flush()

    # --- out ---

    def _flush_soon(self) -> None:
        if not self._is_flushing and time.monotonic() - self._written_at > JOINED:
            self._flush()
        else:
            self._schedule_flush()

    def _schedule_flush(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        self._is_flushing = False
        self._flush()

    def _flush(self) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing() and (data := self.connection.data_to_send()):
            transport.write(data)
            self._unread.wrote(len(data))
            self._written_at = time.monotonic()
            if self._is_paused and transport.get_write_buffer_size() > MOST_WAITING:
                self._is_swamped = True
                self._mind_reading()


def _nothing() -> None:
    """Take back what was never sent."""
