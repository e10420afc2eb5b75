"""Carries what sessions emit to the plugins' lanes, once a burst, and to the journal, some milliseconds later.

Lanes are told at once. The journal is given the events of several bursts together, since each hand-over costs as much
as an event; but whatever is durable is preceded by what was emitted before it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ally_plugins.runtime.lanes.protocol import AnyLane

    from .session import Session

__all__ = ["FanOut"]

_log: Final = logging.getLogger(__name__)

WRITE_AFTER: Final = 0.02
"""Seconds that events wait for others before the journal is given them; its own wait for the disk comes on top."""

WRITE_AT: Final = 512
"""Events of one session that are given to the journal at once: the ring holds sixteen times as many."""


class FanOut:
    """Belongs to the loop that makes it, from the host's start to its end.

    `lanes` are those that are open; `on_work` is called when one of them has something to do, `on_written` when the
    journal was given events. While `is_read` says that somebody reads the journal as it grows, events do not wait.
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
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def wake(self, session: Session) -> None:
        """Say that a session has emitted; may be called from any thread."""
        try:
            if threading.get_ident() == self._thread:
                self._unwritten[session] = None  # something durable may come before the loop's next turn
                self._loop.call_soon(self._carry, session)
            else:
                self._loop.call_soon_threadsafe(self._carry, session)
        except RuntimeError:  # the loop is closed: nobody listens any more
            _log.debug("session %r was emitted to after its loop was closed", session.id)

    def _carry(self, session: Session) -> None:
        if self._is_closed:
            return
        session.pumped()
        self._unwritten[session] = None
        if session.unwritten >= WRITE_AT or self._is_read():
            self.write()
        elif self._timer is None:
            self._timer = self._loop.call_later(WRITE_AFTER, self.write)
        is_work = False
        for lane in self._lanes():
            try:
                is_work = lane.tell(session.id) or is_work
            except Exception:  # noqa: BLE001 - a fault of ours; what one lane cannot take, the others get
                _log.exception("the lane of %r failed on events of session %r", lane.plugin, session.id)
        if is_work:
            self._on_work()

    def write(self) -> None:
        """Give the journal what was emitted so far; from another thread than the loop's, nothing is done."""
        if threading.get_ident() != self._thread:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unwritten:
            sessions, self._unwritten = self._unwritten, {}
            for session in sessions:
                session.pumped()
                try:
                    session.write_down()
                except Exception:  # noqa: BLE001 - a fault of ours; whoever waits for the journal is not to blame
                    _log.exception("events of session %r could not be written down", session.id)
            self._on_written()

    def close(self) -> None:
        """Write the last, and carry nothing more: the journal is about to be closed."""
        self.write()
        self._is_closed = True

    def forget(self, session: Session) -> None:
        """Write the last of a session that is closed."""
        self._unwritten[session] = None
        self.write()
