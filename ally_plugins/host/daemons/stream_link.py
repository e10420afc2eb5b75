"""The host's end of a stream to a daemon: bytes to and from `wire.Connection`, fairly and without blocking the loop.

Events of one turn of the loop are written together; a request or an answer is written at once, and what follows it
closely in the next turn. What arrives is processed in small portions, so that a daemon that floods the host takes turns
with all others: while messages wait nothing more is read, and the flood stays in the daemon's own pipe.
"""

# ruff: noqa: D102 - asyncio.Protocol says what its methods are for

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from ally_plugins.contract.grants import BESIDE_THE_HOST, Grant
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import AllyError, ConfigError, ProtocolError
from ally_plugins.runtime.lanes.jobs import Job, Jobs
from ally_plugins.runtime.lanes.link import BROKE_PROTOCOL, DaemonGone, NotSent, PendingAnswer, RemoteCrash
from ally_plugins.runtime.lanes.wire_tap import WireTap
from ally_plugins.runtime.processes.stdio import unread
from ally_plugins.wire.codes import INTERNAL_ERROR, read_error
from ally_plugins.wire.connection import Connection
from ally_plugins.wire.framing import LineFramer
from ally_plugins.wire.limits import DEFAULT_LIMITS, WireLimits
from ally_plugins.wire.messages import Cancel, ErrorResponse, Notification, Progress, Request, Response

from .unread import Unread

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event

__all__ = ["StreamLink"]

_log: Final = logging.getLogger(__name__)

PORTION: Final = 64
"""Messages processed before the loop has another turn: some 3 ms of the most expensive kind."""

HIGH_WATER: Final = 256 * 1024
"""Bytes that may wait for a daemon that does not read, before its lane stops: a few hundred events."""

LONGEST_OUT: Final = 16 * 1024 * 1024
"""Bytes of one line to a daemon, which trusts its host: a transform carries a tool's whole output."""

MOST_WAITING: Final = 8 * 1024 * 1024
"""Bytes that may wait for a daemon; beyond that nothing is read from it, so that it makes no more answers wait."""

JOINED: Final = 20e-6
"""Seconds after a write within which the next one waits for a turn: that costs as much as a write."""

MOST_UNANSWERED: Final = DEFAULT_LIMITS.in_flight - 64
"""Requests that a daemon may have before it at once; what comes after them waits here, where nobody refuses it. The
daemon's own limit is a little higher: there is always room for `UNQUEUED`."""

UNQUEUED: Final = frozenset({"ping", "shutdown"})
"""What is never kept waiting: whether it lives, and its end."""

_SHARED: Final = "shared_memory"
"""What the SDK says that its sandbox lacks, whatever is granted."""

FIRST_BYTES: Final = 200
"""Bytes that are kept of a daemon's first output, to show it when it is not the protocol."""


class StreamLink(asyncio.Protocol):
    """One connection to one daemon; it lives as long as that connection.

    `on_request` starts to answer a request and returns what cancels that, None when it was answered; it answers with
    `respond` or `fail`, and may use `jobs`. It knows `methods`. `tap` gets all lines while somebody looks. `on_notice`
    gets notifications; `on_lost` is called once, with a sentence on why the connection ended.
    """

    takes_lines = True

    def __init__(
        self,
        name: str,
        limits: WireLimits,
        *,
        methods: Container[str],
        on_request: Callable[[StreamLink, Request], Job | None],
        on_notice: Callable[[StreamLink, Notification], None],
        on_lost: Callable[[str], None],
        way_to: Callable[[Grant], str],
        tap: WireTap | None = None,
    ) -> None:
        self.name = name
        self._tap = tap if tap is not None else WireTap()
        self._tapped: LineFramer | None = None
        self.way_to = way_to
        """What an operator can do about a grant that was lacking, as text."""
        self.connection = Connection(limits=limits, methods=methods)
        self.connection.send_limit = LONGEST_OUT
        self.first_bytes = b""
        self.is_initialized = False
        """Whether `initialize` was answered, so that the daemon may make calls."""
        self._on_request = on_request
        self._on_notice = on_notice
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._answers: dict[int, PendingAnswer] = {}
        self._unsent: list[PendingAnswer] = []
        self._queued: dict[PendingAnswer, tuple[str, Mapping[str, Any]]] = {}
        self._working: dict[int | str, Job] = {}
        self.jobs = Jobs()
        """What answers requests, until the connection ends."""
        self._arrived: deque[Any] = deque()
        self._is_flushing = False
        self._written_at = 0.0
        self._unread = Unread()
        self._is_paused = False
        self._is_lost = False
        self._is_suspended = False
        self._is_ending = False
        self._has_too_much_unread = False
        self._is_reading = True
        self._is_scheduled = False
        self.initialize_result: Any = None
        """The daemon's answer to `initialize`."""
        self.is_strict = True
        """Whether one line that is no message ends the connection: until `initialize` was answered."""
        self.is_nonsense = False
        """Whether its first output was not the protocol."""
        self.reason_follows = False
        """Whether `close` will be called with the reason of a break: pending requests are failed then, not before."""

    # --- asyncio.Protocol ---

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's transports are not derived from it
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        if len(self.first_bytes) < FIRST_BYTES:
            self.first_bytes += data[: FIRST_BYTES - len(self.first_bytes)]
        if self._tap.is_on:
            self._note_received(data)
        try:
            messages = self.connection.receive_data(data)
        except ProtocolError as error:
            self._arrived.extend(error.received)  # messages before the mistake count
            while self._arrived and not self._is_suspended:
                self._process(self._arrived.popleft())
            self._flush()
            self.is_nonsense = True
            self.lose(f"{BROKE_PROTOCOL}: {error}")
            return
        # The answer to `initialize` may be in these bytes, before a line that is no message.
        is_initialized = bool(messages) and self.first_bytes.startswith(b"{")
        if self.is_strict and self.connection.counts.malformed and not is_initialized:
            self.is_nonsense = True
            self.lose("spoke no protocol")
            return
        self._arrived.extend(messages)
        if not self._is_scheduled:
            self._process_arrived()
        if self.connection.has_data:  # malformed input is answered by the connection itself
            self._flush()

    def _note_received(self, data: bytes) -> None:
        # Its first line may lack its beginning, which came before somebody looked.
        if self._tapped is None or self._tapped.is_overflowed:
            self._tapped = LineFramer(LONGEST_OUT)
        self._note(self._tapped.receive_data(data), is_sent=False)

    def _note(self, lines: list[bytes], *, is_sent: bool) -> None:
        self._tap.note(lines, is_sent=is_sent)
        if not self._tap.is_on:
            self._tapped = None

    @override
    def eof_received(self) -> bool:
        before = self.connection.counts.malformed
        self.connection.receive_eof()
        if self.connection.counts.malformed > before and not self.first_bytes.startswith(b"{"):
            self.is_nonsense = True  # one that begins like a message was cut short by the end of the process
        # Closes the transport: what a daemon has no way to answer need not be sent.
        return False

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self._is_lost:
            self._read_last_words()
        self.lose("closed its connection" if exc is None else f"broke its connection ({type(exc).__name__})")

    def _read_last_words(self) -> None:
        """Process what the daemon wrote before it ended: that it reads nothing any more was seen by writing to it."""
        for data in unread(self._transport):
            self.data_received(data)
            if self._is_lost:
                return
        while self._arrived and not self._is_suspended:
            self._process(self._arrived.popleft())

    @override
    def pause_writing(self) -> None:
        self._is_paused = True

    @override
    def resume_writing(self) -> None:
        self._is_paused = self._has_too_much_unread = False
        self._update_reading()
        self.on_writable()

    def on_writable(self) -> None:
        """Do nothing; its maker replaces this by what to do when more may be written."""

    # --- Link ---

    @property
    def can_write(self) -> bool:
        """Whether more events may be written; false while the daemon does not read."""
        return not self._is_paused and not self._is_over

    def has_read(self) -> bool:
        """Say whether the daemon has read, since the last call, of what waited for it then."""
        return self._transport is not None and not self._is_over and self._unread.has_shrunk(self._transport)

    @property
    def _is_over(self) -> bool:
        """Whether nothing may be sent any more: the connection ended, or the wire closed it."""
        return self._is_lost or self.connection.is_closed

    def request(self, method: str, params: Mapping[str, Any]) -> asyncio.Future[Any]:
        """Send a request; the future gets its result, the error in the answer, DaemonGone, or NotSent.

        Cancelling the future sends `$/cancel`.
        """
        if self._is_over:
            unsent = PendingAnswer(_nothing)
            self._unsent.append(unsent)
            # Else it fails with the reason, which says more than this.
            if not self.reason_follows:
                self._fail_unanswered("is gone")
            return unsent
        answer = PendingAnswer(self._take_back)
        if len(self._answers) >= MOST_UNANSWERED and method not in UNQUEUED:
            self._queued[answer] = method, params
        else:
            self._send(answer, method, params)
        return answer

    def _send(self, answer: PendingAnswer, method: str, params: Mapping[str, Any]) -> None:
        try:
            answer.number = number = self.connection.request(method, params)
        except AllyError as error:  # larger than the daemon takes, or nothing that JSON can say
            answer.set_exception(NotSent(f"{method!r} was not sent to {self.name!r}: {error}", plugin=self.name))
            answer.exception()
            if answer.on_done is not None:  # it has waited
                self._loop.call_soon(answer.announce)
            return
        self._answers[number] = answer
        self._is_ending = self._is_ending or method == "shutdown"
        self._flush_soon()

    def _send_queued(self) -> None:
        """Send what waits, oldest first, as far as the daemon has room for it, and not to one that is to end.

        That would break the pipe of a daemon that has answered everything, and what it wrote last would be lost.
        """
        while self._queued and len(self._answers) < MOST_UNANSWERED and not (self._is_over or self._is_ending):
            answer = next(iter(self._queued))
            self._send(answer, *self._queued.pop(answer))

    def watch(self, future: asyncio.Future[Any], on_progress: Callable[[Progress], None]) -> None:
        """Call `on_progress` with each `$/progress` of a request, until it is answered."""
        if isinstance(future, PendingAnswer):
            future.on_progress = on_progress

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
        """Close the connection after what was written; pending requests get DaemonGone with the reason."""
        if self._transport is not None:
            self._flush()
            self._transport.close()
        self.lose(reason)
        self.reason_follows = False
        self._fail_unanswered(reason)

    # --- answering ---

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
        """End the connection: pending requests get DaemonGone, and `on_lost` the reason, once.

        While `reason_follows`, the requests are left to `close`.
        """
        if self._is_lost:
            return
        self._is_lost = True
        self._arrived.clear()
        if not self.reason_follows:
            self._fail_unanswered(reason)
        for work in self._working.values():
            # In the next turn, as for `$/cancel`: its first step has run by then.
            self._loop.call_soon(work.cancel)
        self._working.clear()
        self.jobs.close()
        if self._transport is not None:
            # `close` waits until all is written, which a daemon that does not read would delay for ever.
            self._transport.abort() if self._is_paused else self._transport.close()
        self._on_lost(reason)

    def _fail_unanswered(self, reason: str) -> None:
        waiting = [*self._answers.values(), *self._queued, *self._unsent]
        self._answers.clear()
        self._queued.clear()
        self._unsent.clear()
        for answer in waiting:
            if not answer.done():
                answer.set_exception(DaemonGone(f"the process of {self.name!r} {reason}", plugin=self.name))
                answer.exception()  # so that asyncio does not log it when nobody awaits it
                if answer.on_done is not None:
                    # After the lane and the state of the plugin have changed.
                    self._loop.call_soon(answer.announce)

    # --- in ---

    def resume(self) -> None:
        """Process the messages after the answer to `initialize`, which wait until that has been accepted."""
        self._is_suspended = False
        self._process_arrived()

    def _process_arrived(self) -> None:
        self._is_scheduled = False
        arrived = self._arrived
        for _ in range(min(PORTION, len(arrived))):
            if self._is_suspended or not arrived:  # `lose` empties it
                break
            self._process(arrived.popleft())
        if arrived and not self._is_suspended:
            self._is_scheduled = True
            self._loop.call_soon(self._process_arrived)
        self._update_reading()

    def _update_reading(self) -> None:
        """Read only while no message waits here and the daemon reads its answers."""
        transport = self._transport
        is_wanted = not self._arrived and not self._has_too_much_unread
        if is_wanted is self._is_reading or transport is None or self._is_lost or transport.is_closing():
            return
        self._is_reading = is_wanted
        if is_wanted:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def _process(self, message: Any) -> None:
        try:
            self._dispatch(message)
        except Exception:  # noqa: BLE001 - logged; a bug with one message must not end the connection
            _log.exception("a message of the daemon %r could not be processed", self.name)

    def _dispatch(self, message: Any) -> None:
        cls = message.__class__
        if cls is Request:
            work = self._on_request(self, message)
            if work is not None and not work.done():
                self._working[message.id] = work
        elif cls is Response or cls is ErrorResponse:
            self._settle(message)
        elif cls is Notification:
            self._on_notice(self, message)
        elif cls is Cancel:
            if (work := self._working.pop(message.id, None)) is not None:
                self._loop.call_soon(work.cancel)  # after its first step, so that its `finally` runs and counts it out
        elif cls is Progress:
            answer = self._answers.get(message.id)
            if answer is not None and answer.on_progress is not None:
                answer.on_progress(message)

    def _settle(self, message: Response | ErrorResponse) -> None:
        answer = self._answers.pop(message.id, None)
        self._is_suspended = self._is_suspended or message.method == "initialize"
        if self._queued:
            self._send_queued()
        if answer is None or answer.done():
            return
        if isinstance(message, Response):
            answer.set_result(message.result)
        else:
            answer.set_exception(self._error_of(message))
            answer.exception()  # as above: nobody may await it
        answer.announce()

    def _error_of(self, message: ErrorResponse) -> AllyError:
        """Return the exception for an error answer; of an error in the daemon's code only the type is shown.

        And the grant that would allow what its sandbox has refused, where it names one.
        """
        if message.code != INTERNAL_ERROR:
            return read_error(message.code, message.message, message.data)
        kind = message.data.get("type") if isinstance(message.data, dict) else None
        what = f"{kind:.80}" if isinstance(kind, str) and kind.isidentifier() else "an error"
        grant = _refused_grant(message.data)
        refused = ""
        if grant is not None:
            refused = f": its sandbox has refused what the grant {grant.text!r} would allow ({self.way_to(grant)})"
        elif isinstance(message.data, dict) and message.data.get("lacks") == _SHARED:
            refused = (
                ": its sandbox has no locks and memory that processes share by name (multiprocessing), and no grant "
                f"for them; use threads or subprocess, or run it in none: ally-plugins place {self.name} process"
            )
        text = f"{what} in its {message.method}{refused}; the traceback is in `ally-plugins logs {self.name}`"
        return RemoteCrash(text, plugin=self.name)

    def _take_back(self, answer: PendingAnswer) -> None:
        if self._queued.pop(answer, None) is not None or self._answers.pop(answer.number, None) is None:
            return
        if not self._is_lost:
            self.connection.cancel(answer.number)
            self._schedule_flush()
            self._send_queued()

    # --- out ---

    def _flush_soon(self) -> None:
        # Not `loop.time()`: uvloop's has whole milliseconds, and stands still within a turn.
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
            if self._tap.is_on:
                self._note(data.split(b"\n"), is_sent=True)
            self._unread.wrote(len(data))
            self._written_at = time.monotonic()
            if self._is_paused and transport.get_write_buffer_size() > MOST_WAITING:
                self._has_too_much_unread = True
                self._update_reading()


def _refused_grant(data: Any) -> Grant | None:
    """Return what a daemon says that its sandbox has refused, None for what is no grant that a sandbox holds to."""
    text = data.get("grant") if isinstance(data, dict) else None
    try:
        grant = Grant.parse(text) if isinstance(text, str) else None
    except ConfigError:
        return None
    return grant if grant is not None and grant.kind in BESIDE_THE_HOST else None


def _nothing(_: PendingAnswer) -> None:
    """Do nothing: the request was never sent."""
