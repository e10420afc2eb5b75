"""The link to a daemon that listens on a Unix socket: a new connection for every message.

Starting the daemon, and deciding when it has failed, is left to the supervisor; whether a path may be used to `claims`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from attrs import define, field

from ally_plugins.contract.process_spec import Timing
from ally_plugins.contract.values.errors import EncodeError, PluginError, ToolCallError
from ally_plugins.contract.values.events import Event, EventsDropped
from ally_plugins.journal.process_identity import is_stopped
from ally_plugins.runtime.lanes.link import DaemonGone, NotSent
from ally_plugins.runtime.lanes.teardown import cancel_task
from ally_plugins.runtime.processes.unixsocket import other_end

from .messages import ArrivingAnswer, beginning, call_message, event_message, read_answer

__all__ = ["LinkCounts", "SocketLink", "connect"]

_log: Final = logging.getLogger(__name__)

_TIMING: Final = Timing()
CALL_TIMEOUT: Final = 30.0  # seconds for one call of a daemon's method; Code-Ally's number, as are the next two
NOTIFICATION_TIMEOUT: Final = 5.0  # seconds for one event, from connect until it is written
MAX_RESPONSE: Final = 10 * 1024 * 1024  # bytes of one answer

QUEUE: Final = 1024
"""Events that wait for one daemon; the oldest are dropped. Its lane stops at half of it, so that few ever are."""

_FIRST_WAIT, _LONGEST_WAIT = 0.005, 0.1  # seconds between two attempts to connect
_CHUNK: Final = 64 * 1024  # bytes that are looked at before others have a turn


async def connect(path: str) -> socket.socket:
    """Return a connection to the listener at `path`; the caller bounds the time and closes it.

    Raises OSError when there is none, and PermissionError when it belongs to another user. Cancelling closes the
    socket.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # noqa: FBT003 - takes no name
        await _connect(sock, path)
        _check_peer(sock, path)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(sock: socket.socket, path: str) -> None:
    # Not `loop.sock_connect`: where the queue of a listener is full, Linux says EAGAIN, which asyncio takes for
    # "in progress" and then for connected.
    wait = _FIRST_WAIT
    while True:
        try:
            sock.connect(path)
        except BlockingIOError:
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        else:
            return


def _check_peer(sock: socket.socket, path: str) -> None:
    """Refuse a listener of another user: in a shared directory one could listen before the daemon does."""
    found = other_end(sock)
    if found is not None and found.uid != os.geteuid():
        raise PermissionError(f"what listens on {path!r} belongs to another user ({found.uid})")


@define
class LinkCounts:
    """Counts of events for one daemon: `lost` were not accepted or read in time, `dropped` did not fit the queue."""

    sent: int = 0
    lost: int = 0
    dropped: int = 0
    skipped: int = 0
    """Events that came while the daemon was not running."""


@define(eq=False)
class SocketLink:
    """The way to one process of a daemon; it lives as long as that process. Only for the loop's thread.

    `is_running` says whether the process is; `on_writable` is called when `can_write` has become true again.
    """

    plugin: str
    path: str
    is_running: Callable[[], bool] = lambda: True
    notification_timeout: float = NOTIFICATION_TIMEOUT
    health_timeout: float = _TIMING.ping_timeout
    max_response: int = MAX_RESPONSE
    on_writable: Callable[[], None] = lambda: None
    counts: LinkCounts = field(init=False, factory=LinkCounts)
    _queue: deque[Event] = field(init=False, factory=deque)
    _worker: asyncio.Task[None] | None = field(init=False, default=None)
    _tasks: set[asyncio.Task[Any]] = field(init=False, factory=set)
    _number: int = field(init=False, default=0)
    _is_closed: bool = field(init=False, default=False)
    _hangs_up: bool = field(init=False, default=True)
    _drained: int = field(init=False, default=0)

    takes_lines = False

    # --- calls ---

    async def call(self, method: str, params: Mapping[str, Any], timeout: float = CALL_TIMEOUT) -> Any:
        """Call a method of the daemon's own within `timeout` seconds, and return its frozen result.

        Raises ToolCallError, whose text may be shown to the model, and NotSent for params that JSON cannot say.
        Cancelling closes the connection.
        """
        self._number += 1
        number, answer = self._number, ArrivingAnswer()
        try:
            message = call_message(number, method, params)
        except EncodeError as error:
            raise NotSent(f"{method!r} was not sent to {self.plugin!r}: {error}", plugin=self.plugin) from None
        try:
            async with asyncio.timeout(timeout):
                await self._exchange(message, answer)
        except TimeoutError:
            begun = f" to its end: {beginning(answer.data)}" if answer.data else ""
            raise self._failed(method, f"did not answer within {timeout:g} s{begun}") from None
        except OSError as error:
            raise self._failed(method, f"cannot be reached on {self.path!r}: {error.strerror or error}") from None
        if len(answer.data) > self.max_response:
            raise self._failed(method, f"answered with more than {self.max_response} bytes")
        return read_answer(bytes(answer.data), number, method=method, plugin=self.plugin)

    def _failed(self, method: str, text: str) -> ToolCallError:
        return ToolCallError(f"{method!r} of {self.plugin!r} {text}", tool=method, plugin=self.plugin)

    async def _exchange(self, message: bytes, answer: ArrivingAnswer) -> None:
        """Send a message and read its answer: to its end, that of the connection, or over the limit.

        A daemon that has heard enough may answer and close: writing fails then, and its answer is there all the same.
        """
        loop, broken = asyncio.get_running_loop(), None
        async with _connection(self.path) as sock:
            try:
                await loop.sock_sendall(sock, message)
            except ConnectionError as error:
                broken = error
            try:
                while len(answer.data) <= self.max_response and (data := await loop.sock_recv(sock, _CHUNK)):
                    if answer.receive_data(data):
                        return
            except ConnectionError as error:
                broken = error
        if broken is not None and not answer.data:
            raise broken

    def request(self, method: str, params: Mapping[str, Any]) -> asyncio.Future[Any]:  # noqa: ARG002 - any link's
        """Answer the requests of any link by Code-Ally's means, for a daemon that does not speak our protocol.

        `ping` is a connection; `drain` waits for the events before it; `start` and `shutdown` need nothing.
        Anything else fails with PluginError: a daemon that should get more requests has to talk back.
        """
        answers: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "ping": self.ping,
            "drain": self.drain,
            "start": _nothing,
            "shutdown": _nothing,
        }
        if self._is_closed:
            return _failing(DaemonGone(f"the daemon {self.plugin!r} is gone", plugin=self.plugin))
        if method not in answers:
            text = f"the daemon {self.plugin!r} only listens; it cannot be asked for {method!r}"
            return _failing(PluginError(text, plugin=self.plugin))
        return self._start(answers[method]())

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=f"ally-socket-{self.plugin}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- health ---

    async def wait_ready(
        self, timeout: float = _TIMING.startup_timeout, exited: asyncio.Future[Any] | None = None
    ) -> None:
        """Wait until the daemon's socket accepts, `timeout` seconds at most.

        Raises DaemonGone when `exited` is done first, and PluginError when the time is up or another user listens.
        Cancelling stops the waiting.
        """
        polling = asyncio.get_running_loop().create_task(self._poll())
        waiting: set[asyncio.Future[Any]] = {polling} if exited is None else {polling, exited}
        try:
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_task(polling)
        if exited is not None and exited.done():
            raise DaemonGone(f"{self.plugin!r} exited before it listened on {self.path!r}", plugin=self.plugin)
        if polling.cancelled():
            text = f"{self.plugin!r} did not listen on {self.path!r} within {timeout:g} s"
            raise PluginError(f"{text}; its socket is named by the variable SOCKET_PATH", plugin=self.plugin)
        polling.result()

    async def _poll(self) -> None:
        wait = _FIRST_WAIT
        while True:
            try:
                (await connect(self.path)).close()
            except PermissionError as error:
                raise PluginError(str(error), plugin=self.plugin) from None
            except OSError:
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                return

    async def ping(self) -> str:
        """Return "pong" when the daemon accepts a connection within its health timeout. Raises PluginError when not.

        Code-Ally checks no more: a daemon may be busy for longer. But the kernel accepts connections for a stopped
        process (SIGSTOP) too, so a stopped one is not healthy. Cancelling closes the connection.
        """
        problem = f"{self.plugin!r} took no connection within {self.health_timeout:g} s"
        with suppress(TimeoutError):
            async with asyncio.timeout(self.health_timeout):
                while found := await self._health_problem():
                    problem = found
                    await asyncio.sleep(_LONGEST_WAIT)
                return "pong"
        raise PluginError(problem, plugin=self.plugin)

    async def _health_problem(self) -> str:
        try:
            async with _connection(self.path) as sock:
                found = other_end(sock)
        except OSError as error:
            return f"{self.plugin!r} cannot be reached on {self.path!r}: {error.strerror or error}"
        if found is not None and is_stopped(found.pid):
            return f"{self.plugin!r} is stopped: its process {found.pid} got SIGSTOP"
        return ""

    # --- events ---

    @property
    def can_write(self) -> bool:
        """Whether more events may be given; false while half of the queue is full."""
        return len(self._queue) < QUEUE // 2

    def write(self, lines: bytes) -> None:
        """Refuse: this link takes events."""
        raise TypeError(f"a socket link takes events, found {len(lines)} bytes")

    def write_events(self, events: Sequence[Event]) -> None:
        """Queue events, which a task sends in order. Never waits, never fails.

        Events for a daemon that is not running are skipped. Dropped ones are counted and not announced: Code-Ally's
        daemons have no EVENTS_DROPPED.
        """
        wanted = [event for event in events if not isinstance(event, EventsDropped)]
        if self._is_closed or not self.is_running():
            # Not queued for the next process: it begins with what happens then.
            self.counts.skipped += len(wanted)
            return
        self._queue.extend(wanted)
        while len(self._queue) > QUEUE:
            self._queue.popleft()
            self.counts.dropped += 1
        if self._worker is None and self._queue:
            self._worker = self._start(self._send_all())

    async def drain(self) -> None:
        """Wait until the events written before are sent or lost, and handled where that can be seen.

        A daemon that serves one connection after the other closes an empty one only after those before it. One that
        does not close it within the time for one event is not waited for again. Cancelling stops the waiting.
        """
        if self._worker is not None:
            await asyncio.wait([self._worker])
        sent = self.counts.sent
        if sent > self._drained and self._hangs_up:
            self._hangs_up = await self._wait_for_hang_up()
        self._drained = max(self._drained, sent)

    async def _wait_for_hang_up(self) -> bool:
        """Say whether the daemon closed a connection without a message."""
        try:
            async with asyncio.timeout(self.notification_timeout), _connection(self.path) as sock:
                # It reads the end of its input when its turn comes, and need not wait for a message.
                sock.shutdown(socket.SHUT_WR)
                while await asyncio.get_running_loop().sock_recv(sock, _CHUNK):
                    pass
        except TimeoutError:
            return False
        except OSError:  # it reset the connection, or ends: there is nothing more to wait for
            pass
        return True

    async def _send_all(self) -> None:
        try:
            while self._queue:
                was_full = not self.can_write
                await self._send(self._queue.popleft())
                # Once, at the change: the lane is woken by it.
                if was_full and self.can_write:
                    self.on_writable()
        finally:
            self._worker = None

    async def _send(self, event: Event) -> None:
        try:
            message = event_message(event)
        except EncodeError:  # logged by the session, which cannot journal it either
            self.counts.dropped += 1
            return
        try:
            async with asyncio.timeout(self.notification_timeout), _connection(self.path) as sock:
                await asyncio.get_running_loop().sock_sendall(sock, message)
        except (OSError, TimeoutError) as error:
            self.counts.lost += 1
            _log.debug("an event for the daemon %r is lost (%s)", self.plugin, type(error).__name__)
        else:
            self.counts.sent += 1

    # --- end ---

    def close(self, reason: str = "was closed") -> None:
        """Send nothing any more; pings, drains and what is queued are cancelled. `reason` is not used."""
        del reason
        self._is_closed = True
        self.counts.dropped += len(self._queue)
        self._queue.clear()
        for task in list(self._tasks):
            task.cancel()


@asynccontextmanager
async def _connection(path: str) -> AsyncGenerator[socket.socket]:
    sock = await connect(path)
    try:
        yield sock
    finally:
        sock.close()


async def _nothing() -> None:
    """Succeed: such a daemon has no such step."""


def _failing(error: Exception) -> asyncio.Future[Any]:
    future = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    future.exception()  # else asyncio logs it when nobody awaits it
    return future
