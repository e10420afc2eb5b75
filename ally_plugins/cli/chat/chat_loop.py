"""The loop of a chat: reads the person's messages, runs turns and shows events. Questions are in `dialogue`."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Final

from ally_plugins.cli.shell.signals import signals_handled
from ally_plugins.cli.shell.text import inert
from ally_plugins.contract.values import events
from ally_plugins.contract.values.compat import override

from .event_lines import history_line
from .person_input import Leave, Stopped, Woken
from .plugin_commands import switch
from .slash_commands import run_slash

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event
    from ally_plugins.host.host import Host

    from .dialogue import Dialogue
    from .opened_chat import OpenedChat
    from .screen import Screen
    from .turns import Turn

__all__ = ["Chat", "ScreenLog"]

_SHOWN_OF_OLD: Final = 6
"""Messages of a resumed session that are shown: enough to know where one was."""


_HELD: Final = {"whole": "the answer", "sentence": "each sentence of the answer"}


class Chat:
    """One chat at one terminal. It lives from `run`'s beginning to its end."""

    def __init__(self, dialogue: Dialogue) -> None:
        self._dialogue: Final = dialogue
        self._screen: Final = dialogue.screen
        self._input: Final = dialogue.input
        self._wants_to_leave = False
        self._turning: asyncio.Future[Turn] | None = None
        self._presses = 0
        self._has_said_held = False
        self._thread: Final = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None

    def listen(self, host: Host) -> None:
        """Show the events of the host's sessions from now on. Call it on the running loop, before the host starts."""
        self._loop = asyncio.get_running_loop()
        host.stream.subscribe("*", self._receive)

    async def run(self, opened: OpenedChat) -> None:
        """Read messages and run turns until the person leaves.

        Cancelling it cancels the turn that runs and leaves the terminal in order. Raises ConfigError for a history file
        that cannot be used.
        """
        self._dialogue.begin(opened)
        if opened.is_resumed:
            self._show_old()
        async with self._input.open():
            with self._interruptible():
                await self._read_and_run(opened)

    async def _read_and_run(self, opened: OpenedChat) -> None:
        while not self._dialogue.is_left:
            try:
                text = await self._input.read(opened.turns.wait_for_wake())
            except Woken:
                await self._turn(None)
            except Stopped as stopped:
                self._stopped(stopped)
            except Leave:
                await self._last_turn()
                return
            else:
                await self._take(text)

    def _show_old(self) -> None:
        self._screen.show(history_line(who, text) for who, text in self._dialogue.opened.turns.recent(_SHOWN_OF_OLD))

    def _stopped(self, stopped: Stopped) -> None:
        if not stopped.was_empty:
            self._wants_to_leave = False
            return
        if self._wants_to_leave:
            self._dialogue.leave()
            return
        self._wants_to_leave = True
        self._screen.note("Ctrl-C once more leaves, and so does Ctrl-D")

    async def _last_turn(self) -> None:
        """Let a plugin that has woken the agent have its turn, where the input has ended."""
        if not self._input.is_terminal and self._dialogue.opened.session.triggered.is_set():
            await self._turn(None)

    async def _take(self, text: str) -> None:
        self._wants_to_leave = False
        if not text.strip():
            return
        if not self._input.is_terminal:
            self._screen.show([f"> {inert(line)}" for line in text.splitlines()])
        if text.lstrip().startswith("/"):
            await run_slash(self._dialogue, text.strip())
        elif not switch(self._dialogue, text):
            await self._turn(text)

    # --- turns ---

    async def _turn(self, prompt: str | None) -> None:
        """Run a turn; Ctrl-C stops it, and the chat goes on."""
        turns = self._dialogue.opened.turns
        # A task of its own, so that Ctrl-C can cancel the turn without the loop around it.
        self._turning, self._presses = asyncio.ensure_future(turns.run(prompt)), 0
        self._has_said_held = False
        try:
            turn = await self._turning
        except asyncio.CancelledError:
            program = asyncio.current_task()
            if program is not None and program.cancelling():  # the whole chat is cancelled, not only the turn
                self._turning.cancel()  # which the cancellation has not reached where it came before the `await`
                raise
            self._screen.note("stopped")
            return
        finally:
            self._turning = None
        self._end(turn)

    def _end(self, turn: Turn) -> None:
        self._screen.end_stream()
        if turn.ending == "interrupted":
            self._screen.note("stopped")
        elif turn.ending in {"refused", "failed"}:
            self._screen.error(turn.reason)

    def _interruptible(self) -> AbstractContextManager[None]:
        """Have Ctrl-C interrupt the turn, and the second one cancel it; it never ends the program at a terminal.

        At the prompt it is a key, which the line editor reads. Over a pipe it ends the program between turns.
        """
        program = asyncio.current_task()
        return signals_handled(lambda _: self._pressed(program), signal.SIGINT)

    def _pressed(self, program: asyncio.Task[None] | None) -> None:
        self._presses += 1
        if self._turning is not None:
            # An interrupt lets tools and hooks end in order; who presses again does not want to wait for that.
            if self._presses > 1 or not self._dialogue.interrupt():
                self._turning.cancel()
        elif not self._input.is_terminal and program is not None:
            program.cancel()

    # --- showing ---

    def _receive(self, event: Event) -> None:
        """Show an event; they may come from any thread."""
        if threading.get_ident() == self._thread:
            self._show(event)
        elif self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._show, event)

    def _show(self, event: Event) -> None:
        if (id_ := _plugin_thing(event)) is not None:
            self._dialogue.last_of_plugin = id_
        self._screen.event(event)
        if isinstance(event, events.UserMessage):
            self._input.keep(event.content)
        # With the request, when the wait begins; of a sub-agent's answer no word streams anyway.
        if isinstance(event, events.ModelRequest) and event.parent_id is None and not self._has_said_held:
            self._say_held()

    def _say_held(self) -> None:
        """Say once a turn why no word of the answer streams, where plugins look at it first."""
        hold = self._dialogue.opened.session.answer_hold
        if hold is not None:
            self._has_said_held = True
            self._screen.note(f"plugins look at {_HELD[hold]} before you see it")


def _plugin_thing(event: Event) -> str | None:
    """Return the id by which `explain` finds what a plugin did, None for events that no plugin caused."""
    if isinstance(event, events.Decision):
        return event.decision_id if event.decided_by else None
    if isinstance(event, events.PluginMessageReceived):
        return str(event.message.get("id"))
    if isinstance(event, events.TaskProgress):
        return event.task_id
    if isinstance(event, events.PluginEvent):
        return event.id
    return None


class ScreenLog(logging.Handler):
    """Shows the package's log as lines of the chat: written to stderr they would overwrite the prompt.

    To be made on the running loop, whose thread prints.
    """

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen
        self._loop = asyncio.get_running_loop()

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Show a record as one line; may be called from any thread."""
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        with suppress(RuntimeError):
            # Never at once, even on the loop's own thread: a record may be made while a line is being printed.
            self._loop.call_soon_threadsafe(self._screen.note, text)
