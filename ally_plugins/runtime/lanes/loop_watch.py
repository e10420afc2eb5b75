"""A thread that sees when the event loop is held up, which nothing on the loop can, and looks at what runs on it.

It costs the loop four callbacks a second while there is reason to watch, and no hook anything.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from attrs import frozen

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Blocker", "LoopWatch"]

_log: Final = logging.getLogger(__name__)

PATIENCE: Final = 1.0
"""Seconds for which the loop may be held up before that is said."""
PAUSE: Final = 0.25
"""Seconds between two looks."""
SECOND_LOOK: Final = 0.1
"""Seconds after which what is found must still be there: on a busy machine a loop is late with nobody holding it up."""


@frozen
class Blocker:
    """Whose code runs on the loop: the plugin, what of it, and the place in its code."""

    plugin: str
    what: str
    where: str


class LoopWatch:
    """Watches the loop that it is started on, until `close`.

    `is_wanted` says whether anything runs that could hold it up. `find` names the blocker from the loop's stack, None
    when it is nobody's that one can name. `on_blocked` is called in this thread; `on_free` on the loop, with how many
    seconds it was.
    """

    def __init__(
        self,
        *,
        is_wanted: Callable[[], bool],
        find: Callable[[FrameType], Blocker | None],
        on_blocked: Callable[[Blocker], None],
        on_free: Callable[[Blocker, float], None],
    ) -> None:
        self._is_wanted = is_wanted
        self._find = find
        self._on_blocked = on_blocked
        self._on_free = on_free
        self._loop = asyncio.get_running_loop()
        self._loops_thread = threading.get_ident()
        self._news = threading.Condition()
        self._is_closed = False
        self._has_turned = False
        self._thread = threading.Thread(target=self._watch, name="ally-loop-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; waits some milliseconds for it. To be called on the loop."""
        with self._news:
            self._is_closed = True
            self._news.notify()
        self._thread.join()

    def _watch(self) -> None:
        try:
            while not self._waited(PAUSE, lambda: self._is_closed or self._loop.is_closed()):
                if self._is_wanted():
                    self._look()
        except Exception:  # noqa: BLE001 - frames of anybody's code; the host goes on without it
            _log.exception("the watch of the loop failed; this is a fault of ours")

    def _look(self) -> None:
        self._has_turned, began = False, time.monotonic()
        if not self._call_on_loop(self._turn) or self._waited(PATIENCE, self._is_over):
            return
        blocker = self._blocker()
        if blocker is None or self._waited(SECOND_LOOK, self._is_over) or self._blocker() != blocker:
            # Until the loop turns: whatever holds it up now was looked at already.
            self._waited(None, self._is_over)
            return
        self._on_blocked(blocker)
        self._waited(None, self._is_over)
        if self._has_turned:
            self._call_on_loop(self._on_free, blocker, time.monotonic() - began)

    def _call_on_loop(self, function: Callable[..., None], *arguments: object) -> bool:
        """Have the loop call a function; return false when it is closed, whose host was abandoned."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        # asyncio says so of a loop that is closed; to ask before would leave a gap.
        except RuntimeError:
            return False
        return True

    def _blocker(self) -> Blocker | None:
        frame = sys._current_frames().get(self._loops_thread)  # noqa: SLF001 - what Python gives debuggers for this
        return None if frame is None else self._find(frame)

    def _is_over(self) -> bool:
        return self._has_turned or self._is_closed

    def _turn(self) -> None:
        with self._news:
            self._has_turned = True
            self._news.notify()

    def _waited(self, seconds: float | None, is_so: Callable[[], bool]) -> bool:
        with self._news:
            return self._news.wait_for(is_so, seconds)
