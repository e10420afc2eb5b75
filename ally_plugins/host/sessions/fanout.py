"""Wakes the plugins' lanes once for each burst of events, and hands the events to the journal milliseconds later.

The journal gets the events of several bursts together, since a hand-over costs as much as an event. A durable record is
still preceded by every event of its session that was emitted before it: the journal calls `write_before` first. Only a
decision does not wait for the calls that others decide on meanwhile: those stay back until then, for a while, since a
gate may say that what they hold is not to be kept.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.events import Event, UserMessage
from ally_plugins.journal.values import DECISION

if TYPE_CHECKING:
    from ally_plugins.journal.entries import Item
    from ally_plugins.runtime.lanes.protocol import AnyLane

    from .session import Session

__all__ = ["FanOut"]

_log: Final = logging.getLogger(__name__)

WRITE_AFTER: Final = 0.02
"""Seconds that events wait for others before they are handed to the journal, which then waits for the disk."""

WRITE_AT: Final = 512
"""Events of one session that are given to the journal at once: the ring holds sixteen times as many."""


def _everybody(_: Session) -> bool:
    return True


def _nobody(_: Session) -> bool:
    return False


class FanOut:
    """The fan-out of one host; belongs to the loop that makes it, from the host's start to its end.

    `lanes` returns those that are open; `on_work` is called when one of them has something to do (it arms the
    watchdog), `on_written` when the journal was given events. While `is_read` is true somebody reads the journal as it
    grows (a durable subscription), and events do not wait for others.
    """

    def __init__(
        self,
        lanes: Callable[[], Iterable[AnyLane]],
        *,
        on_work: Callable[[], object],
        on_written: Callable[[], object],
        is_read: Callable[[], bool],
    ) -> None:
        self._lanes = lanes
        self._on_work = on_work
        self._on_written = on_written
        self._is_read = is_read
        self._loop: Final = asyncio.get_running_loop()
        self._thread: Final = threading.get_ident()
        self._unwritten: dict[Session, None] = {}
        self._unheard: dict[Session, None] = {}
        """What has emitted events that no lane had to be woken for, since the timer last struck."""
        self._wanted: frozenset[type[Event]] | None = None
        """What hooks of open lanes take, for until the timer strikes next; a lane that opens meanwhile looks then."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def wake(self, session: Session, kind: type[Event] | None = None) -> None:
        """Carry what a session has emitted, in the loop's next turn; may be called from any thread.

        An event of a `kind` that no hook takes waits for the timer: the journal wants it then, and nobody before.
        """
        try:
            if threading.get_ident() == self._thread:
                self._unwritten[session] = None  # a durable record may be written before the next turn
                if self._timer is not None and kind is not None and not self._is_wanted(session, kind):
                    self._unheard[session] = None
                    session.unheard.add(kind)
                    return
                session.is_wake_pending = True
                # `call_soon_threadsafe` would wake the loop by a byte on a socket, and it is awake: it runs this.
                self._loop.call_soon(self._carry, session)
            else:
                session.is_wake_pending = True
                self._loop.call_soon_threadsafe(self._carry, session)
        except RuntimeError:  # the loop is closed, and the host with it
            _log.debug("session %r was emitted to after its loop was closed", session.id)

    def _is_wanted(self, session: Session, kind: type[Event]) -> bool:
        if self._wanted is None:
            # What the person says ends the chains of plugins, in every lane.
            self._wanted = frozenset((UserMessage,)).union(*[lane.observers.types for lane in self._lanes()])
        return kind in self._wanted or session.is_crowded or self._is_read()

    def _carry(self, session: Session) -> None:
        if self._is_closed:
            return
        session.clear_pending_wake()  # first: an event that is emitted from here on wakes again
        self._unwritten[session] = None
        if session.recording.unwritten >= WRITE_AT or self._is_read():
            self.write()
        self._arm()
        self._notify_lanes(session)

    def _notify_lanes(self, session: Session) -> None:
        is_work = False
        for lane in self._lanes():
            try:
                is_work = lane.notify(session.id) or is_work
            except Exception:  # noqa: BLE001 - a bug of ours; the other lanes still get the events
                _log.exception("the lane of %r failed on events of session %r", lane.plugin, session.id)
        if is_work:
            self._on_work()

    def _arm(self) -> None:
        # It is not cancelled when a record brings the events to the journal before: one that strikes in vain costs less
        # than another one for each decision.
        if self._timer is None:
            self._timer = self._loop.call_later(WRITE_AFTER, self._strike)

    def _strike(self) -> None:
        self._timer = self._wanted = None
        self._write(_nobody)
        unheard, self._unheard = self._unheard, {}
        for session in unheard:  # so that no lane lags behind, and the ring can let go of them
            session.clear_pending_wake()
            self._notify_lanes(session)

    def write(self) -> None:
        """Hand the journal what was emitted so far; on another thread than the loop's it does nothing."""
        self._write(_everybody)

    def write_before(self, item: Item) -> None:
        """Hand the journal what is to come before something durable, None for all of it; as `write` otherwise."""
        if not self._unwritten:  # so for most messages, of which there may be many at once
            return
        if item is None:
            self._write(_everybody)
        elif type(item) is tuple and item[1] != DECISION:
            # Its cause, which has to be on disk before it, may be an undecided call of its own session.
            self._write(lambda session: session.id == item[3])
        else:
            self._write(_nobody)

    def _write(self, is_whole: Callable[[Session], bool]) -> None:
        """Hand over what was emitted, of some sessions the calls that are being decided on, too."""
        if threading.get_ident() != self._thread:
            return
        if self._unwritten:
            sessions, self._unwritten = self._unwritten, {}
            for session in sessions:
                session.clear_pending_wake()
                try:
                    if not session.recording.write(is_whole=is_whole(session)):
                        self._unwritten[session] = None
                except Exception:  # noqa: BLE001 - a bug of ours; the caller only wants its own record written
                    _log.exception("events of session %r could not be written down", session.id)
            self._on_written()
        if self._unwritten:
            self._arm()

    def close(self) -> None:
        """Hand over the last events, and carry no more: the journal is closed next."""
        self.write()
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    def forget(self, session: Session) -> None:
        """Hand over the last events of a session that is closed."""
        self._unwritten[session] = None
        self.write()
