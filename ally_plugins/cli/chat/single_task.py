"""One task without a person: its events are passed on, and its ending becomes an exit code."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

from ally_plugins.cli.shell.exits import DONE, FAILED, INTERRUPTED, REFUSED
from ally_plugins.cli.shell.signals import ENDS, signals_handled
from ally_plugins.contract.values import events

from .turns import Turn

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event
    from ally_plugins.host.host import Host

    from .opened_chat import OpenedChat

__all__ = ["CODES", "SingleTask"]

T = TypeVar("T")

CODES: Final = {"done": DONE, "refused": REFUSED, "failed": FAILED, "interrupted": INTERRUPTED}
"""The exit code of each ending; `done` with a refusal on the way is `refused` too."""

_NOBODY_READS: Final = "whoever read the output has gone"
_WAKES: Final = 8
"""Turns that plugins may start after the task's own: as many as a chain of plugins may have links."""


class SingleTask:
    """One run. `show_event` and `show_text` get each event and piece of text as it comes, in the loop's thread.

    When one raises BrokenPipeError, neither is called again, and the turn is interrupted: nobody reads its output.
    """

    def __init__(self, show_event: Callable[[Event], None], show_text: Callable[[str], None]) -> None:
        self._show_event: Final = show_event
        self._show_text: Final = show_text
        self.is_cut = False
        """Whether whoever read the output has gone."""
        self._interrupt: Callable[[str], object] = lambda _: None
        self._thread: Final = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.refusals: Final[list[str]] = []
        """The denied calls of the agent, each with the reason."""

    def listen(self, host: Host) -> None:
        """Receive the events of the host's sessions. To be called on the running loop, before the host starts."""
        self._loop = asyncio.get_running_loop()
        host.stream.subscribe("*", self._receive)

    async def run(self, opened: OpenedChat, task: str) -> Turn:
        """Run the task, and turns that plugins trigger right after it; return the last turn.

        Ctrl-C, SIGTERM and SIGHUP interrupt the turn, which is then the result. Cancelling stops turn and tools.
        """
        with self._interruptible(opened):
            if self.is_cut:  # by an event of the host's start: the callback that interrupts was not set yet
                return Turn("interrupted", reason=_NOBODY_READS)
            turn = await opened.turns.run(task)
            for _ in range(_WAKES):
                if turn.ending != "done" or not opened.session.triggered.is_set():
                    break
                turn = await opened.turns.run(None)
        # The model may end well after it was refused something; a script has to learn that not all was done.
        if turn.ending == "done" and self.refusals:
            return Turn("refused", text=turn.text, reason=self.refusals[0])
        return turn

    @contextmanager
    def _interruptible(self, opened: OpenedChat) -> Generator[None]:
        """Have Ctrl-C, and the end of the terminal or of the output's reader, stop the agent and its tools."""

        def stop(why: str) -> None:
            opened.plugins.interrupt(opened.session.id, why)
            opened.turns.interrupt()

        self._interrupt = stop
        with signals_handled(lambda number: stop(f"the program got {number.name}"), signal.SIGINT, *ENDS):
            yield

    def _receive(self, event: Event) -> None:
        if threading.get_ident() == self._thread:
            self._take(event)
        elif self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._take, event)

    def _take(self, event: Event) -> None:
        if (why := _refusal(event)) is not None:
            self.refusals.append(why)
        self._show(self._show_event, event)

    def show_text(self, text: str) -> None:
        """Show a piece of the model's text."""
        self._show(self._show_text, text)

    def _show(self, show: Callable[[T], None], what: T) -> None:
        if self.is_cut:
            return
        try:
            show(what)
        except BrokenPipeError:
            self.is_cut = True
            self._interrupt(_NOBODY_READS)


def _refusal(event: Event) -> str | None:
    """Return what an event denied to the agent, None otherwise; refusals to plugins are not the agent's."""
    if isinstance(event, events.Decision) and event.verdict == "deny" and event.kind in {"tool_call", "permission"}:
        return f"{event.subject}: {event.reason}"
    if isinstance(event, events.PermissionResponse) and event.choice == "deny":
        return f"permission {event.request_id} was denied"
    return None
